"""A figure: its samples, their median and spread."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """Samples of one thing in one unit."""

    name: str
    unit: str
    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def document(self) -> dict[str, Any]:
        """The JSON object."""
        return {
            "name": self.name,
            "unit": self.unit,
            "runs": len(self.samples),
            "median": round(self.median, 3),
            "min": round(min(self.samples), 3),
            "max": round(max(self.samples), 3),
        }


def show(title: str, figures: list[Figure]) -> None:
    """Print the figures as a table, then as one line of JSON."""
    table = Table("What", "Median", "Min", "Max", "Unit", "Runs", title=title, box=None, title_justify="left")
    for figure in figures:
        row = figure.document()
        numbers = (f"{row[key]:,.1f}" for key in ("median", "min", "max"))
        table.add_row(figure.name, *numbers, figure.unit, str(row["runs"]))
    Console(width=110).print(table)
    print(json.dumps({"title": title, "figures": [figure.document() for figure in figures]}))
