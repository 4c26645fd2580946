"""The documentation's pictures of the definitions, drawn by the console page's own code: `make docs` writes them.

They need Chromium, as the browser tests do, which also see that the pictures are current.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask import Flask, send_from_directory
from playwright.sync_api import Browser, Page, sync_playwright

from docs import house
from stepgram.console.server import PAGE
from stepgram.server import Server

ROOT = Path(__file__).resolve().parents[1]
MACHINES = ("turn", "intake")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    """Debian's Chromium (or another one on the path), headless, with further `flags`."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "this needs Chromium (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield browser
        browser.close()


def draw(page: Page, definition: str) -> str:
    """The SVG that the console page, open in `page`, draws of a definition."""
    svg: str = page.evaluate("async text => (await import('./graph.js')).draw(text)", definition)
    return svg


def drawn(page: Page, machine: str) -> str:
    """The picture of one of our definitions, as its file has it."""
    return draw(page, (ROOT / "statemachine" / f"{machine}.asl.json").read_text(encoding="utf-8")) + "\n"


def main() -> None:
    """Write the pictures."""
    (ROOT / "docs" / "house.svg").write_text(house.draw(), encoding="utf-8")
    app = Flask("pictures", static_folder=None)
    app.add_url_rule("/<name>", "file", view_func=lambda name: send_from_directory(PAGE, name))
    app.add_url_rule("/", "page", view_func=lambda: '<script src="dagre.min.js"></script>')
    server = Server(app)
    with chromium() as browser:
        page = browser.new_page()
        page.goto(server.url)
        for machine in MACHINES:
            (ROOT / "docs" / f"{machine}.svg").write_text(drawn(page, machine), encoding="utf-8")
    server.stop()


if __name__ == "__main__":
    main()
