"""A real browser on the pages of the stack; a screenshot of every test is left in its folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from docs.pictures import chromium
from stepgram.console.server import serve
from stepgram.embedded.stack import EmbeddedStack
from stepgram.operators.stack import Stack

SCREENSHOTS = os.environ.get("STEPGRAM_SCREENSHOTS")
"""A folder that gets the screenshots, to look at them."""


expect.set_options(timeout=60_000)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module only: while it is open, its event loop runs in this thread."""
    with chromium() as opened:
        yield opened


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens an address; what goes wrong in the page's script, and requests to anybody else, fail the test."""
    opened: list[Page] = []
    problems: list[str] = []

    def open_it(address: str, width: int = 1360, height: int = 900, **how: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-US", **how)
        page = context.new_page()
        origin = "/".join(address.split("/")[:3])
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((origin, "data:", "blob:")) or problems.append(asked.url))
        page.set_default_timeout(60_000)
        page.goto(address)
        opened.append(page)
        return page

    yield open_it
    for number, page in enumerate(opened):
        page.screenshot(path=Path(SCREENSHOTS or tmp_path) / f"{request.node.name}{number or ''}.png")
        page.context.close()
    assert problems == []


@pytest.fixture
def page(open_page: Open, stack: EmbeddedStack) -> Page:
    """The chat page at phone width."""
    return open_page(str(stack.addresses.telegram), width=420, height=800)


@pytest.fixture(scope="session")
def console(stack: EmbeddedStack) -> Iterator[str]:
    """The address of the console page."""
    server, address = serve(Stack(stack.addresses.outputs, stack.addresses.aws, stack.addresses.telegram))
    yield address
    server.stop()
