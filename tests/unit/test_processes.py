"""No process outlives its run, whatever it does to get away."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT

RUN = """
    import json, os, subprocess, sys
    from functions.agent.processes import adopt, below, end_leftovers

    adopt()
    kept = subprocess.Popen(["sleep", "60"])
    for command in (
        "sleep 60 &",                                          # its shell is gone
        "setsid sleep 60 >/dev/null 2>&1 & disown",            # another session
        "(setsid sh -c '(sleep 60 &) ; exec env -i sleep 60' &)",  # a daemon's double fork, its environment cleared
        "trap '' TERM HUP INT; sleep 60 & exit",               # deaf to signals that ask
    ):
        subprocess.run(["bash", "-c", command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended = end_leftovers(keep=kept.pid)
    rest = below(os.getpid())
    end_leftovers()
    print(json.dumps([len(ended), rest == [kept.pid], below(os.getpid())]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="child subreapers are Linux's")
def test_every_process_a_run_left_is_ended_and_the_kept_one_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN)], cwd=ROOT, capture_output=True, text=True, check=True
    )

    ended, only_kept, rest = json.loads(done.stdout)
    assert (ended >= 5, only_kept, rest) == (True, True, [])
