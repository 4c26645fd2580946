"""What a run costs, kept in the turn's folder while it works and when it ends, however it ends; others count it.

The agent has no rights in the table. The endpoint (`endpoint.py`) reckons each request by the tokens its answer tells
and the prices of `models.toml`, those of subagents and of processes the agent started, too. The record is written with
each request, so a container that dies loses little of it.
"""

from __future__ import annotations

import math
import threading
import uuid

from botocore.exceptions import BotoCoreError, ClientError

from functions.agent.model.metering import Spent
from functions.common.observability import logger
from functions.conversation.files.documents import RunCost, costs_prefix
from functions.conversation.files.snapshots import Snapshots

ROOM_SECONDS = 100.0
"""How long a request waits for room in the budget; the CLI waits for an answer for 120 seconds."""

BEYOND_USD = 1.0
"""An answer that had begun may pass the budget by as much again, or by so many dollars; then it is cut off in its
middle: more than twice a budget is never counted (`ledger.py`, CLAIMED)."""


class OverBudget(Exception):
    """The budget is spent."""


class Spending:
    """The record of one run, and its budget. A record that cannot be written is no failure of the turn.

    A request that is under way counts as what it may cost, until its answer ends; what then was not told counts, too.
    """

    def __init__(self, snapshots: Snapshots, session_id: str, turn_id: str, model: str) -> None:
        self._snapshots = snapshots
        self._run = uuid.uuid4().hex[:12]
        self._key = f"{costs_prefix(session_id, turn_id)}{self._run}.json"
        self._model = model
        self._writing = threading.Lock()
        self._kept = -1.0  # a run that cost nothing says so
        self._requests: dict[str, Spent] = {}
        self._under_way: dict[str, float] = {}
        self._changed = threading.Condition()
        self.budget_usd = math.inf
        """US dollars this run may cost; requests that had begun by then are answered."""
        self.refused = False
        """Whether a request was refused because the budget was spent."""

    def begin(self, request: str, most_usd: float) -> bool:
        """Make room for a request that may cost so much; False when others have it for too long.

        One that is alone has room while the budget is not spent. Raises OverBudget when it is. From any thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_over or self._has_room(most_usd), ROOM_SECONDS)
            if self.is_over:
                self.refused = True
                raise OverBudget(f"${self.cost_usd:.2f} of ${self.budget_usd:.2f} are spent")
            if not self._has_room(most_usd):
                return False
            self._under_way[request] = most_usd
            return True

    def told(self, request: str, spent: Spent) -> None:
        """What a request has cost so far. From any thread."""
        self._requests[request] = spent
        threading.Thread(target=self.keep, daemon=True).start()  # the answer does not wait for S3

    def end(self, request: str, unanswered_usd: float) -> None:
        """The request is over; `unanswered_usd` counts when nothing was told of it. From any thread."""
        with self._changed:
            del self._under_way[request]
            if unanswered_usd:
                self._requests.setdefault(request, Spent(unanswered_usd))
            self._changed.notify_all()

    def ended(self, seconds: float) -> bool:
        """Wait until no request is under way; False when some still are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def _has_room(self, most_usd: float) -> bool:
        so_far = {request: spent.cost_usd for request, spent in list(self._requests.items())}
        reckoned = so_far | {request: max(so_far.get(request, 0.0), usd) for request, usd in self._under_way.items()}
        return not self._under_way or sum(reckoned.values()) + most_usd <= self.budget_usd

    @property
    def cost_usd(self) -> float:
        """What the run has cost so far, in US dollars."""
        return sum(spent.cost_usd for spent in list(self._requests.values()))

    @property
    def input_tokens(self) -> int:
        """Tokens of all prompts, cached or not."""
        return sum(spent.input_tokens for spent in list(self._requests.values()))

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(spent.output_tokens for spent in list(self._requests.values()))

    @property
    def is_over(self) -> bool:
        """Whether the budget is spent."""
        return self.cost_usd >= self.budget_usd

    @property
    def is_far_over(self) -> bool:
        """Whether so much is spent that an answer which goes on is cut off."""
        return self.cost_usd >= self.budget_usd + max(self.budget_usd, BEYOND_USD)

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
