"""What Lambda does with a function, seen from inside and from its caller."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from stepgram.embedded import launcher
from stepgram.embedded.containers import FOLDER, NEW_SECONDS, USERS, below, of_user, sweep
from stepgram.embedded.packages import Packages
from stepgram.embedded.runtime_api import RESPONSE_LIMIT, Invocation, RuntimeApi
from tests.conftest import until
from tests.strict.conftest import Tiny

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="there is no such limit on this system")
ROOT = pytest.mark.skipif(os.getuid() != 0, reason="only root can give containers users of their own")


def test_a_container_answers_and_is_kept_for_the_next_event(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import os
        calls = []
        def handler(event, context):
            calls.append(event)
            seconds = context.get_remaining_time_in_millis() / 1000
            return {"calls": calls, "id": context.aws_request_id, "seconds": seconds}
    """)

    first = any_tiny.value("one", timeout=7)
    second = any_tiny.value("two", timeout=7)

    assert first["calls"] == ["one"]
    assert second["calls"] == ["one", "two"]
    assert first["id"] == "request-1"
    assert 5 < first["seconds"] <= 7


def test_two_events_at_once_are_two_containers(tiny: Tiny) -> None:
    tiny.write("""
        import time, uuid
        name = str(uuid.uuid4())
        def handler(event, context):
            time.sleep(event)
            return name
    """)
    names = [tiny.value(0)]
    slow = threading.Thread(target=lambda: names.append(tiny.value(2)))
    slow.start()
    until(lambda: bool(tiny.containers._busy))

    names.append(tiny.value(0))

    slow.join()
    assert names[2] == names[0] != names[1]


def test_an_exception_keeps_its_type_and_the_container_goes_on(any_tiny: Tiny) -> None:
    any_tiny.write("""
        class LockLost(Exception): ...
        def handler(event, context):
            if event: raise LockLost("by another turn")
            return "still here"
    """)

    error = any_tiny.error(True)

    assert (error["errorType"], error["errorMessage"]) == ("LockLost", "by another turn")
    assert error["requestId"] == "request-1"
    assert "tiny.py" in error["stackTrace"][0]
    assert any_tiny.value(False) == "still here"


def test_a_function_that_takes_too_long_is_ended(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import os, time
        def handler(event, context):
            if event: time.sleep(60)
            return os.getpid()
    """)
    any_tiny.value(False, timeout=1)
    process = next(iter(any_tiny.containers._idle["tiny"]))._process

    error = any_tiny.error(True, timeout=1)

    message = "RequestId: request-1 Error: Task timed out after 1.00 seconds"
    assert error == {"errorType": "Sandbox.Timedout", "errorMessage": message}
    assert process.poll() is not None
    assert any_tiny.value(False, timeout=1)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("sys.exit(3)", "exit status 3"),
        ("os._exit(0)", "without providing a reason"),
        ("os.kill(os.getpid(), 9)", "signal: killed"),
    ],
)
def test_a_runtime_that_ends_says_how(any_tiny: Tiny, way: str, words: str) -> None:
    any_tiny.write(f"""
        import os, sys
        def handler(event, context):
            {way}
    """)

    error = any_tiny.error()

    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].startswith("RequestId: request-1 Error: Runtime exited")
    assert words in error["errorMessage"]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("import nobody_has_this", "Runtime.ImportModuleError", "No module named 'nobody_has_this'"),
        ("raise PermissionError(1, 'refused at import')", "PermissionError", "refused at import"),
        ("other = 1", "Runtime.HandlerNotFound", "Handler 'handler' missing"),
        ("def broken(:", "Runtime.UserCodeSyntaxError", "Syntax error"),
    ],
)
def test_a_function_that_cannot_be_started_says_why(tiny: Tiny, code: str, kind: str, words: str) -> None:
    tiny.write(code)

    ahead = tiny.containers.start(tiny.spec(), {})
    error = tiny.error()

    assert (error["errorType"], words in error["errorMessage"]) == (kind, True)
    assert ahead is not None
    assert json.loads(ahead.payload)["errorType"] == kind


def test_an_answer_of_more_than_six_megabytes_is_refused(tiny: Tiny) -> None:
    tiny.write("""
        def handler(event, context):
            return "x" * event
    """)

    assert len(tiny.value(RESPONSE_LIMIT - 2)) == RESPONSE_LIMIT - 2
    error = tiny.error(RESPONSE_LIMIT - 1)

    assert error["errorType"] == "Function.ResponseSizeTooLarge"
    assert "6291556 bytes" in error["errorMessage"]


@LINUX
@pytest.mark.parametrize("who", ["the function", "what it started"])
def test_more_memory_than_the_template_says_ends_the_function(any_tiny: Tiny, who: str) -> None:
    any_tiny.write("""
        import subprocess, sys, time
        hungry = "held = bytearray(b'x' * 300 * 1024 * 1024); import time; time.sleep(60)"
        def handler(event, context):
            if event == "the function":
                exec(hungry)
            elif event:
                subprocess.run([sys.executable, "-c", hungry])
            return "small"
    """)

    error = any_tiny.error(who, memory=256)

    assert error["errorType"] == "Runtime.OutOfMemory"
    assert error["errorMessage"] == "RequestId: request-1 Error: Runtime exited with error: signal: killed"
    assert any_tiny.value("", memory=256) == "small"


def test_the_environment_is_the_templates_and_lambdas_own(any_tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_MACHINE", "1")
    any_tiny.write("""
        import os
        def handler(event, context):
            return dict(os.environ)
    """)

    found = any_tiny.value()

    tmpdir = {"TMPDIR"} if not any_tiny.containers.isolated else set()
    assert set(found) - {"LC_CTYPE"} - tmpdir == {
        "AWS_ACCESS_KEY_ID",
        "AWS_DEFAULT_REGION",
        "AWS_ENDPOINT_URL",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_FORMAT",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_REGION",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "FROM_THE_TEMPLATE",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
        "LANG",
        "LD_LIBRARY_PATH",
        "PATH",
        "PYTHONPATH",
        "TZ",
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
    }
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"


def test_imports_find_the_package_and_the_runtimes_boto3_and_nothing_of_this_project(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import importlib.util, os, sys
        def handler(event, context):
            names = ("boto3", "pytest", "moto", "stepgram", "functions", "rich")
            return [name for name in names if importlib.util.find_spec(name)], sys.path[0], os.getcwd()
    """)

    found, first, cwd = any_tiny.value()

    assert found == ["boto3"]
    assert first == cwd
    assert not any_tiny.containers.isolated or cwd == "/var/task"


