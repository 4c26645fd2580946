"""Money: what looks cheap and is not, who hangs up or kills whoever counts, made-up records, odd answers of the model.

(The ledger's side is `tests/unit/test_budget.py`.)
"""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from functions.agent.model import endpoint, metering, request
from functions.agent.model.metering import Form, Meter, NotCounted, Spent
from functions.agent.model.request import Refused
from functions.agent.model.spending import OverBudget, Spending
from functions.common.models import Usage
from functions.conversation.budget import BEYOND_USD, at_most
from stepgram.embedded.bedrock import chunk
from tests.conftest import until
from tests.unit.test_endpoint import (
    BODY,
    END,
    INVOKE,
    MODEL,
    SECONDS,
    STREAM,
    Kept,
    Opens,
    cost,
    delta,
    message_delta,
    message_start,
    named,
    sse,
    streamed,
    whole,
)
from tests.unit.test_endpoint import Model as Upstream
from tests.unit.test_endpoint import model as model  # a fixture
from tests.unit.test_endpoint import opens as opens  # a fixture

STOPPED_BY = (
    "A request is reckoned before it passes, high where it cannot be known, and refused where it cannot be reckoned. "
    "What may be spent is written down before it is; what was spent is read from the answer. Trusted code numbers the "
    "records and bounds what they may say."
)

TEXT = "word " * 200_000
LIKE_AN_IMAGE = {"type": "base64", "media_type": "image/png", "data": TEXT}


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = LIKE_AN_IMAGE
    for _ in range(depth):
        found = {"type": "base64", "media_type": "image/png", "data": found}
    return found


def body(*content: Any, **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": list(content)}], "max_tokens": 100, **more}).encode()


# ------------------------------------------------------------------------------------------- what a request may cost


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": TEXT},
        {"type": "tool_use", "id": "1", "name": "x", "input": LIKE_AN_IMAGE},
        {"type": "tool_use", "id": "1", "name": "x", "input": {"a": nested(20)}},
        {"type": "tool_use", "id": "1", "name": "x", "input": {"content": [{"type": "image", "source": nested(0)}]}},
        {"type": "text", "text": "x", "source": LIKE_AN_IMAGE},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT}},
    ],
)
def test_text_is_reckoned_as_text_whatever_it_looks_like(block: Any) -> None:
    assert request.read(body(block)).prompt_tokens >= len(TEXT) // request.BYTES_A_TOKEN


def test_a_document_may_have_many_pages_in_few_bytes() -> None:
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}}
    inside = {"type": "tool_result", "tool_use_id": "1", "content": [pdf]}

    assert request.read(body(pdf)).prompt_tokens >= request.DOCUMENT_TOKENS
    assert request.read(body(inside, pdf)).prompt_tokens >= 2 * request.DOCUMENT_TOKENS


@pytest.mark.parametrize("kind", ["url", "file", None, 3])
@pytest.mark.parametrize("part", ["image", "document"])
def test_what_is_fetched_from_elsewhere_does_not_pass(part: str, kind: Any) -> None:
    block = {"type": part, "source": {"type": kind, "url": "https://example.com/a.pdf"}}
    for blocks in ([block], [{"type": "tool_result", "tool_use_id": "1", "content": [block]}]):
        with pytest.raises(Refused, match="source: one of type"):
            request.read(body(*blocks))


def test_what_is_kept_for_an_hour_is_reckoned_so() -> None:
    long, short = ({"type": "text", "text": TEXT, "cache_control": {"type": "x", "ttl": ttl}} for ttl in ("1h", "5m"))

    def most(block: Any) -> float:
        return request.call("/", MODEL, "sse", request.read(body(block))).most_usd

    assert most(long) > 1.5 * most(short)


@pytest.mark.parametrize("tokens", [-1, 10**7, 10**400, 1.5, True, "5", None])
def test_no_other_number_of_tokens_passes(tokens: Any) -> None:
    with pytest.raises(Refused, match="max_tokens"):
        request.call("/", MODEL, "json", request.read(body(max_tokens=tokens)))


def test_a_body_that_names_another_model_than_its_path_does_not_pass(model: Upstream, opens: Opens) -> None:
    assert opens().ask(STREAM, named("claude-haiku-5-5"))[0] == 400
    assert model.requests == []


def test_stream_is_true_or_false(model: Upstream, opens: Opens) -> None:
    cli = opens({"ANTHROPIC_API_KEY": "k"}, MODEL_PROVIDER="anthropic")

    assert cli.ask("/v1/messages", named(stream="false"))[0] == 400
    assert cli.ask("/v1/messages/count_tokens", named(mcp_servers=[]))[0] == 400
    assert model.requests == []


