"""What a run costs, kept in the turn's folder before it is spent and when the run ends; others count it.

The agent has no rights in the table. The endpoint (`endpoint.py`) reckons each request by the tokens its answer tells
and the prices of `models.toml`, those of subagents and of processes the agent started, too. The record says what may
be spent **before** a request is passed on, some ahead, and at the end of the run what was: a container that dies (or
is killed by what runs in it) has counted what was under way, and at most `AHEAD_USD` beside it.
"""

from __future__ import annotations

import math
import threading

from botocore.exceptions import BotoCoreError, ClientError

from functions.agent.model.metering import Spent
from functions.common.observability import logger
from functions.conversation.budget import at_most
from functions.conversation.files.documents import MOST_USD, RunCost, cost_key
from functions.conversation.files.snapshots import Snapshots

ROOM_SECONDS = 100.0
"""How long a request waits for room in the budget; the CLI waits for an answer for 120 seconds."""

AHEAD_USD = 0.25
"""How much more the record says than what is under way, so that most requests need not wait for it to be written."""


class OverBudget(Exception):
    """The budget is spent."""


class Spending:
    """The record of one run, and its budget. A record that cannot be written is no failure of the turn.

    A request that is under way counts as what it may cost, until its answer ends; what then was not told counts, too.
    """

    def __init__(self, snapshots: Snapshots, session_id: str, turn_id: str, run: int, model: str) -> None:
        """`run` is the run's number in its turn."""
        self._snapshots = snapshots
        self._key = cost_key(session_id, turn_id, run)
        self._model = model
        self._writing = threading.Lock()
        self._kept = -1.0
        """What the record says, in US dollars; a run that cost nothing says so at its end."""
        self._requests: dict[str, Spent] = {}
        self._under_way: dict[str, float] = {}
        self._changed = threading.Condition()
        self.budget_usd = math.inf
        """US dollars this run may cost; requests that had begun by then are answered."""
        self.refused = False
        """Whether a request was refused because the budget was spent."""

    def begin(self, request: str, most_usd: float, can_be_cut: bool = True) -> bool:
        """Make room for a request that may cost so much, and keep it; False when others have the room for too long.

        One that is alone has room while the budget is not spent, if it can be cut off or costs no more than is ever
        counted. Raises OverBudget. From any thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.is_over or self._has_room(most_usd), ROOM_SECONDS)
            if self.is_over or (not can_be_cut and self.cost_usd + most_usd > at_most(self.budget_usd)):
                self.refused = True
                raise OverBudget(f"${self.cost_usd:.2f} of ${self.budget_usd:.2f} are spent")
            if not self._has_room(most_usd):
                return False
            self._under_way[request] = most_usd
            reckoned = sum(self._reckoned().values())
        if reckoned > self._kept:
            self._keep(reckoned + AHEAD_USD)
        return True

    def told(self, request: str, spent: Spent) -> None:
        """What a request has cost so far. From any thread."""
        self._requests[request] = spent

    def end(self, request: str, unanswered_usd: float) -> None:
        """The request is over; `unanswered_usd` counts when nothing was told of it. From any thread."""
        with self._changed:
            del self._under_way[request]
            if unanswered_usd > 0:
                self._requests.setdefault(request, Spent(unanswered_usd))
            self._changed.notify_all()

    def ended(self, seconds: float) -> bool:
        """Wait until no request is under way; False when some still are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._under_way, seconds)

    def _has_room(self, most_usd: float) -> bool:
        return not self._under_way or sum(self._reckoned().values()) + most_usd <= self.budget_usd

    def _reckoned(self) -> dict[str, float]:
        """What each request has cost, or may cost that is under way."""
        so_far = {request: spent.cost_usd for request, spent in list(self._requests.items())}
        return so_far | {request: max(so_far.get(request, 0.0), usd) for request, usd in self._under_way.items()}

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
        return self.cost_usd >= at_most(self.budget_usd)

    def keep(self) -> None:
        """The run ends: write what it has cost."""
        self._keep(self.cost_usd, ends=True)

    def _keep(self, usd: float, ends: bool = False) -> None:
        """Write the record, when it says less, or, at the end, something else. From any thread."""
        cost = round(min(max(usd, 0.0), MOST_USD), 6)
        with self._writing:
            if cost == self._kept or (cost < self._kept and not ends):
                return
            try:
                self._snapshots.write(self._key, RunCost(model=self._model, cost_usd=cost))
            except (ClientError, BotoCoreError) as error:
                logger.error("the record of costs is not written", cost_usd=cost, cause=str(error))
                return
            self._kept = cost
