"""A real browser on the chat page of the stack; a screenshot of every test is left in its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from stepgram.embedded.stack import EmbeddedStack

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
SCREENSHOTS = os.environ.get("STEPGRAM_SCREENSHOTS")
"""A folder that gets the screenshots, to look at them."""


expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, headless. For one module only: while it is open, its event loop runs in this thread."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path is not None, "the browser tests need Chromium (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, stack: EmbeddedStack, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """The chat page at phone width; what goes wrong in its script fails the test."""
    context = browser.new_context(viewport={"width": 420, "height": 800}, locale="en-US")
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(str(stack.addresses.telegram))
    yield page
    page.screenshot(path=Path(SCREENSHOTS or tmp_path) / f"{request.node.name}.png")
    context.close()
    assert errors == []
