"""The demo model fails as it is told to, and the Bedrock stand-in counts what the CLI counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests

from stepgram.embedded.bedrock import Bedrock
from stepgram.server import Server

CUT = "Your response above was cut off mid-stream. Resume directly from where it stops."


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def result(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": text}]}


class Endpoint:
    """The stand-in, asked as the CLI asks, without a stream."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, *messages: dict[str, Any], process: str = "one") -> requests.Response:
        headers = {"X-Claude-Code-Session-Id": "s", "X-Stepgram-Process": process}
        return requests.post(f"{self._url}/model/m/invoke", json={"messages": messages}, headers=headers, timeout=5)

    def texts(self, *messages: dict[str, Any]) -> list[str]:
        return [block["text"] for block in self.ask(*messages).json()["content"]]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Server(Bedrock().app())
    yield Endpoint(server.url)
    server.stop()


def test_a_status_that_is_waited_for_counts_requests(endpoint: Endpoint) -> None:
    found = [endpoint.ask(said("user", "!error 429 2 7")) for _ in range(3)]

    assert [answer.status_code for answer in found] == [429, 429, 200]
    assert found[0].headers["retry-after"] == "7"


def test_a_status_that_is_not_waited_for_counts_processes(endpoint: Endpoint) -> None:
    found = [endpoint.ask(said("user", "!error 403 1"), process=process) for process in ("one", "one", "two")]

    assert [answer.status_code for answer in found] == [403, 403, 200]


def test_a_connection_breaks_and_comes_back(endpoint: Endpoint) -> None:
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        endpoint.ask(said("user", "!break 1"))

    assert endpoint.texts(said("user", "!break 1")) == ["The endpoint failed 1 times first, then it answered."]


def test_trouble_after_a_tool_call_spoils_the_answer_to_its_output(endpoint: Endpoint) -> None:
    asked = said("user", "!bash one\ntwo\n!error 503 1")
    call = endpoint.ask(asked).json()["content"]
    found = [endpoint.ask(asked, {"role": "assistant", "content": call}, result("done")) for _ in range(2)]

    assert call[1]["input"]["command"] == "one\ntwo"
    assert [answer.status_code for answer in found] == [503, 200]
    assert "done" in found[1].json()["content"][0]["text"]


def test_told_that_it_was_cut_off_it_says_what_is_missing(endpoint: Endpoint) -> None:
    asked = said("user", "!break 0 2")
    whole = endpoint.texts(asked)

    rest = endpoint.texts(asked, said("assistant", whole[0]), said("user", CUT))
    last = endpoint.texts(
        asked, said("assistant", whole[0]), said("user", CUT), said("assistant", rest[0]), said("user", CUT)
    )

    assert len(whole) == 3
    assert rest == whole[1:]
    assert last == whole[2:]


def test_only_directives_are_taken_as_directives(endpoint: Endpoint) -> None:
    assert endpoint.texts(said("user", "hello\n!error"))[0].startswith("You said: hello\n!error")
