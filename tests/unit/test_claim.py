"""The claim of a turn's run: one run at a time, a silent one is taken over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

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


def test_a_claim_is_renewed_while_the_run_lives(bucket: Bucket, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RENEW_SECONDS", 0.01)
    with RunClaim(s3, bucket.name, "claim") as held:
        s3.delete_object(Bucket=bucket.name, Key="claim")
        waiter = s3.get_waiter("object_exists")
        waiter.wait(Bucket=bucket.name, Key="claim", WaiterConfig={"Delay": 1, "MaxAttempts": 20})

        assert s3.get_object(Bucket=bucket.name, Key="claim")["Body"].read() == held.body
