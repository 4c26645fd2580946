"""Links lead to what they name; where there is no console they are commands."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

from functions.common.links import TRACE, Links, links
from functions.common.settings import use_environment

AWS = {"AWS_REGION": "eu-west-1", "SESSION_BUCKET": "my-bucket", "FUNCTION_LOGS": "/stepgram/bot/functions"}


def made(environment: dict[str, str]) -> Links:
    use_environment(environment)
    try:
        return links("c-5-t0-u7", "-5:0", "abc")
    finally:
        use_environment(None)


def test_on_aws_they_are_addresses_in_the_console() -> None:
    found = made({**AWS, TRACE: "Root=1-65a-b;Parent=c;Sampled=1"})
    query = unquote(unquote(urlsplit(found.logs).fragment.replace("$", "%"))).replace("*", "%")

    assert found.trace.endswith("#xray:traces/1-65a-b")
    assert 'filter turn_id = "c-5-t0-u7"' in unquote(query)
    assert "source~(~'/stepgram/bot/functions)" in unquote(query)
    assert parse_qs(urlsplit(found.session).query)["prefix"] == ["sessions/abc/"]
    assert all(urlsplit(link).netloc == "eu-west-1.console.aws.amazon.com" for link in vars(found).values())


def test_without_a_trace_there_is_no_link_to_one() -> None:
    assert made(AWS).trace == ""


def test_elsewhere_they_are_commands() -> None:
    found = made({**AWS, "CONSOLE_URL": "stepgram show {name}"})

    assert (found.logs, found.session) == ("stepgram logs c-5-t0-u7", "stepgram session show -5:0")
