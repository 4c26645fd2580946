"""The console page with thousands of executions: how soon its rows are there, and whether it freezes."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import requests
from playwright.sync_api import Page

from docs.pictures import chromium
from stepgram.console.server import serve
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.stack import Stack
from tests.bench.figures import Figure

EXECUTIONS, FAILED_EVERY = 5_000, 20
LONG_TASKS = """() => { window.longest = 0; new PerformanceObserver(list => { for (const task of list.getEntries())
  window.longest = Math.max(window.longest, task.duration); }).observe({type: "longtask", buffered: true}); }"""


def fill(stack: EmbeddedStack) -> None:
    """Executions as another process of this stack would have left them; one in twenty failed."""
    definition = stack.step_functions._backend.describe_state_machine(stack.deployment.outputs["TurnArn"]).definition
    arn = stack.deployment.outputs["TurnArn"].replace(":stateMachine:", ":execution:")
    for number in range(EXECUTIONS):
        name = f"c{number % 50 + 1}-t0-u{number}"
        started = datetime.now(UTC) - timedelta(seconds=60 + EXECUTIONS - number)
        failed = number % FAILED_EVERY == 0
        stack.step_functions.restore(
            {
                **{"name": name, "arn": f"{arn}:{name}", "machine": "stepgram-turn", "definition": definition},
                **{"status": "FAILED" if failed else "SUCCEEDED", "input": json.dumps({"turn_id": name})},
                **{"output": None, "error": "ModelThrottled" if failed else None, "cause": "busy" if failed else None},
                "start_date": started.isoformat(),
                "stop_date": (started + timedelta(seconds=2)).isoformat(),
                **{"redrive_count": 0, "history": []},
            }
        )


def lists(stack: EmbeddedStack, runs: int) -> list[Figure]:
    """The page's first rows, a search through all errors, and all rows with the longest time the page stood still."""
    fill(stack)
    opened = Stack(stack.addresses.outputs, stack.addresses.aws, stack.addresses.telegram)
    answers = _answers(opened, runs)
    server, address = serve(opened)
    first, every, longest = [], [], []
    with chromium() as browser:
        for _ in range(max(1, runs // 4)):
            page = browser.new_page()
            page.add_init_script(f"({LONG_TASKS})()")
            started = time.perf_counter()
            page.goto(address)
            page.locator("#rows .row").first.wait_for()
            first.append((time.perf_counter() - started) * 1000)
            every.append(_all(page))
            longest.append(float(page.evaluate("window.longest")))
            page.close()
    server.stop()
    return [
        *answers,
        Figure("page in Chromium: address to first rows", "ms", tuple(first)),
        Figure(f"page in Chromium: all {EXECUTIONS:,} rows, by Show more", "ms", tuple(every)),
        Figure("page in Chromium: longest it stood still meanwhile", "ms", tuple(longest)),
    ]


def _answers(stack: Stack, runs: int) -> list[Figure]:
    """What the page's server takes for its first rows and for a search; errors are read once and remembered."""
    newest, search = [], []
    for _ in range(runs):
        server, address = serve(stack)
        for samples, query in ((newest, ""), (search, "?text=throttled")):
            started = time.perf_counter()
            requests.get(f"{address}api/turns{query}", timeout=60).raise_for_status()
            samples.append((time.perf_counter() - started) * 1000)
        server.stop()
    return [
        Figure("server: the newest 100 rows", "ms", tuple(newest)),
        Figure("server: a text in the errors, first rows", "ms", tuple(search)),
    ]


def _all(page: Page) -> float:
    started = time.perf_counter()
    page.evaluate(
        """async rows => { const more = document.getElementById("more");
           while (document.querySelectorAll("#rows .row").length < rows) {
             if (!more.hidden && !more.disabled) more.click();
             await new Promise(resolve => setTimeout(resolve, 20)); } }""",
        EXECUTIONS,
    )
    return (time.perf_counter() - started) * 1000