@pytest.mark.parametrize(("told", "status"), [("9" * 5000, 413), ("9" * 13, 413), (str(len(BODY) + 5), 400)])
def test_a_length_that_is_a_lie_is_refused(model: Upstream, opens: Opens, told: str, status: int) -> None:
    cli = opens()
    connection = cli.connect()
    connection.putrequest("POST", urlsplit(cli.endpoint.url).path + STREAM)
    connection.putheader("content-length", told)
    connection.endheaders(BODY if status == 400 else None)  # what nobody reads may reset the connection
    assert connection.sock is not None
    connection.sock.shutdown(1)

    assert connection.getresponse().status == status
    assert model.requests == []


# ------------------------------------------------------------------------------------------- requests at once


def test_who_waited_for_a_place_is_refused_when_the_budget_is_spent_by_then(model: Upstream, opens: Opens) -> None:
    """Each seemed cheap when it came; each has cost all there is."""
    answer = {"type": "message", "model": MODEL, "usage": {"input_tokens": 10, "output_tokens": 100_000}}
    model.plays = [[0.3, *whole(json.dumps(answer).encode())] for _ in range(40)]
    cli, answers = opens(budget=1.0), list[int]()
    threads = [threading.Thread(target=lambda: answers.append(cli.ask(INVOKE)[0])) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(4 * SECONDS)

    assert len(model.requests) <= endpoint.CONNECTIONS
    assert sorted(set(answers)) == [200, 402]


def test_a_whole_answer_that_may_cost_more_than_is_ever_counted_is_not_asked_for(opens: Opens, model: Upstream) -> None:
    cli = opens(budget=0.1)
    dear = json.dumps({"messages": [], "max_tokens": 200_000}).encode()

    assert cli.ask(INVOKE, dear)[0] == 402
    assert cli.spending.refused
    assert model.requests == []


def test_what_a_request_is_said_to_cost_less_than_nothing_changes_nothing() -> None:
    made = Spending(Kept(), "s", "t", 1, MODEL)
    made.begin("1", 0.1)
    made.told("1", Spent(0.5))
    made.end("1", 0.0)
    made.begin("2", 0.1)
    made.end("2", -5.0)

    assert made.cost_usd == 0.5


def test_a_run_that_is_killed_with_requests_under_way_has_recorded_them() -> None:
    kept = Kept()
    made = Spending(kept, "s", "t", 1, MODEL)
    made.budget_usd = 10.0
    for number in range(20):
        made.begin(str(number), 0.3)
        assert kept.records[-1].cost_usd >= (number + 1) * 0.3
    made.told("0", Spent(10.0))
    with pytest.raises(OverBudget):
        made.begin("21", 0.3)


@pytest.mark.parametrize(("usd", "kept"), [(12_000.0, 10_000.0), (0.3, 0.3)])
def test_no_cost_is_too_large_for_its_record(usd: float, kept: float) -> None:
    made = Spending(Kept(), "s", "t", 1, MODEL)
    made.told("1", Spent(usd))
    made.keep()

    records: Any = made._snapshots
    assert records.records[-1].cost_usd == kept


@pytest.mark.parametrize("granted", [0.01, 0.1, 1.0, 5.0])
def test_what_can_be_spent_can_be_counted(granted: float) -> None:
    made = Spending(Kept(), "s", "t", 1, MODEL)
    made.budget_usd = granted
    made.told("1", Spent(at_most(granted) - 1e-9))
    assert not made.is_far_over
    made.told("1", Spent(at_most(granted)))

    assert made.is_far_over
    assert at_most(granted) >= granted + BEYOND_USD or at_most(granted) == 2 * granted
    assert at_most(0.0, runs=9) == 0.0


# ------------------------------------------------------------------------------------------- what an answer has cost


def heard(form: Form, *pieces: bytes) -> Spent:
    """What was told last of an answer, that ends there."""
    told = [Spent(0.0)]
    meter = Meter(form, MODEL, told.append)
    for piece in pieces:
        meter.hear(piece)
    meter.cut_off()
    return told[-1]


def test_an_answer_whose_end_told_what_it_cost_costs_that() -> None:
    pieces = [message_start(), delta("x" * 4000), message_delta(100)]

    assert heard("sse", sse(*pieces)).output_tokens == 100
    assert heard("eventstream", *map(chunk, pieces)).output_tokens == 100
    assert heard("sse", sse(*pieces[:2])).output_tokens == 1000


def test_scripts_with_a_token_a_character_are_reckoned_so() -> None:
    assert heard("sse", sse(message_start(), delta("字" * 4000))).output_tokens == 4000


def test_thinking_that_nobody_sees_is_reckoned_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(metering.time, "monotonic", lambda: now[0])
    told = [Spent(0.0)]
    meter = Meter("sse", MODEL, told.append)
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}}
    meter.hear(sse(message_start(), block))
    now[0] = 60.0
    meter.cut_off()

    assert told[-1].output_tokens == 60 * metering.HIDDEN_TOKENS_A_SECOND


