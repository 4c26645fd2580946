"""What a run costs, kept in the turn's folder while it works and when it ends, however it ends; others count it.

The agent has no rights in the table. While a run goes on, its cost is reckoned from the tokens of its requests, by the
prices of `models.toml`; the CLI's own figure takes its place when the run has one (a CLI that died has none, and of
subagents it alone knows). The record is written with each request, so a container that dies loses little of it.
"""

from __future__ import annotations

import threading
import uuid
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions.common.models import Usage, known
from functions.common.observability import logger
from functions.common.snapshots import RunCost, Snapshots, costs_prefix


class Spending:
    """The record of one run. A record that cannot be written is no failure of the turn."""

    def __init__(self, snapshots: Snapshots, session_id: str, turn_id: str, model: str) -> None:
        self._snapshots = snapshots
        self._run = uuid.uuid4().hex[:12]
        self._key = f"{costs_prefix(session_id, turn_id)}{self._run}.json"
        self._model = model
        self._writing = threading.Lock()
        self._kept = 0.0
        self._request: tuple[str, dict[str, Any]] = ("", {})
        self._requests_usd = 0.0
        self.cost_usd = 0.0
        """What the run has cost so far, in US dollars."""

    def hear(self, event: dict[str, Any]) -> None:
        """One event of the model's stream: a request begins with the tokens of its prompt, and ends with all."""
        if event["type"] == "message_start":
            message = event["message"]
            self._request = (str(message.get("model", self._model)), dict(message.get("usage") or {}))
            self._requests_usd += self._reckoned()
        elif event["type"] == "message_delta" and event.get("usage"):
            self._requests_usd -= self._reckoned()
            told = {name: value for name, value in event["usage"].items() if value is not None}
            self._request[1].update(told)
            self._requests_usd += self._reckoned()
        self.cost_usd = max(self.cost_usd, self._requests_usd)
        if event["type"] in ("message_start", "message_delta"):
            threading.Thread(target=self.keep, daemon=True).start()  # the stream does not wait for S3

    def told(self, cost_usd: float) -> None:
        """The CLI's own figure, at the end of the run."""
        self.cost_usd = cost_usd

    def keep(self) -> None:
        """Write the record, when there is something new in it. From any thread."""
        with self._writing:
            cost = round(self.cost_usd, 6)
            if cost == self._kept:
                return
            try:
                self._snapshots.write(self._key, RunCost(run=self._run, model=self._model, cost_usd=cost))
            except (ClientError, BotoCoreError) as error:
                logger.error("the record of costs is not written", cost_usd=cost, cause=str(error))
                return
            self._kept = cost

    def _reckoned(self) -> float:
        model, usage = self._request
        return known().cost(model, Usage.model_validate(usage))
