"""The claim of a turn's run: one run at a time, a silent one is taken over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from functions.agent import claim
from functions.agent.claim import RunClaim
from functions.common.errors import AgentBusy
from tests.conftest import Bucket


@pytest.fixture
def s3(bucket: Bucket) -> Any:
    return bucket.s3


def test_a_second_run_is_told_that_the_first_is_alive(bucket: Bucket, s3: Any) -> None:
    with (
        RunClaim(s3, bucket.name, "claim"),
        pytest.raises(AgentBusy, match="is alive"),
        RunClaim(s3, bucket.name, "claim"),
    ):
        pass


def test_a_claim_is_free_after_the_run_also_when_it_failed(bucket: Bucket, s3: Any) -> None:
    with pytest.raises(ValueError, match="broken"), RunClaim(s3, bucket.name, "claim"):
        raise ValueError("broken")

    with RunClaim(s3, bucket.name, "claim") as held:
        assert s3.get_object(Bucket=bucket.name, Key="claim")["Body"].read() == held.body


def test_a_silent_claim_is_taken_over(bucket: Bucket, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket=bucket.name, Key="claim", Body=b"dead")

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + claim.SILENT + timedelta(seconds=1)

    monkeypatch.setattr(claim, "datetime", Later)

    with RunClaim(s3, bucket.name, "claim") as held:
        assert s3.get_object(Bucket=bucket.name, Key="claim")["Body"].read() == held.body


class Meanwhile:
    """An S3 client of a run that found a silent claim; `happens` before it takes it over."""

    def __init__(self, s3: Any, happens: Callable[[], object]) -> None:
        self._s3 = s3
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    def put_object(self, **request: Any) -> Any:
        if "IfMatch" in request:
            self._happens()
        return self._s3.put_object(**request)


def conflict() -> None:
    raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (lambda bucket: bucket.s3.delete_object(Bucket=bucket.name, Key="claim"), "ended just now"),
        (lambda bucket: bucket.s3.put_object(Bucket=bucket.name, Key="claim", Body=b"other"), "took over first"),
        (lambda bucket: conflict(), "took over first"),
    ],
    ids=["ended", "taken over", "at the same time"],
)
def test_a_silent_claim_that_changes_meanwhile_is_not_taken_over(
    bucket: Bucket, s3: Any, monkeypatch: pytest.MonkeyPatch, happens: Callable[[Bucket], object], says: str
) -> None:
    s3.put_object(Bucket=bucket.name, Key="claim", Body=b"dead")
    monkeypatch.setattr(claim, "SILENT", timedelta())

    with (
        pytest.raises(AgentBusy, match=says),
        RunClaim(Meanwhile(s3, lambda: happens(bucket)), bucket.name, "claim"),  # type: ignore[arg-type]
    ):
        pass


def test_a_claim_is_renewed_while_the_run_lives(bucket: Bucket, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RENEW_SECONDS", 0.01)
    with RunClaim(s3, bucket.name, "claim") as held:
        s3.delete_object(Bucket=bucket.name, Key="claim")
        waiter = s3.get_waiter("object_exists")
        waiter.wait(Bucket=bucket.name, Key="claim", WaiterConfig={"Delay": 1, "MaxAttempts": 20})

        assert s3.get_object(Bucket=bucket.name, Key="claim")["Body"].read() == held.body
