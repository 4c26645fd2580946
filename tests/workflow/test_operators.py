"""The operators' commands on a stack that runs, in this process; `tests/e2e` runs some of them as processes."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from click.testing import CliRunner, Result

from functions.common.errors import remedy_of
from functions.common.models import known
from functions.common.observability import NAMESPACE
from stepgram.cli import main
from stepgram.commands import shared
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.state import write_json
from stepgram.operators.estimate import Usage, seeds, stepgram, transitions
from stepgram.operators.logs import logs_of
from stepgram.operators.stack import Stack
from tests.conftest import ORDER, Faults, Person, until

Cli = Callable[..., Result]


@pytest.fixture
def cli(stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cli]:
    """Runs `stepgram` as if `stepgram local` served this stack."""
    home = stack._home
    monkeypatch.setenv("STEPGRAM_HOME", str(home))
    write_json(home / "stack.json", asdict(stack.addresses))

    def run(*arguments: str, status: int = 0) -> Result:
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == status, done.output
        return done

    with (home / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run
    (home / "stack.json").unlink()


@pytest.fixture(autouse=True)
def consoles(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich keeps the streams it was made with; these follow click's."""
    for console in (shared.out, shared.err):
        monkeypatch.setattr(console, "_file", None)


def document(done: Result) -> Any:
    return json.loads(done.stdout)


def test_a_failure_is_shown_with_what_was_done_and_what_a_rerun_will_do(
    cli: Cli, person: Person, chat: int, faults: Faults
) -> None:
    faults.fail("Persist", chat, "LockContended", times=1)
    name = person.ask(chat, "hello").name
    told = cli("show", name).stdout
    explained = document(cli("show", name, "--json"))["explanation"]
    cli("rerun", name)
    after = cli("show", name).stdout

    assert f"{name}  FAILED" in told
    assert "> hello" in told
    assert "Persist failed: LockContended: injected by a test" in told
    assert "It goes on at AcquireLock. The agent's answer is stored" in " ".join(told.split())
    assert remedy_of("LockContended") in told
    assert (explained["committed"], explained["delivered"], explained["retries"]) == (False, "nothing", 0)
    assert "attempt 2" in after
    assert all(state in after for state in ORDER)
    assert document(cli("show", name, "--json"))["explanation"] is None


@pytest.mark.parametrize(
    ("function", "error", "committed", "delivered", "rerun"),
    [
        ("RunAgent", "ModelRejected", False, "nothing", "the model is asked"),
        ("Reply", "Broken", True, "nothing", "the model is not asked again"),
        ("ReleaseLock", "Broken", True, "everything", "nothing is sent again"),
    ],
)
def test_the_explanation_knows_how_far_the_turn_got(
    cli: Cli,
    person: Person,
    chat: int,
    faults: Faults,
    function: str,
    error: str,
    committed: bool,
    delivered: str,
    rerun: str,
) -> None:
    faults.fail(function, chat, error, times=4)
    name = person.ask(chat, "hello").name
    found = document(cli("show", name, "--json"))["explanation"]

    assert (found["committed"], found["delivered"]) == (committed, delivered)
    assert rerun in found["rerun"]
    assert found["error"] == error


def test_a_stored_answer_is_of_no_use_when_the_conversation_went_on(
    cli: Cli, person: Person, chat: int, faults: Faults
) -> None:
    faults.fail("Persist", chat, "Broken", times=1)
    name = person.ask(chat, "first").name
    person.ask(chat, "second")

    assert "the model is asked" in document(cli("show", name, "--json"))["explanation"]["rerun"]


def test_turns_are_filtered(cli: Cli, person: Person, chat: int, faults: Faults) -> None:
    faults.fail("RunAgent", chat, f"Odd{chat}", times=1)
    failed = person.ask(chat, "fails").name
    answered = person.ask(chat, "runs").name

    def names(*how: str) -> list[str]:
        return [row["name"] for row in document(cli("executions", "--json", "--limit", "1000", *how))]

    assert names("--chat", str(chat)) == [answered, failed]
    assert names("--text", f"odd{chat}") == [failed]
    assert names("--chat", str(chat), "--status", "UNANSWERED") == [failed]
    assert names("--chat", str(chat), "--status", "SUCCEEDED", "--since", "1h") == [answered]
    assert f"Odd{chat}" in cli("executions", "--chat", str(chat)).stdout
    assert "write 30m, 2h or 3d" in cli("executions", "--since", "soon", status=2).stderr