def test_a_block_that_begins_with_its_text_counts() -> None:
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "x" * 4000}}

    assert heard("sse", sse(message_start(), block)).output_tokens == 1000


ANSWER = sse(message_start(), delta("hello"), message_delta(100))
LF_CR = ANSWER.replace(b"\n", b"\r")


@pytest.mark.parametrize(
    "stream", [ANSWER, LF_CR, ANSWER.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + ANSWER, ANSWER.rstrip(b"\n")]
)
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_stream_is_heard_however_its_lines_end(stream: bytes, size: int) -> None:
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]

    assert heard("sse", *(pieces if size > 2 or not stream.startswith(b"\xef") else [stream])).output_tokens == 100


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {"input_tokens": -1_000_000, "output_tokens": 1},
        {"input_tokens": 1, "output_tokens": float("nan")},
        {"input_tokens": 1, "output_tokens": "many"},
        {"input_tokens": 10**30, "output_tokens": 1},
    ],
)
def test_an_answer_with_such_numbers_is_none(usage: Any) -> None:
    told: list[Spent] = []
    meter = Meter("json", MODEL, told.append)
    with pytest.raises(NotCounted):
        meter.hear(json.dumps({"type": "message", "model": MODEL, **({"usage": usage} if usage else {})}).encode())
    meter.cut_off()

    assert told == []


def test_a_later_event_lowers_nothing() -> None:
    told: list[Spent] = []
    meter = Meter("sse", MODEL, told.append)
    with pytest.raises(NotCounted):
        meter.hear(sse(message_start(1000), message_start(1)))
    assert told[-1].input_tokens == 1000


def test_tokens_written_to_the_cache_count_where_only_their_sum_is_told() -> None:
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}
    for told in ({}, split, None):
        usage = Usage.model_validate({"cache_creation_input_tokens": 100_000, "cache_creation": told})
        assert usage.written.ephemeral_5m_input_tokens == 100_000


@pytest.mark.parametrize("status", [102, 201, 203, 204, 206])
def test_another_good_status_than_200_is_no_answer_and_counts(model: Upstream, opens: Opens, status: int) -> None:
    model.plays = [whole(b'{"type": "message"}', status)]
    cli = opens()

    answered, _ = cli.ask(INVOKE)

    assert answered == 502
    until(lambda: cli.spending.cost_usd >= cost(0, 1000), SECONDS)


def test_who_hangs_up_after_the_request_was_taken_is_paid(model: Upstream, opens: Opens) -> None:
    model.plays = [[]]
    cli = opens()

    assert cli.ask(INVOKE)[0] == 502
    assert cli.spending.cost_usd >= cost(0, 1000)


def test_an_error_that_quotes_a_key_in_another_way_tells_none(model: Upstream, opens: Opens) -> None:
    key = "sk/ant+1=="
    model.plays = [whole(b'{"message": "sk\\/ant+1== and sk%2Fant%2B1%3D%3D and sk%2fant%2b1%3d%3d"}', 401)]
    cli = opens({"ANTHROPIC_API_KEY": key}, MODEL_PROVIDER="anthropic")

    _, words = cli.ask("/v1/messages", named())

    assert words == b'{"message": "... and ... and ..."}'


def test_a_thread_that_cannot_be_started_takes_no_place_for_ever(
    model: Upstream, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.plays = [[*streamed(chunk(message_start())), END]]
    cli = opens()
    start, fails = threading.Thread.start, [True] * (endpoint.THREADS + 5)

    def starts(thread: threading.Thread) -> None:
        if fails and "process_request" in thread.name:
            fails.pop()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    while fails:
        with pytest.raises((http.client.HTTPException, OSError)):
            cli.ask(STREAM)

    assert cli.ask(STREAM)[0] == 200