@LINUX
def test_code_cannot_be_written_and_tmp_can(tiny: Tiny) -> None:
    tiny.write("""
        import os, tempfile
        def handler(event, context):
            refused = []
            for path in ("new.py", "tiny.py", os.environ["LAMBDA_RUNTIME_DIR"] + "/new.py"):
                try:
                    open(path, "a").close()
                except OSError:
                    refused.append(path)
            with tempfile.TemporaryFile() as file:
                return len(refused), file.write(b"1234")
    """)

    assert tiny.value() == [3, 4]


@LINUX
def test_lambdas_refusals_hold_for_the_function_and_what_it_starts(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import ctypes, subprocess, sys
        ask = '''
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        answers = [(libc.prctl(option, 1, 0, 0, 0), ctypes.get_errno()) for option in (36, 1)]
        name = libc.prctl(15, b"renamed", 0, 0, 0)
        '''.replace("        ", "")
        def handler(event, context):
            here = {}
            exec(ask, here)
            command = [sys.executable, "-c", ask + "print([*answers, name])"]
            child = subprocess.run(command, capture_output=True, text=True)
            return [*here["answers"], here["name"]], child.stdout
    """)

    here, child = any_tiny.value()

    assert here == [[-1, 1], [-1, 1], 0]
    assert child == "[(-1, 1), (-1, 1), 0]\n"


def test_a_container_sees_nothing_of_anothers_tmp(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import os, tempfile, time
        def handler(event, context):
            folder = tempfile.gettempdir()
            found = os.listdir(folder)
            open(os.path.join(folder, "mine"), "w").close()
            time.sleep(event)
            return found
    """)
    slow = threading.Thread(target=lambda: any_tiny.value(2))
    slow.start()
    until(lambda: bool(any_tiny.containers._busy))
    time.sleep(1)

    other = any_tiny.value(0)

    slow.join()
    assert other == []


