"""What is rehearsed, as people play it in the chat of a strict stack: each part raises Wrong when it goes amiss."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from functions.common.envelope import turn_id
from functions.conversation.texts import say
from functions.telegram.buttons import answer_data
from stepgram.embedded.answers import Answer
from stepgram.embedded.client import client
from stepgram.embedded.stack import STACK, EmbeddedStack
from stepgram.embedded.template import FunctionSpec
from stepgram.operators.ask import message_text
from stepgram.operators.executions import ExecutionDetail, detail

CHAT = 4242
WAIT_SECONDS = 120.0
LOOK_SECONDS = 0.05
Found = TypeVar("Found")
EPERM = "Lambda answers EPERM to prctl(PR_SET_CHILD_SUBREAPER) and prctl(PR_SET_PDEATHSIG)"
MISSING = re.compile(r"No module named '([\w.]+)'")


class Wrong(Exception):
    """A part of the rehearsal did not go as it should; the message says what happened instead."""


@dataclass(frozen=True)
class Part:
    """One thing that is played. It returns a few words about what was seen."""

    name: str
    play: Callable[[], str]


class Rehearsal:
    """One person's chat on a running stack, and the parts of the play in their order."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self._stack = stack
        self._step_functions = client("stepfunctions", stack.addresses.aws)

    def parts(self) -> list[Part]:
        """All parts; each goes on from the one before it."""
        return [
            Part("a message", self.message),
            Part("a second message, which remembers the first", self.memory),
            Part("a turn that fails, and is run again by its button", self.failure),
            Part("a tool call that waits until somebody allows it", self.approval),
            Part("/undo", self.undo),
            Part("/cost", self.cost),
            Part("/fork", self.fork),
            Part("a file in", self.file_in),
            Part("a file out", self.file_out),
            Part("/debug", self.debug),
            Part("a slow turn that is stopped", self.stop),
        ]

    def message(self) -> str:
        """A plain message is answered."""
        turn = self._ask("Hello")
        return self._expect("You said: Hello", turn)

    def memory(self) -> str:
        """The next one is the second of the same conversation."""
        return self._expect("This is message 2 of this conversation.", self._ask("Do you remember?"))

    def failure(self) -> str:
        """The model refuses once: the chat is told, and the button under the notice reruns the very execution."""
        turn = self._wait(self._say("!error 403 1"))
        if turn.status != "FAILED" or turn.error != "ModelAccessDenied":
            raise Wrong(f"the turn should fail with ModelAccessDenied, but: {outcome(turn)}")
        notice = self._until("the notice of the failure", lambda: self._with_button("rerun:"))
        self._press(notice, notice["reply_markup"]["inline_keyboard"][0][0]["callback_data"])
        self._until("the rerun", lambda: len(self._turn(turn.name).attempts) > 1)
        self._expect("then it answered", self._succeeded(self._wait(turn.name)))
        return "ModelAccessDenied, then answered"

    def approval(self) -> str:
        """Bash asks; the person presses Allow, and the command runs."""
        turn = self._bash("echo $((6 * 7)) is the answer")
        return self._expect("42 is the answer", turn)

    def undo(self) -> str:
        """The last turn is taken back: the conversation is one message shorter."""
        self._command("/undo", "before your last message")
        return self._expect("This is message 4 of this conversation.", self._ask("Count again"))

    def cost(self) -> str:
        """What it cost so far is told."""
        return self._command("/cost", say("cost_session", "en", cost=""))

    def fork(self) -> str:
        """The conversation goes on in a copy, which has all that was said."""
        self._command("/fork", say("forked_here", "en", session="").partition(";")[0])
        return self._expect("This is message 5 of this conversation.", self._ask("And in the copy?"))

    def debug(self) -> str:
        """The conversation's own files come into the chat, the packed workspace last."""
        self._accepted(self._stack.telegram.say(CHAT, "/debug")["update_id"])
        self._until("the workspace", lambda: "workspace.zip" in self._files() or self.refusals())
        return ", ".join(self._files())

    def file_in(self) -> str:
        """What a person attaches is in the agent's workspace."""
        sent = self._stack.telegram.send_file(
            CHAT, "document", "note.txt", b"brought by hand", more={"caption": "Here"}
        )
        self._expect("[Attached: inbox/note.txt", self._succeeded(self._wait(turn_id(CHAT, 0, sent["update_id"]))))
        return self._expect("brought by hand", self._bash("cat inbox/note.txt"))

    def file_out(self) -> str:
        """What the agent leaves in its outbox comes into the chat."""
        self._ask("!file report.txt All is well.")
        if "report.txt" not in self._files():
            raise Wrong(f"no file came into the chat, but: {self._last()}")
        return self._last()

    def stop(self) -> str:
        """Stop is pressed while the answer streams: the turn ends with what was said until then."""
        name = self._say("!slow 60")
        self._until("the answer's first words", lambda: "word" in json.dumps(self._stack.telegram.signs(CHAT)["draft"]))
        self._stack.telegram.press_stop(CHAT)
        turn = self._succeeded(self._wait(name))
        if turn.output["outcome"] != "STOPPED" or not self._last().startswith("word1"):
            raise Wrong(f"the turn was not stopped: {outcome(turn)}; the chat shows: {self._last()}")
        return self._expect(say("stopped", "en"), turn)

    # ------------------------------------------------------------ what a person does

    def _say(self, text: str) -> str:
        """Write; returns the name the turn will have."""
        return turn_id(CHAT, 0, self._stack.telegram.say(CHAT, text)["update_id"])

    def _ask(self, text: str) -> ExecutionDetail:
        return self._succeeded(self._wait(self._say(text)))

    def _bash(self, command: str) -> ExecutionDetail:
        """Have a command run: it asks, and is allowed."""
        name = self._say(f"!bash {command}")
        allow = answer_data("allow", name, 0)
        question = self._until(f"the question about {command!r}", lambda: self._with_button(allow), name)
        self._press(question, allow)
        return self._succeeded(self._wait(name))

    def _press(self, message: dict[str, Any], data: str) -> None:
        self._accepted(self._stack.telegram.press(CHAT, message["message_id"], data))

    def _command(self, text: str, expected: str) -> str:
        """Send a command, whose answer may come from the background; returns the line that was expected."""
        self._accepted(self._stack.telegram.say(CHAT, text)["update_id"])
        self._until(f"the answer of {text}", lambda: expected in self._last() or self.refusals())
        if expected not in self._last():
            raise Wrong(f"{text} was refused a right; the chat shows: {self._last()}")
        return next(line for line in self._last().splitlines() if expected in line)

    # ------------------------------------------------------------ what a person sees

    def _replies(self) -> list[dict[str, Any]]:
        found = self._stack.telegram.state["chats"].get(str(CHAT), {"messages": []})
        return [message for message in found["messages"] if message["from"]["is_bot"]]

    def _files(self) -> list[str]:
        """The names of the files that came."""
        return [message["document"]["file_name"] for message in self._replies() if "document" in message]

    def _last(self) -> str:
        return shown(self._replies()[-1]) if self._replies() else "nothing"

    def _with_button(self, data: str) -> dict[str, Any] | None:
        return next((m for m in reversed(self._replies()) if data in json.dumps(m.get("reply_markup", {}))), None)

    def _expect(self, text: str, turn: ExecutionDetail) -> str:
        """The newest reply, which must have the text in it; returns the line it is in."""
        if text not in self._last():
            raise Wrong(f"the chat should show {text!r}, but {outcome(turn)} and it shows: {self._last()}")
        return next(line for line in self._last().splitlines() if text in line)

    # ------------------------------------------------------------ what is waited for

    def _wait(self, name: str) -> ExecutionDetail:
        """The turn at its end. Its message must have been accepted."""
        self._accepted(int(name.rpartition("-u")[2]))
        self._until(f"the end of {name}", lambda: self._turn(name).status != "RUNNING")
        return self._turn(name)

    def _turn(self, name: str) -> ExecutionDetail:
        machine = self._stack.deployment.outputs["TurnArn"].replace(":stateMachine:", ":execution:")
        return detail(self._step_functions, f"{machine}:{name}")

    def _accepted(self, update_id: int) -> None:
        """Wait for the webhook's 2xx; Telegram would send the update again for a day."""
        record = self._stack.telegram.state["updates"][str(update_id)]
        until = time.monotonic() + WAIT_SECONDS
        while record["status"] is None:
            if time.monotonic() > until or self.refusals():
                raise Wrong(f"the webhook does not accept the update; its last answer was {record.get('last_status')}")
            time.sleep(LOOK_SECONDS)

    def _until(self, what: str, look: Callable[[], Found | None], turn: str | None = None) -> Found:
        """What `look` finds, once it does; a turn that has failed meanwhile ends the wait, and so does a refusal."""
        until = time.monotonic() + WAIT_SECONDS
        while not (found := look()):
            if turn is not None and self._ended(turn):
                raise Wrong(f"{what} did not come: {outcome(self._turn(turn))}")
            if self.refusals():
                raise Wrong(f"{what} did not come: IAM refused what it needs")
            if time.monotonic() > until:
                raise Wrong(f"{what} did not come within {WAIT_SECONDS:.0f} seconds; the chat shows: {self._last()}")
            time.sleep(LOOK_SECONDS)
        return found

    def _ended(self, name: str) -> bool:
        record = self._stack.telegram.state["updates"][name.rpartition("-u")[2]]
        return record["status"] is not None and self._turn(name).status not in ("RUNNING",)

    @staticmethod
    def _succeeded(turn: ExecutionDetail) -> ExecutionDetail:
        if turn.status != "SUCCEEDED":
            raise Wrong(outcome(turn))
        return turn

    def refusals(self) -> list[str]:
        """What IAM refused so far, by function or state machine and action."""
        return [
            f"{logical(name)} is denied {action} on {resource}" for name, action, resource in self._stack.access.refused
        ]