def test_a_turn_is_watched_to_its_end_and_a_failed_one_says_so(cli: Cli, person: Person, chat: int) -> None:
    running = person.say(chat, "!slow 1")
    until(lambda: person.status(running) != "NONE")
    lines = [json.loads(line) for line in cli("watch", running, "--json").stdout.splitlines()]
    failed = person.ask(chat, "!error 403 1").name
    done = cli("watch", failed, status=1)

    assert [line["name"] for line in lines] == ORDER
    assert {line["status"] for line in lines} == {"succeeded"}
    assert "RunAgent" in done.stdout


def test_a_running_turn_is_stopped_and_the_next_goes_on(cli: Cli, person: Person, chat: int) -> None:
    first = person.say(chat, "!slow 60")
    person.wait_for_state(first, "RunAgent")
    second = person.say(chat, "and me")
    stopped = document(cli("stop", first, "--json"))
    again = cli("stop", first, status=1)

    assert stopped == [{"name": first, "status": "ABORTED", "error": "StoppedByOperator"}]
    assert "does not run" in again.stderr
    assert person.wait(second).status == "SUCCEEDED"


def test_what_the_functions_logged_is_found_by_the_turn(cli: Cli, person: Person, chat: int) -> None:
    name = person.ask(chat, "hello").name
    until(lambda: "TurnEnded" in cli("logs", name).stdout)
    lines = document(cli("logs", name, "--json"))

    assert {line["turn_id"] for line in lines} == {name}
    assert {"AcquireLock", "Hydrate", "Persist", "Reply", "ReleaseLock"} <= {line.get("state") for line in lines}
    assert "hello" not in json.dumps(lines)
    assert "nothing was logged" in cli("logs", "c1-t0-u987654321").stdout


def measured(stack: EmbeddedStack, name: str) -> dict[str, float]:
    """The metrics of a turn, by name; as CloudWatch reads them from its log lines."""
    addresses = stack.addresses
    found: dict[str, float] = {}
    for line in logs_of(Stack(addresses.outputs, addresses.aws), name):
        for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
            assert directive["Namespace"] == NAMESPACE
            found |= {metric["Name"]: line[metric["Name"]][0] for metric in directive["Metrics"]}
    return found


def test_an_answered_turn_is_measured(cli: Cli, stack: EmbeddedStack, person: Person, chat: int) -> None:
    turn = person.ask(chat, "hello")
    until(lambda: "TurnsAnswered" in measured(stack, turn.name))
    found = measured(stack, turn.name)

    assert found["CostUsd"] == turn.output["cost_usd"]
    assert found["InputTokens"] == turn.output["input_tokens"] > 0
    assert 0 < found["AgentSeconds"] <= found["TurnSeconds"]
    assert 0 < found["QueueSeconds"] <= found["TurnSeconds"]
    assert "FirstSignSeconds" in found
    assert "TurnsFailed" not in found


def test_a_failed_turn_and_its_retries_are_measured(
    cli: Cli, stack: EmbeddedStack, person: Person, chat: int, faults: Faults
) -> None:
    faults.fail("Persist", chat, "Lambda.TooManyRequestsException")
    faults.fail("Reply", chat, "Broken")
    name = person.ask(chat, "hello").name
    until(lambda: "TurnsFailed" in measured(stack, name))
    found = measured(stack, name)

    assert (found["TurnsFailed"], found["Retries"]) == (1, 1)
    assert "TurnsAnswered" not in found


