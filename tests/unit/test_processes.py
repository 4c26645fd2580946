"""No process outlives its run, whatever it does to get away; nobody else's process is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from functions.agent import handler
from functions.agent.processes import RUNTIME, StillRunning
from functions.common.folders import NotCleaned
from functions.conversation.progress import Heard
from stepgram.embedded.answers import Context
from tests.conftest import ROOT
from tests.unit.test_options import settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="child subreapers and /proc are Linux's")

COMMANDS = [
    "{sleep} &",  # its shell is gone
    "setsid {sleep} >/dev/null 2>&1 & disown",  # another session
    "(setsid sh -c '({sleep} &) ; exec env -i {sleep}' &)",  # a daemon's double fork, its environment cleared
    "trap '' TERM HUP INT QUIT; {sleep} & exit",  # deaf to signals that ask
]
LEFT = 5
"""Processes the commands leave."""

INIT = """
    import ctypes, os, sys

    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    script = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, *sys.argv[1:]])
    status = 0
    while True:
        try:
            process, how = os.wait()
        except ChildProcessError:
            break
        status = how if process == script else status
    sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Adopts and buries orphans, as the first process of a container does."""

RUN = """
    import json, os, subprocess, sys, time
    from functions.agent import processes
    from functions.agent.processes import StillRunning, adopt, below, end_leftovers, look
    from tests.seccomp import refuse

    given = json.loads(sys.argv[1])
    if given["refused"]:
        refuse("prctl", processes.PR_SET_CHILD_SUBREAPER)
    if given["user"]:
        os.setgroups([])
        os.setgid(given["user"])
        os.setuid(given["user"])
    adopt()

    def sleeping():
        # Processes of ours, wherever they are: the time they sleep is nobody else's.
        wanted = given["sleep"].replace(" ", chr(0)) + chr(0)
        found = 0
        for process in look().processes:
            try:
                found += (processes.PROC / str(process) / "cmdline").read_text() == wanted
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended meanwhile
        return found

    kept = subprocess.Popen(["sh", "-c", "sleep 60 & echo; exec sleep 60"], stdout=subprocess.PIPE)
    kept.stdout.readline()
    this = look().processes[kept.pid]
    for command in given["commands"]:
        subprocess.run(["bash", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while sleeping() < given["left"] and time.monotonic() < until:
        time.sleep(0.01)
    before = sleeping()
    ended = end_leftovers(keep=this)
    after, alive, child = sleeping(), kept.poll() is None, len(below(kept.pid))
    end_leftovers()
    print(json.dumps([before, len(ended) >= given["left"], after, alive, child, kept.poll() is None]))
"""


def own_user() -> int:
    """A user nobody else is, as root; else nobody new."""
    return 200_000 + os.getpid() if os.geteuid() == 0 else 0


def run(script: str, refused: bool, user: int, runtime: str | None, seconds: str, crowded: bool = False) -> Any:
    """What a script of its own process prints, as JSON."""
    sleep = f"sleep {seconds}"
    given = {
        "refused": refused,
        "user": user,
        "sleep": sleep,
        "left": LEFT,
        "crowded": crowded,
        "commands": [command.format(sleep=sleep) for command in COMMANDS],
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INIT), "-c", textwrap.dedent(script), json.dumps(given)],
        cwd=ROOT,
        env={**{k: v for k, v in os.environ.items() if k != RUNTIME}, **({RUNTIME: runtime} if runtime else {})},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def unique() -> str:
    """Seconds that no other process sleeps."""
    return f"61.{os.getpid()}{next(_numbers)}"


_numbers = iter(range(100))


def test_every_process_a_run_left_is_ended_and_the_kept_one_is_not() -> None:
    before, ended, after, kept, below_kept, at_last = run(RUN, refused=False, user=0, runtime=None, seconds=unique())

    assert (before, ended, after, kept, below_kept, at_last) == (LEFT, True, 0, True, 1, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a user of its own")
@pytest.mark.parametrize("refused", [True, False], ids=["as Lambda refuses it", "where a subreaper is allowed"])
def test_orphans_are_ended_by_their_user_where_nobody_else_has_it(refused: bool) -> None:
    found = run(RUN, refused, own_user(), runtime="127.0.0.1:9001", seconds=unique())

    assert found == [LEFT, True, 0, True, 1, False]


BESIDE = """
    import json, os, subprocess, sys
    from functions.agent.processes import adopt, end_leftovers
    from tests.seccomp import refuse

    given = json.loads(sys.argv[1])
    refuse("prctl", 36)
    if given["user"]:
        os.setgroups([])
        os.setgid(given["user"])
        os.setuid(given["user"])
    before = subprocess.Popen(given["sleep"].split()) if given["crowded"] else None
    adopted, begin = os.pipe(), os.pipe()
    agent = os.fork()
    if agent == 0:
        adopt()
        os.write(adopted[1], b".")
        os.read(begin[0], 1)
        end_leftovers()
        os._exit(0)
    os.read(adopted[0], 1)
    after = subprocess.Popen(given["sleep"].split())
    os.write(begin[1], b".")
    assert os.waitpid(agent, 0)[1] == 0
    neighbours = [process for process in (before, after) if process is not None]
    print(json.dumps([process.poll() for process in neighbours]))
    for process in neighbours:
        process.kill()
"""


@pytest.mark.parametrize("crowded", [True, False], ids=["under a runtime client", "anywhere else"])
def test_where_others_may_have_our_user_nobody_beside_us_is_ended(crowded: bool) -> None:
    runtime = "127.0.0.1:9001" if crowded else None

    neighbours = run(BESIDE, refused=True, user=own_user(), runtime=runtime, seconds=unique(), crowded=crowded)

    assert neighbours == [None] * (2 if crowded else 1)


UNENDABLE = """
    import json, os, subprocess, sys
    from functions.agent.processes import StillRunning, adopt, end_leftovers
    from tests.seccomp import refuse

    given = json.loads(sys.argv[1])
    adopt()
    agent = os.fork()
    if agent == 0:
        adopt()
        left = subprocess.Popen(given["sleep"].split())
        refuse("kill")
        try:
            end_leftovers(seconds=0.2)
        except StillRunning as error:
            os._exit(3 if str(left.pid) in str(error) else 4)
        os._exit(5)
    status = os.waitstatus_to_exitcode(os.waitpid(agent, 0)[1])
    print(json.dumps([status, len(end_leftovers())]))
"""


def test_what_cannot_be_ended_is_named_after_a_while() -> None:
    assert run(UNENDABLE, refused=False, user=0, runtime=None, seconds=unique()) == [3, 1]


FLEEING = """
    import json, os, signal, sys
    from functions.agent.processes import PR_SET_CHILD_SUBREAPER, StillRunning, adopt, end_leftovers, look
    from tests.seccomp import refuse

    given = json.loads(sys.argv[1])
    refuse("prctl", PR_SET_CHILD_SUBREAPER)
    os.setgroups([])
    os.setgid(given["user"])
    os.setuid(given["user"])
    adopt()
    if os.fork() == 0:
        os.setsid()
        while True:
            if os.fork():
                os._exit(0)
    try:
        end_leftovers(seconds=2)
        print(json.dumps(len(look().strangers())))
    except StillRunning:
        print(json.dumps("named"))
    sys.stdout.flush()
    os.kill(-1, signal.SIGKILL)  # all of our user but us, at once
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a user of its own")
def test_a_process_that_flees_from_its_own_id_is_caught_or_told() -> None:
    found = run(FLEEING, refused=True, user=own_user(), runtime="127.0.0.1:9001", seconds=unique())

    assert found in (0, "named")


HOST = """
    import json, os, signal, subprocess, sys
    from functions.agent.processes import adopt, below, end_below

    given = json.loads(sys.argv[1])
    adopt()
    command = "(setsid sh -c '(" + given["sleep"] + " &) ; exec env -i " + given["sleep"] + "' &) ; echo; exec sleep 60"
    workers = [subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) for _ in range(2)]
    for worker in workers:
        worker.stdout.readline()
    workers[0].kill()
    workers[0].wait()
    end_below(os.getpid(), keep=[workers[1].pid, workers[0].pid])
    after = [workers[1].poll(), len(below(os.getpid()))]
    end_below(os.getpid())
    print(json.dumps([*after, len(below(os.getpid()))]))
"""


def test_a_host_ends_what_a_dead_function_left_and_none_of_the_living() -> None:
    """Both functions' daemons have fled to the host: only the second function itself can be told from them."""
    assert run(HOST, refused=False, user=0, runtime=None, seconds=unique()) == [None, 1, 0]


@pytest.mark.parametrize("error", [StillRunning("1 process"), NotCleaned("1 file")])
def test_a_container_that_cannot_be_cleaned_ends(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Ended(BaseException):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    def run_once(*_: Any) -> None:
        raise error

    monkeypatch.setattr(handler, "run_once", run_once)
    monkeypatch.setattr(handler.AgentSettings, "load", settings)
    monkeypatch.setattr(handler.Callback, "begin", lambda self: Heard())
    monkeypatch.setattr("functions.agent.handler.os._exit", end)
    session = {
        "session_id": "s", "version": 0, "manifest": None, "part": 0, "going_on": None,
    }  # fmt: skip
    event = {
        "turn_id": "t", "session_key": "1:0", "state": "RunAgent", "text": "hello", "session": session,
        "run": 1, "attempt": 0, "budget_usd": 1, "access": "", "ticket": "",
    }  # fmt: skip

    with pytest.raises(Ended, match="1"):
        handler.handler(event, Context("agent", 60, "request", 512))
