"""What a run costs, kept in the turn's folder while it works and when it ends, however it ends; others count it.

The agent has no rights in the table. The record of a run is written again when its cost has grown, so that a run whose
container dies loses seconds of it.
"""

from __future__ import annotations

import threading
import uuid

from botocore.exceptions import BotoCoreError, ClientError

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
        self.cost_usd = 0.0
        """What the run has cost so far; whoever hears of it says so."""

    def keep(self) -> None:
        """Write the record, when there is something new in it. From any thread."""
        with self._writing:
            cost = round(self.cost_usd, 6)
            if cost <= self._kept:
                return
            try:
                self._snapshots.write(self._key, RunCost(run=self._run, model=self._model, cost_usd=cost))
            except (ClientError, BotoCoreError) as error:
                logger.error("the record of costs is not written", cost_usd=cost, cause=str(error))
                return
            self._kept = cost