def test_costs_are_summed_by_day_chat_and_model(cli: Cli, person: Person, chat: int) -> None:
    turns = [person.ask(chat, "one"), person.ask(chat, "two")]
    cost = sum(turn.output["cost_usd"] for turn in turns)
    mine = [one for one in document(cli("cost", "--json")) if one["chat"] == f"{chat}:0"]

    model = known().named(turns[0].output["model"])
    assert model is not None
    assert [(one["turns"], one["model"]) for one in mine] == [(2, model.anthropic)]
    assert mine[0]["cost_usd"] == pytest.approx(cost, abs=1e-5)
    assert f"{chat}:0" in cli("cost", "--by", "chat").stdout
    assert model.anthropic in cli("cost", "--by", "model").stdout
    assert "total" in cli("cost", "--days", "1").stdout


def test_the_estimate_is_what_its_lines_add_up_to(cli: Cli) -> None:
    bill = document(cli("cost", "--estimate", "--turns", "1000", "--json"))
    usage = Usage(turns=1000)

    assert bill["stepgram"]["total"] == round(sum(line.cost for line in stepgram(usage)), 2)
    assert bill["seeds"]["total"] == round(sum(line.cost for line in seeds(usage)), 2)
    assert transitions() == len(ORDER) + 1
    waits = next(line for line in seeds(Usage()) if "waits" in line.part)
    assert waits.cost > 5  # a consumer that waits ten seconds, a hundred thousand times
    assert "The seeds' queue design" in cli("cost", "--estimate").stdout


def test_the_doctor_finds_this_stack_well(cli: Cli) -> None:
    checks = {check["name"]: check for check in document(cli("doctor", "--json"))}

    not_answered_here = {"quotas", "definitions"}
    assert {name for name, check in checks.items() if check["verdict"] != "ok"} == not_answered_here
    assert {checks[name]["verdict"] for name in not_answered_here} == {"unknown"}


def test_the_doctor_tells_how_to_mend_a_webhook_that_is_elsewhere(cli: Cli, stack: EmbeddedStack) -> None:
    registered = dict(stack.telegram.state["webhook"])
    stack.telegram.state["webhook"] = {"url": "", "secret_token": ""}
    try:
        told = cli("doctor", status=1).stdout
    finally:
        stack.telegram.state["webhook"] = registered

    assert "Telegram delivers to nobody" in told
    assert "Run `stepgram webhook set`." in told


def test_the_redrive_check_fails_a_turn_and_sees_it_answer(cli: Cli, person: Person, chat: int) -> None:
    person.ask(chat, "hello")
    checks = document(cli("doctor", "--redrive-check", str(chat), "--json"))

    assert (checks[-1]["name"], checks[-1]["verdict"]) == ("redrive", "ok"), checks[-1]
    assert checks[-1]["found"].endswith(" ".join(["TurnFailed", *ORDER[1:]]))
    assert "redrive check" in person.texts(chat)[-1]


def test_everything_prints_json(cli: Cli, person: Person, chat: int, tmp_path: Any) -> None:
    person.ask(chat, "hello")
    key = str(chat)

    assert document(cli("webhook", "info", "--json"))["url"].endswith("/webhook")
    assert document(cli("webhook", "set", "--json"))["url"].endswith("/webhook")
    assert document(cli("access", "add", "user", key, "--json"))["id"] == chat
    assert chat in [guest["id"] for guest in document(cli("access", "list", "--json"))]
    assert document(cli("access", "remove", "user", key, "--json")) == {"kind": "user", "id": chat}
    assert f"{chat}:0" in [one["key"] for one in document(cli("sessions", "--json"))]
    assert len(document(cli("session", "export", key, "--output", str(tmp_path), "--json"))) == 4
    assert document(cli("session", "fork", key, "--to", f"{chat}:7", "--json"))["key"] == f"{chat}:7"
    assert document(cli("session", "reset", key, "--json")) == {"key": key}
    failed = person.ask(chat, "!error 403 1").name
    assert document(cli("rerun", failed, "--json")) == [{"name": failed, "status": "SUCCEEDED", "error": None}]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(cli: Cli, shell: str) -> None:
    assert "_STEPGRAM_COMPLETE" in cli("completion", shell).stdout
