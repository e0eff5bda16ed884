"""What owners and copies say to each other, and writes on their way to an owner, as bytes: msgpack, in arrays.

What comes in is checked: a payload has to be a record of its kind that touches the partition it is sent for, and no
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec

from openset.cluster.map import Position
from openset.cluster.messages import Append, Appended, Entry, Message
from openset.errors import InternodeError, OpenSetError
from openset.store.records import EVENT_KINDS, REVENT_RECORD, shares_of
from openset.store.trigger_changes import decode_changes
from openset_format.errors import FormatError

_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_Partition = Annotated[int, msgspec.Meta(ge=0, lt=1_000)]


class Payload(NamedTuple):
    """What a record is, whatever its place in the log. kind: see `store.records`."""

    kind: int
    table_id: int
    data: bytes


class WriteItem(msgspec.Struct, frozen=True, array_like=True):
    """A record for one partition. again: it was sent before, and may be in the log although nobody said so."""

    partition: _Partition
    kind: _Number
    table_id: _Number
    data: bytes
    again: bool = False


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """What became of a record. reason: why it is not agreed, "" when it is. read_only: the owner's disk is full."""

    reason: str = ""
    read_only: bool = False


class _Entry(msgspec.Struct, frozen=True, array_like=True):
    term: _Number
    kind: _Number
    table_id: _Number
    data: bytes


class _Append(msgspec.Struct, frozen=True, array_like=True, tag="append"):
    partition: _Partition
    term: _Number
    previous_term: _Number
    previous_index: _Number
    committed: _Number
    complete: bool
    sent_ms: _Number
    entries: list[_Entry]


class _Appended(msgspec.Struct, frozen=True, array_like=True, tag="appended"):
    partition: _Partition
    term: _Number
    matched: _Number | None
    hint: _Number
    ticket: _Number
    echo_ms: _Number


# What msgspec raises for bytes that are not what they should be.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_messages = msgspec.msgpack.Decoder(list[_Append | _Appended])
_items = msgspec.msgpack.Decoder(list[WriteItem])
_outcomes = msgspec.msgpack.Decoder(list[Outcome])


def size_of(message: Message) -> int:
    """About how many bytes it takes."""
    if isinstance(message, Appended):
        return 32
    return 64 + sum(32 + len(entry.payload.data) for entry in message.entries)


def encode_messages(messages: Sequence[Message]) -> bytes:
    """Messages of owners and copies."""
    return msgspec.msgpack.encode([_encoded(message) for message in messages])


def _encoded(message: Message) -> _Append | _Appended:
    if isinstance(message, Appended):
        return _Appended(
            message.partition, message.term, message.matched, message.hint, message.ticket, message.echo_ms
        )
    entries = [_Entry(one.term, one.payload.kind, one.payload.table_id, one.payload.data) for one in message.entries]
    previous = message.previous
    return _Append(
        message.partition, message.term, previous.term, previous.index, message.committed, message.complete,
        message.sent_ms, entries,
    )  # fmt: skip


def decode_messages(data: bytes) -> list[Message]:
    """Raises InternodeError for what is none."""
    try:
        return [_decoded(each) for each in _messages.decode(data)]
    except _UNREADABLE as error:
        raise InternodeError(f"this is no message between nodes: {error}") from error


def _decoded(each: _Append | _Appended) -> Message:
    if isinstance(each, _Appended):
        return Appended(each.partition, each.term, each.matched, each.hint, each.ticket, each.echo_ms)
    for entry in each.entries:
        check_payload(each.partition, entry.kind, entry.data)
    return Append(
        each.partition,
        each.term,
        Position(each.previous_term, each.previous_index),
        tuple(Entry(entry.term, Payload(entry.kind, entry.table_id, entry.data)) for entry in each.entries),
        each.committed,
        each.complete,
        each.sent_ms,
    )


def check_payload(partition: int, kind: int, data: bytes) -> None:
    """Raises InternodeError for a record that does not belong into the log of a partition."""
    if kind not in EVENT_KINDS and kind != REVENT_RECORD:
        raise InternodeError(f"records of kind {kind} are not replicated")
    try:
        if kind == REVENT_RECORD:
            touched = list(decode_changes(data))
        else:
            touched = [share.partition for share in shares_of(kind, data, 0)]
    except (OpenSetError, FormatError) as error:
        raise InternodeError(f"a record cannot be read: {error}") from error
    if touched != [partition]:
        raise InternodeError(f"a record for partition {partition} is not about it alone")


def encode_items(items: Sequence[WriteItem]) -> bytes:
    return msgspec.msgpack.encode(items)


def decode_items(data: bytes) -> list[WriteItem]:
    """Raises InternodeError for what is none."""
    try:
        items = _items.decode(data)
    except _UNREADABLE as error:
        raise InternodeError(f"these are no writes: {error}") from error
    for item in items:
        check_payload(item.partition, item.kind, item.data)
    return items


def encode_outcomes(outcomes: Sequence[Outcome]) -> bytes:
    return msgspec.msgpack.encode(outcomes)


def decode_outcomes(data: bytes, count: int) -> list[Outcome]:
    """Raises InternodeError for what is none."""
    try:
        outcomes = _outcomes.decode(data)
    except _UNREADABLE as error:
        raise InternodeError(f"this is no answer to writes: {error}") from error
    if len(outcomes) != count:
        raise InternodeError(f"{count} writes were sent, {len(outcomes)} answered")
    return outcomes