@ROOT
def test_where_we_are_root_every_container_has_a_user_of_its_own(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import os, time

        def user(process):
            try:
                return os.stat("/proc/" + process).st_uid
            except FileNotFoundError:  # without a view of its own it sees those of others come and go
                return None

        def handler(event, context):
            mine = [p for p in os.listdir("/proc") if p.isdigit() and user(p) == os.getuid()]
            time.sleep(event)
            return os.getuid(), os.getgroups(), len(mine)
    """)
    users: list[list[object]] = []
    slow = threading.Thread(target=lambda: users.append(any_tiny.value(2)))
    slow.start()
    until(lambda: bool(any_tiny.containers._busy))

    users.append(any_tiny.value(0))

    slow.join()
    assert users[0][0] != users[1][0]
    assert all(user != 0 and groups == [] for user, groups, _ in users)
    processes = 2 if any_tiny.containers.isolated else 1  # with process 1, which is Lambda's
    assert [count for _, _, count in users] == [processes, processes]


def runs(process: int) -> bool:
    """Whether it still runs; the dead that nobody collected do not."""
    try:
        return " Z " not in Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return False


@ROOT
def test_everything_a_function_started_ends_with_its_container(any_tiny: Tiny) -> None:
    any_tiny.write("""
        import subprocess
        def handler(event, context):
            subprocess.run("(sleep 300 &) ; sleep 300 & exit", shell=True)
            return subprocess.Popen(["sleep", "300"]).pid
    """)
    any_tiny.value()
    container = next(iter(any_tiny.containers._idle["tiny"]))
    processes = below(container._process.pid) if container._isolated else of_user(container.user or -1)
    assert len(processes) >= (6 if container._isolated else 4)

    any_tiny.containers.cool_down()

    until(lambda: not [p for p in processes if runs(p)])
    assert not Path(container._tmp).exists()


def test_an_answer_to_an_event_nobody_waits_for_is_refused() -> None:
    api = RuntimeApi()
    url = f"http://{api.address}/2018-06-01/runtime/invocation"
    api.give(Invocation("one", b"{}", 3, "arn", "Root=1"))

    event = requests.get(f"{url}/next", timeout=5)
    wrong = requests.post(f"{url}/two/response", json={}, timeout=5)
    right = requests.post(f"{url}/one/response", json={"a": 1}, timeout=5)
    again = requests.post(f"{url}/one/response", json={}, timeout=5)
    api.close()

    assert event.headers["Lambda-Runtime-Aws-Request-Id"] == "one"
    assert [wrong.status_code, right.status_code, again.status_code] == [400, 202, 400]
    assert wrong.json()["errorType"] == "InvalidRequestID"
    assert json.loads(api.outcomes.get_nowait().body) == {"a": 1}


@pytest.fixture
def precious() -> Iterator[Path]:
    """A developer's file that everyone may write, where a container's own folders do not cover it."""
    home = Path("/opt" if os.getuid() == 0 else Path.home())
    if not f"{home}/".startswith(("/tmp/", "/var/")):
        folder = Path(tempfile.mkdtemp(prefix="stepgram-precious-", dir=home))
        folder.chmod(0o777)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o777)
        (folder / "file").write_text("mine")
        (folder / "file").chmod(0o666)
        yield folder / "file"
        shutil.rmtree(folder)
    else:
        pytest.skip(f"{home} is hidden from containers")


@LINUX
@pytest.mark.parametrize(
    "as_user", [pytest.param(True, marks=ROOT), False], ids=["a user of its own", "user namespace"]
)
def test_nothing_but_tmp_can_be_written_whoever_the_developer_is(
    packages: Packages, precious: Path, as_user: bool
) -> None:
    python = packages.runtime.python
    nobody = USERS[0] if os.getuid() == 0 else None
    attempt = "for place in $PLACES; do echo other 2> /dev/null > $place && echo $place; done; true"
    (precious.parent / "attempt").write_text(f"#!/bin/sh\n({attempt}) 2> /dev/null\n")
    (precious.parent / "attempt").chmod(0o755)
    launch = {
        **dict.fromkeys(("task", "runtime", "lang"), str(precious.parent)),
        "tmp": str(precious.parent / "tmp"),
        "python": "attempt",
        "handler": "",
        "environment": {"PLACES": f"{precious} /var/task/x /var/x /dev/shm/x /tmp/x /dev/null"},
        "user": nobody if as_user else None,
        "isolate": True,
    }

    done = subprocess.run(
        [str(python / packages.runtime.command), "-I", "-S", launcher.__file__],
        input=json.dumps(launch),
        capture_output=True,
        text=True,
        check=False,
        user=None if as_user else nobody,
        env={"LD_LIBRARY_PATH": str(python / "lib")},
        cwd="/",
    )

    if "unshare" in done.stderr and not as_user:
        pytest.skip("this system has no user namespaces for everyone")
    assert done.stdout.split() == ["/tmp/x", "/dev/null"], done.stderr
    assert precious.read_text() == "mine"


def test_what_a_killed_stack_left_in_tmp_goes_and_what_another_uses_stays(tiny: Tiny) -> None:
    tiny.write("def handler(event, context): return 1")
    tiny.value()
    (used,) = (container._tmp for containers in tiny.containers._idle.values() for container in containers)
    left, new = tempfile.mkdtemp(prefix=FOLDER), tempfile.mkdtemp(prefix=FOLDER)
    (Path(left) / "file").write_text("left")
    for folder in (used, left):
        os.utime(folder, times=(0, time.time() - NEW_SECONDS - 1))

    sweep()

    assert [os.path.exists(folder) for folder in (used, left, new)] == [True, False, True]
    os.rmdir(new)


def test_a_folder_is_given_up_when_the_stack_is_killed(tmp_path: Path) -> None:
    code = f"""
        import time
        from pathlib import Path
        from stepgram.embedded.containers import Container
        from stepgram.embedded.packages import Packages, shared_cache
        from stepgram.embedded.template import FunctionSpec

        class Tiny(Packages):
            def of(self, spec):
                from stepgram.embedded.packages import Package
                return Package(Path("/"), spec.handler)

        spec = FunctionSpec("Tiny", "tiny", "arn", "tiny.handler", 3, 128, {{}}, False)
        one = Container(spec, Tiny(shared_cache()), {{}}, Path({str(tmp_path / "log")!r}), None, False)
        print(one._tmp, flush=True)
        time.sleep(60)
    """
    stack = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert stack.stdout is not None
    folder = stack.stdout.readline().strip()
    os.utime(folder, times=(0, time.time() - NEW_SECONDS - 1))
    sweep()
    assert os.path.exists(folder)

    stack.kill()
    stack.wait()
    sweep()

    assert not os.path.exists(folder)