def outcome(turn: ExecutionDetail) -> str:
    """How a turn ended, in words."""
    if turn.error is None:
        return f"the turn ended {turn.status}"
    where = f" in {turn.failed_state.name}" if turn.failed_state else ""
    return f"the turn {turn.status}{where} with {turn.error}: {turn.cause or ''}"


def shown(message: dict[str, Any]) -> str:
    """A message of the stand-in as text; here a rich one's page is not yet public."""
    return str(message["_page"]["markdown"]) if "_page" in message else message_text(message)


def logical(name: str) -> str:
    """The logical id of a function or state machine by its name on the stack; any other name stays."""
    return name.removeprefix(f"{STACK}-")


def cannot_start(spec: FunctionSpec, answer: Answer) -> str:
    """Why a function cannot be started, in words that name what is missing."""
    document = json.loads(answer.payload)
    message, kind = str(document["errorMessage"]), str(document["errorType"])
    missing = MISSING.search(message)
    if missing and spec.is_image:
        return f"the agent's image lacks {missing[1]} ({spec.logical_id}: {message})"
    if kind == "Runtime.ImportModuleError":
        return f"the package of {spec.logical_id} cannot be imported: {message.partition(': ')[2] or message}"
    who = "the agent" if spec.is_image else spec.logical_id
    refused = f"; {EPERM}" if kind == "PermissionError" and "[Errno 1]" in message else ""
    return f"{who} cannot start: {kind}: {message}{refused}"
