"""What the records of the journal are: their kinds, and which partitions each touches.

An insert's payload is an event batch (`openset_format.batch`), an erasure's the person, a record of re-eventing what
happened to the triggers' state of some partitions. Whoever reads the journal asks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from openset.errors import InternalError
from openset_format.batch import decode_batch
from openset_format.block import PersonId
from openset_format.decoding import json_decoder
from openset_format.hashing import partition_of

INSERT_RECORD = 1
ERASURE_RECORD = 2
# Changes of the state of triggers (`trigger_changes`); and what triggers with emit_as_event emitted, as an insert.
REVENT_RECORD = 3
EMITTED_RECORD = 4

# The kinds whose records change what is in the file of a partition.
EVENT_KINDS = frozenset({INSERT_RECORD, ERASURE_RECORD, EMITTED_RECORD})


@dataclass(frozen=True, slots=True)
class Share:
    """What a record has for one partition. events: how many, 1 for an erasure."""

    partition: int
    events: int


class Erasure(msgspec.Struct, frozen=True):
    """A person who is erased, from the partition the person belongs to."""

    partition: int
    person: PersonId


def encode_erasure(person: PersonId, partitions: int) -> bytes:
    """The payload of an erasure."""
    return msgspec.json.encode(Erasure(partition_of(person, partitions), person))


def decode_erasure(payload: bytes | memoryview) -> Erasure:
    """Raises InternalError for what is none."""
    try:
        return json_decoder(Erasure).decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"an erasure in the journal cannot be read: {error}") from error


def shares_of(kind: int, payload: bytes | memoryview, sequence: int) -> Sequence[Share]:
    """The partitions that a record touches. Raises InternalError for an unknown kind, FormatError for damage."""
    if kind in (INSERT_RECORD, EMITTED_RECORD):
        return [Share(place.partition, place.event_count) for place in decode_batch(payload).partitions]
    if kind == ERASURE_RECORD:
        return [Share(decode_erasure(payload).partition, 1)]
    if kind == REVENT_RECORD:
        return ()  # its part of the partitions is not in their files
    raise InternalError(f"journal record {sequence} is of kind {kind}, which this program does not know")
