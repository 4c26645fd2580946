"""What the embedded stack keeps: whole or not at all, before it is answered, and never over what it cannot read."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st
from moto.s3.models import s3_backends
from moto.stepfunctions.parser.api import HistoryEventType

from stepgram.embedded.answers import Answer
from stepgram.embedded.aws import AwsEndpoint
from stepgram.embedded.client import ACCOUNT, client
from stepgram.embedded.functions import Invoker
from stepgram.embedded.kept import Objects
from stepgram.embedded.stack import EmbeddedStack
from stepgram.embedded.state import Change, Closed, Row, StateError, Store, read_json
from stepgram.embedded.telegram import Telegram
from stepgram.embedded.telegram.updates import kept
from stepgram.embedded.template import FunctionSpec
from tests.conftest import Bucket, Person, until

WRITER = """
import sys
from pathlib import Path
from stepgram.embedded.state import Change, Store

store = Store(Path(sys.argv[1]))
for number in range(10**9):
    store.keep(*(Change("row", str(owner), 0, [number, "x" * 300]) for owner in range(500)))
    print(number, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path)
    yield one
    one.close()


@pytest.mark.parametrize("seconds", [0, 0.004, 0.011, 0.023, 0.05])
def test_a_killed_writer_leaves_whole_transactions_and_all_that_it_answered(tmp_path: Path, seconds: float) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = int(writer.stdout.readline())
        time.sleep(seconds)  # the moment of the kill
        writer.kill()

    numbers = {row.value[0] for row in Store(tmp_path).rows("row")}

    assert len(numbers) == 1
    assert min(numbers) >= answered


def test_rows_come_back_in_order_and_go_when_they_are_removed(store: Store) -> None:
    store.keep(Change("event", "b", 10, {"n": "ü"}), Change("event", "b", 9, b"\x00"), Change("event", "a", 1, [None]))
    store.keep(Change("event", "a", 1, None), Change("event", "b", 9, b"\x01"))

    assert list(store.rows("event")) == [("b", 9, b"\x01"), ("b", 10, {"n": "ü"})]


def test_what_the_disk_refused_is_written_with_the_next_change(store: Store, tmp_path: Path) -> None:
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StateError, match="full"):
        store.keep(Change("body", "big", 0, b"x" * 1_000_000))
    assert list(store.rows("body")) == []

    store._connection.execute("PRAGMA max_page_count = 1000000")
    store.keep(Change("body", "next", 0, b"y"))
    before = store._connection.total_changes
    store.keep(Change("body", "after", 0, b"z"))

    assert store._connection.total_changes == before + 1
    assert [row.owner for row in store.rows("body")] == ["after", "big", "next"]


