"""What nodes send each other about records: it comes back as it was, and what is none is refused."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openset.cluster.map import Position
from openset.cluster.messages import Append, Appended, Entry
from openset.cluster.recent import RecentEntries
from openset.cluster.wire import (
    Outcome,
    Payload,
    WriteItem,
    decode_items,
    decode_messages,
    decode_outcomes,
    encode_items,
    encode_messages,
    encode_outcomes,
)
from openset.errors import InternodeError
from openset.store.ingest import prepare_insert
from openset.store.records import ERASURE_RECORD, INSERT_RECORD, REVENT_RECORD, encode_erasure
from openset.store.schema import TableSchema
from openset.store.trigger_changes import Evaluated, Turn, encode_changes
from openset_format.batch import encode_batch
from openset_format.hashing import partition_of


def insert_payload(partition: int, partitions: int = 4) -> bytes:
    """Somebody's event, of somebody in that partition."""
    person = next(f"p{number}" for number in range(1_000) if partition_of(f"p{number}", partitions) == partition)
    body = json.dumps([{"person": person, "stamp": 1, "action": "view"}]).encode()
    batch = prepare_insert(body, TableSchema(1, "t", ()), partitions, 0).batch
    assert batch is not None
    return encode_batch(batch)


RECORD = Payload(INSERT_RECORD, 1, insert_payload(2))
MESSAGES = [
    Append(2, 7, Position(6, 12), (Entry(7, RECORD), Entry(7, RECORD)), 11, True, 123),
    Append(0, 1, Position(0, 0), (), 0, False),
    Appended(2, 7, 12, 0, 3, 122),
    Appended(2, 8, None, 5),
]


def test_messages_come_back_as_they_were() -> None:
    assert decode_messages(encode_messages(MESSAGES)) == MESSAGES


def test_writes_and_outcomes_come_back_as_they_were() -> None:
    turn = encode_changes({2: [Turn(1), Evaluated(5)]})
    items = [
        WriteItem(2, *RECORD),
        WriteItem(2, REVENT_RECORD, 1, turn),
        WriteItem(partition_of("ann", 4), ERASURE_RECORD, 1, encode_erasure("ann", 4)),
    ]
    assert decode_items(encode_items(items)) == items
    outcomes = [Outcome(), Outcome("no", True)]
    assert decode_outcomes(encode_outcomes(outcomes), 2) == outcomes
    with pytest.raises(InternodeError, match="3 writes were sent, 2 answered"):
        decode_outcomes(encode_outcomes(outcomes), 3)


@pytest.mark.parametrize(
    "item, says",
    [
        (WriteItem(1, *RECORD), "not about it alone"),
        (WriteItem(2, REVENT_RECORD, 1, b"{}"), "cannot be read"),
        (WriteItem(2, REVENT_RECORD, 1, encode_changes({1: [Evaluated(5)]})), "not about it alone"),
        (WriteItem(2, REVENT_RECORD, 1, encode_changes({1: [], 2: []})), "not about it alone"),
        (WriteItem(2, 99, 1, b""), "not replicated"),
        (WriteItem(2, INSERT_RECORD, 1, b"nonsense"), "cannot be read"),
        (WriteItem(2, ERASURE_RECORD, 1, b"{"), "cannot be read"),
    ],
)
def test_a_record_that_does_not_belong_there_is_refused(item: WriteItem, says: str) -> None:
    with pytest.raises(InternodeError, match=says):
        decode_items(encode_items([item]))
    append = Append(item.partition, 1, Position(0, 0), (Entry(1, Payload(item.kind, 1, item.data)),), 0, True)
    with pytest.raises(InternodeError, match=says):
        decode_messages(encode_messages([append]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_are_messages(data: st.DataObject) -> None:
    encoded = bytearray(encode_messages(MESSAGES))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    try:
        messages = decode_messages(bytes(encoded))
    except InternodeError:
        return
    assert all(message.partition >= 0 and message.term >= 0 for message in messages)


@pytest.mark.parametrize("body", [b"", b"\x80", msgspec.msgpack.encode([["append", -1]]), msgspec.msgpack.encode(7)])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    for decode in (decode_messages, decode_items, lambda data: decode_outcomes(data, 1)):
        with pytest.raises(InternodeError):
            decode(body)


def test_recent_entries_are_the_end_of_each_log() -> None:
    def entry(number: int) -> Entry:
        return Entry(1, Payload(INSERT_RECORD, 1, bytes([number]) * 10))

    recent = RecentEntries(kept_bytes=100)
    recent.keep(0, 1, [entry(number) for number in range(1, 9)])
    assert recent.get(0, 3, 5) == (entry(3), entry(4), entry(5))
    assert recent.get(0, 5, 4) == ()
    recent.keep(0, 9, [entry(number) for number in range(9, 12)])
    assert recent.get(0, 1, 2) is None, "the oldest are dropped"
    assert recent.get(0, 11, 11) == (entry(11),)
    assert recent.get(0, 11, 12) is None
    recent.cut(0, 10)
    assert recent.get(0, 11, 11) is None
    recent.keep(0, 11, [entry(77)])
    assert recent.get(0, 10, 11) == (entry(10), entry(77))
    recent.cut(0, 0)
    assert recent.get(0, 10, 10) is None
    recent.keep(1, 5, [entry(5)])
    recent.keep(1, 9, [entry(9)])
    assert recent.get(1, 5, 5) is None, "nothing stands before a gap"
    assert recent.get(1, 9, 9) == (entry(9),)


def test_an_entry_that_is_sent_again_is_found_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    recent, now = RecentEntries(), [100.0]
    monkeypatch.setattr("openset.cluster.recent.time.monotonic", lambda: now[0])
    payloads = [Payload(INSERT_RECORD, 1, bytes([number])) for number in range(5)]
    recent.keep(0, 7, [Entry(1, payload) for payload in payloads[:3]])
    now[0] += 30.0
    recent.keep(0, 10, [Entry(2, payloads[1]), Entry(2, payloads[3])])
    assert [recent.find(0, payload) for payload in payloads] == [7, 10, 9, 11, None]
    assert recent.find(1, payloads[0]) is None
    now[0] += 30.0
    assert [recent.find(0, payload) for payload in payloads] == [None, 10, None, 11, None], "of another request"
    recent.cut(0, 9)
    assert recent.find(0, payloads[1]) is None
