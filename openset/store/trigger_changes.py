"""What can happen to the triggers of a partition: the changes that journal records carry, and what they are about.

A record of the journal (kind REVENT_RECORD) holds changes by partition, as msgpack. Applied in the order of the
journal to the state of a sidecar file they give the state that was; spec/revent-file.md has the layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from openset_format.errors import FormatError

RECORD_VERSION = 1


class _Change(msgspec.Struct, frozen=True, array_like=True):
    pass


class Evaluated(_Change, frozen=True, array_like=True, tag="evaluated"):
    """Triggers have run for the inserts up to this record."""

    sequence: int


class Emitted(_Change, frozen=True, array_like=True, tag="emitted"):
    """A trigger emitted. It gets the next number of the partition. insert: it is to become an event, too."""

    stamp_ms: int
    ordinal: int
    person: int | str
    trigger_id: int
    trigger: str
    name: str
    value: Any = None
    insert: bool = False


class OnceMarked(_Change, frozen=True, array_like=True, tag="once"):
    """People who have emitted from on_insert since the trigger's epoch began."""

    trigger_id: int
    epoch: int
    ordinals: list[int]


class OnceUnmarked(_Change, frozen=True, array_like=True, tag="not_once"):
    """People who have left a watched segment, whose members are marked like people who have emitted."""

    trigger_id: int
    epoch: int
    ordinals: list[int]


class Scheduled(_Change, frozen=True, array_like=True, tag="scheduled"):
    """entries: (ordinal, due in ms, person); each replaces what was scheduled for that person and function."""

    trigger_id: int
    function: str
    entries: list[tuple[int, int, int | str]]


class Unscheduled(_Change, frozen=True, array_like=True, tag="unscheduled"):
    """Schedules that ran or were cancelled."""

    trigger_id: int
    function: str
    ordinals: list[int]


class Counted(_Change, frozen=True, array_like=True, tag="counted"):
    """Added to the counts of a trigger."""

    trigger_id: int
    people: int
    emissions: int
    errors: int


class Inserted(_Change, frozen=True, array_like=True, tag="inserted"):
    """Emissions of these numbers have become events."""

    numbers: list[int]


class Subscribed(_Change, frozen=True, array_like=True, tag="subscribed"):
    """A subscription begins with the oldest message that is kept, or an existing one has another hold."""

    trigger_id: int
    name: str
    hold_ms: int


class Unsubscribed(_Change, frozen=True, array_like=True, tag="unsubscribed"):
    """A subscription is gone."""

    trigger_id: int
    name: str


class Acknowledged(_Change, frozen=True, array_like=True, tag="acknowledged"):
    """Messages that a subscription is done with."""

    trigger_id: int
    name: str
    numbers: list[int]


class Turn(_Change, frozen=True, array_like=True, tag="turn"):
    """The changes behind it count only where this is the next turn of the partition.

    So a record changes nothing that comes twice, or from a node that has not seen what another one did before.
    """

    number: int


class Started(_Change, frozen=True, array_like=True, tag="started"):
    """A trigger runs for the inserts of the partition above this record. start: which of its starts this is about.

    Of several records about one start the first counts.
    """

    trigger_id: int
    start: int


class Letter(msgspec.Struct, frozen=True, array_like=True):
    """A message that a webhook did not take. number: of the message, which is as it was sent. again: to be tried."""

    number: int
    message: dict[str, Any]
    reason: str
    tries: int
    at_ms: int
    again: bool = False


class Buried(_Change, frozen=True, array_like=True, tag="buried"):
    """Dead letters of a subscription, each in place of one with the same number. Of a node in a cluster only.

    again: they were tried again, so each counts only where there still is the one before.
    """

    trigger_id: int
    name: str
    letters: list[Letter]
    again: bool = False


class Retried(_Change, frozen=True, array_like=True, tag="retried"):
    """The dead letters of a subscription are to be tried again."""

    trigger_id: int
    name: str


class Unburied(_Change, frozen=True, array_like=True, tag="unburied"):
    """Dead letters of these numbers are gone, or (None) all of a subscription."""

    trigger_id: int
    name: str
    numbers: list[int] | None


SubscriptionChange = Subscribed | Unsubscribed | Acknowledged
Change = (
    Evaluated | Emitted | OnceMarked | OnceUnmarked | Scheduled | Unscheduled | Counted | Inserted
    | Subscribed | Unsubscribed | Acknowledged | Turn | Started | Buried | Retried | Unburied
)  # fmt: skip


class Message(msgspec.Struct, frozen=True, array_like=True):
    """An emission as subscriptions see it. number: within the partition, from 1, never given twice."""

    number: int
    stamp_ms: int
    ordinal: int
    person: int | str
    trigger_id: int
    trigger: str
    name: str
    value: Any


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """Where a subscription is in a partition: it has acknowledged all up to a number, and some above it, ascending."""

    acked_up_to: int
    acked: list[int]
    hold_ms: int


def message_id(table_id: int, partition: int, number: int) -> str:
    """The id of a message: the same whenever it is delivered."""
    return f"{table_id}-{partition}-{number}"


def message_place(identity: str) -> tuple[int, int]:
    """The partition and the number that the id of a message names."""
    _, partition, number = identity.split("-")
    return int(partition), int(number)


class _Record(msgspec.Struct, frozen=True, array_like=True):
    version: int
    parts: list[tuple[int, list[Change]]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Record)


def encode_changes(changes: Mapping[int, Sequence[Change]]) -> bytes:
    """The payload of a record. changes: by partition."""
    return _ENCODER.encode(_Record(RECORD_VERSION, [(number, list(part)) for number, part in changes.items()]))


def decode_changes(payload: bytes | memoryview) -> dict[int, list[Change]]:
    """The changes of a record by partition. Raises FormatError."""
    try:
        record = _DECODER.decode(payload)
    except msgspec.DecodeError as error:
        raise FormatError(f"not a record of triggers: {error}") from error
    if record.version != RECORD_VERSION:
        raise FormatError(f"a record of triggers of version {record.version}; this program reads {RECORD_VERSION}")
    return dict(record.parts)