def test_nothing_is_kept_after_the_end(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.close()

    with pytest.raises(Closed):
        store.keep(Change("item", "late", 0, {}))


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwritten(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[5 * 4096 : 9 * 4096] = b"\xff" * (4 * 4096)
    path.write_bytes(content)


def another_format(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def no_json(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE kept SET value = '{' WHERE number = 7")
    connection.close()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (garbage, "not a database"),
        (half, "damaged"),
        (overwritten, "damaged"),
        (another_format, "has format 99, this Stepgram reads format 1"),
        (no_json, "damaged"),
    ],
)
def test_a_database_that_cannot_be_read_is_named_and_left(
    tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    store = Store(tmp_path)
    store.keep(*(Change("item", "one", number, "x" * 2000) for number in range(50)))
    store.close()
    path = tmp_path / "state.db"
    spoil(path)
    before = path.read_bytes()

    with pytest.raises(StateError, match=said) as refused:
        list(Store(tmp_path).rows("item"))

    assert str(path) in str(refused.value)
    assert "nothing was changed" in str(refused.value)
    assert "--fresh" in str(refused.value)
    assert path.read_bytes() == before


@given(flips=st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 7)), min_size=1, max_size=8))
def test_whatever_bits_are_wrong_nothing_else_than_what_was_written_comes_back(
    whole_database: bytes, tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    content = bytearray(whole_database)
    for place, bit in flips:
        content[place % len(content)] ^= 1 << bit
    home = tmp_path_factory.mktemp("flipped")
    (home / "state.db").write_bytes(content)

    try:
        store = Store(home)
        found = list(store.rows("item"))
        store.close()
    except StateError as error:
        assert "nothing was changed" in str(error)
        assert (home / "state.db").read_bytes() == content
    else:
        assert found == [Row("one", number, f"value {number} \xe9") for number in range(20)]


@pytest.fixture(scope="module")
def whole_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    home = tmp_path_factory.mktemp("whole")
    store = Store(home)
    store.keep(*(Change("item", "one", number, f"value {number} \xe9") for number in range(20)))
    store.close()
    return (home / "state.db").read_bytes()


def test_the_folder_of_an_earlier_version_is_named_and_left(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("[]")

    with pytest.raises(StateError, match=r"earlier Stepgram \(table.json\).*--fresh"):
        Store(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_a_damaged_file_of_addresses_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    path.write_text('{"aws": ')

    with pytest.raises(StateError, match=r"stack.json is damaged .* remove it"):
        read_json(path)


def test_an_item_is_kept_when_it_is_answered(stack: EmbeddedStack, chat: int) -> None:
    dynamodb, table = client("dynamodb", stack.addresses.aws), stack.deployment.outputs["SessionTable"]
    key = {"pk": {"S": f"{chat}:0"}, "sk": {"S": "test"}}

    def row() -> Any:
        return next((r.value for r in stack.store.rows("item") if r.owner == json.dumps(key, sort_keys=True)), None)

    dynamodb.put_item(TableName=table, Item={**key, "b": {"B": b"\x00\xff"}, "l": {"L": [{"N": "1"}, {"NULL": True}]}})
    written = row()
    dynamodb.update_item(
        TableName=table,
        Key=key,
        UpdateExpression="SET m = :m",
        ExpressionAttributeValues={":m": {"M": {"a": {"SS": ["x"]}}}},
    )
    updated = row()
    dynamodb.transact_write_items(TransactItems=[{"Delete": {"TableName": table, "Key": key}}])

    assert written == {**key, "b": {"B": "AP8="}, "l": {"L": [{"N": "1"}, {"NULL": True}]}}
    assert updated == {**written, "m": {"M": {"a": {"SS": ["x"]}}}}
    assert row() is None


def test_a_write_that_nobody_would_keep_is_refused(stack: EmbeddedStack, chat: int) -> None:
    table = stack.deployment.outputs["SessionTable"]
    item = {"pk": {"S": f"{chat}:0"}, "sk": {"S": "test"}}

    with pytest.raises(ClientError, match="UnknownOperationException"):
        client("dynamodb", stack.addresses.aws).batch_write_item(RequestItems={table: [{"PutRequest": {"Item": item}}]})


@pytest.fixture
def kept_bucket(stack: EmbeddedStack, bucket: Bucket, tmp_path: Path) -> Iterator[tuple[Bucket, Store]]:
    """A bucket of the test's own that is kept in a database of its own."""
    store, theirs = Store(tmp_path), stack.aws.objects
    stack.aws.objects = Objects(store, bucket.name)
    yield bucket, store
    stack.aws.objects = theirs
    store.close()


def test_objects_are_kept_when_they_are_answered_and_come_back_as_old_as_they_were(
    stack: EmbeddedStack, kept_bucket: tuple[Bucket, Store]
) -> None:
    bucket, store = kept_bucket
    s3, name = bucket.s3, bucket.name
    s3.put_object(Bucket=name, Key="a/ü 1", Body=b"one", ContentType="text/x-one")
    s3.put_object(Bucket=name, Key="a/2", Body=b"two")
    s3.copy_object(Bucket=name, Key="a/3", CopySource={"Bucket": name, "Key": "a/2"})
    upload = s3.create_multipart_upload(Bucket=name, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=name, Key="parts", UploadId=upload, PartNumber=1, Body=b"part")["ETag"]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
    s3.complete_multipart_upload(Bucket=name, Key="parts", UploadId=upload, MultipartUpload=parts)
    s3.put_object(Bucket=name, Key="gone", Body=b"")
    s3.put_object(Bucket=name, Key="also gone", Body=b"")
    s3.delete_object(Bucket=name, Key="gone")
    s3.delete_objects(Bucket=name, Delete={"Objects": [{"Key": "also gone"}]})
    made = s3_backends[ACCOUNT]["aws"].buckets[name].keys["a/ü 1"]
    made.last_modified -= timedelta(days=3)
    assert stack.aws.objects is not None
    stack.aws.objects.keep(name, "")
    before = s3.head_object(Bucket=name, Key="a/ü 1")
    s3_backends[ACCOUNT]["aws"].buckets[name].keys.clear()

    Objects(store, name).load()
    found = {item["Key"] for item in s3.list_objects_v2(Bucket=name)["Contents"]}
    after = s3.get_object(Bucket=name, Key="a/ü 1")

    assert found == {"a/ü 1", "a/2", "a/3", "parts"}
    assert after["Body"].read() == b"one"
    assert s3.get_object(Bucket=name, Key="parts")["Body"].read() == b"part"
    assert [after[field] for field in ("ETag", "LastModified", "ContentType")] == [
        before[field] for field in ("ETag", "LastModified", "ContentType")
    ]


def test_a_body_is_not_written_again_for_a_new_date(kept_bucket: tuple[Bucket, Store]) -> None:
    bucket, store = kept_bucket
    bucket.s3.put_object(Bucket=bucket.name, Key="big", Body=b"x" * 5_000_000)
    before = store._connection.total_changes

    bucket.s3.put_object(Bucket=bucket.name, Key="big", Body=b"x" * 5_000_000)

    assert store._connection.total_changes == before + 1


def test_an_execution_is_kept_with_its_history_when_it_ends_and_when_it_is_stopped(person: Person, chat: int) -> None:
    stack = person.stack
    ended = person.say(chat, "hello")
    person.wait(ended)
    stopped = person.say(chat, "!slow 30")
    person.wait_for_state(stopped, "RunAgent")
    left = stack.step_functions._execution(person.arn(stopped)).exec_worker.env
    person.step_functions.stop_execution(executionArn=person.arn(stopped), error="E", cause="C")
    left.event_manager.add_event(left.event_history_context, HistoryEventType.TaskSucceeded)  # when its task returns

    for name, status in ((ended, "SUCCEEDED"), (stopped, "ABORTED")):
        arn = person.arn(name)
        shown = person.step_functions.get_execution_history(executionArn=arn)["events"]
        events = [row for row in stack.store.rows("event") if row.owner == arn]
        document = next(row.value for row in stack.store.rows("execution") if row.owner == arn)
        assert [(row.number, row.value["type"]) for row in events] == [(event["id"], event["type"]) for event in shown]
        assert document["status"] == status
        until(lambda arn=arn: arn not in {row.owner for row in stack.store.rows("ending")})  # type: ignore[misc]


def test_an_asynchronous_invocation_is_kept_until_it_ends(stack: EmbeddedStack) -> None:
    inside, leave = threading.Event(), threading.Event()

    def around(spec: FunctionSpec, event: dict[str, Any], run: Invoker) -> Answer:
        if event != {"a": "test"}:
            return run(spec, event)
        inside.set()
        leave.wait(60)
        return Answer(b"{}")

    def rows() -> list[Any]:
        return [row.value for row in stack.store.rows("invocation") if row.value[1] == '{"a": "test"}']

    stack.functions.around = around
    try:
        stack.aws._accept(stack.deployment.functions["stepgram-IntakeFunction"], b'{"a": "test"}')
        inside.wait(60)
        during = rows()
        leave.set()
        until(lambda: rows() == [])
    finally:
        stack.functions.around = None

    assert during == [["stepgram-IntakeFunction", '{"a": "test"}', None]]


def test_the_stand_in_knows_again_what_it_knew_and_gives_no_id_twice(store: Store, tmp_path: Path) -> None:
    first = Telegram("1:t", tmp_path, kept(store), store.keep)
    first.say(7, "one")
    first.say(-8, "two", thread_id=3)
    first.say(7, "three")
    with first._moment():
        first._delete_message({"chat_id": 7, "message_id": 2})
        first._send_message({"chat_id": 7, "text": "said"})
    first.block(9)
    first.stop()

    second = Telegram("1:t", tmp_path, kept(store), store.keep)
    sent = second.say(7, "four")
    second.stop()

    assert second.state["chats"].keys() == first.state["chats"].keys()
    assert [m["text"] for m in second.state["chats"]["7"]["messages"]] == ["one", "said", "four"]
    assert second.state["chats"]["-8"] == first.state["chats"]["-8"]
    assert (second.state["updates"]["2"], second.state["blocked"]) == (first.state["updates"]["2"], [9])
    assert sent == {"update_id": 4, "message_id": 4}


def test_a_request_that_cannot_be_kept_is_not_answered_200(
    stack: EmbeddedStack, chat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise StateError("the disk is full")

    endpoint: AwsEndpoint = stack.aws
    assert endpoint.items is not None
    monkeypatch.setattr(endpoint.items, "keep", refuse)
    item = {"pk": {"S": f"{chat}:0"}, "sk": {"S": "test"}}

    with pytest.raises(ClientError) as refused:
        client("dynamodb", stack.addresses.aws).put_item(TableName=stack.deployment.outputs["SessionTable"], Item=item)

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert refused.value.response["Error"]["Message"] == "the disk is full"
