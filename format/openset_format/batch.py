"""The events of one insert request in columns, and the bytes that stand for them in the journal.

The layout (spec/journal.md) keeps every array at a multiple of eight bytes, so that decoding is a handful of views on
the payload; texts are decoded when somebody asks for one. The shortcut: nothing is compressed, since the journal is
short-lived.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .block import Column, ColumnType, PersonIds, TextDictionary
from .dictionary import PackedTexts, packed
from .errors import FormatError, UnsupportedFormatError

MAGIC = b"OSEB"
VERSION = 1
FLAT = 1  # flag: every event is one row, row_start is not stored

_HEADER = struct.Struct("<4sHHIIIIIIQ")
_COLUMN = struct.Struct("<IBBHQ")
_TYPES: tuple[ColumnType, ...] = ("text", "int", "double", "bool")
_TYPE_CODES = {name: code for code, name in enumerate(_TYPES)}
_VALUE_TYPES: dict[str, np.dtype[Any]] = {"int": np.dtype("<i8"), "double": np.dtype("<f8"), "bool": np.dtype("u1")}
_CODE_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4")}
_BYTE, _U4, _I8 = np.dtype("u1"), np.dtype("<u4"), np.dtype("<i8")


@dataclass(frozen=True, slots=True)
class PartitionSlice:
    """The events and persons of one partition: ranges of the batch's arrays."""

    partition: int
    first_event: int
    event_count: int
    first_person: int
    person_count: int


@dataclass(frozen=True, eq=False)
class EventBatch:
    """Events of one request, grouped by partition (ascending), inside a partition in request order.

    persons:    distinct persons, grouped by partition in the same order.
    person:     uint32[events], index into persons.
    stamp:      int64[events], milliseconds since the epoch, UTC.
    action:     uint32[events], index into actions.
    row_start:  int64[events+1], the rows of event e are row_start[e] … row_start[e+1]-1, at least one.
    columns:    by column id, over the rows; a column that no event mentions is absent. A text column has a small
                dictionary of its own.
    partitions: where each partition's events and persons are, ascending.
    """

    persons: PersonIds
    person: NDArray[np.uint32]
    stamp: NDArray[np.int64]
    action: NDArray[np.uint32]
    actions: list[str]
    row_start: NDArray[np.int64]
    columns: dict[int, Column]
    partitions: tuple[PartitionSlice, ...]

    @property
    def events(self) -> int:
        return len(self.stamp)

    @property
    def rows(self) -> int:
        return int(self.row_start[-1])

    def part(self, partition: int) -> EventBatch:
        """The events of one partition as a batch of their own, sharing memory; empty where there are none."""
        found = next((entry for entry in self.partitions if entry.partition == partition), None)
        if found is None:
            found = PartitionSlice(partition, 0, 0, 0, 0)
        elif len(self.partitions) == 1:
            return self
        events = slice(found.first_event, found.first_event + found.event_count)
        people = slice(found.first_person, found.first_person + found.person_count)
        bounds = self.row_start[events.start : events.stop + 1]
        rows = slice(int(bounds[0]), int(bounds[-1]))
        texts = packed(self.persons.texts).part(people.start, people.stop)
        return EventBatch(
            persons=PersonIds(self.persons.kinds[people], self.persons.integers[people], texts),
            person=self.person[events] - np.uint32(people.start),
            stamp=self.stamp[events],
            action=self.action[events],
            actions=self.actions,
            row_start=bounds - rows.start,
            columns={column_id: column[rows] for column_id, column in self.columns.items()},
            partitions=(PartitionSlice(partition, 0, found.event_count, 0, found.person_count),),
        )


def encode_batch(batch: EventBatch) -> bytes:
    """The payload of an insert record. The batch must be consistent (asserted)."""
    _check(batch)
    events, rows = batch.events, batch.rows
    flat = rows == events
    writer = _Writer()
    writer.parts.append(
        _HEADER.pack(
            MAGIC, VERSION, FLAT if flat else 0, len(batch.partitions), len(batch.persons), events,
            len(batch.actions), len(batch.columns), 0, rows,
        )
    )  # fmt: skip
    table = [(entry.partition, entry.event_count, entry.person_count) for entry in batch.partitions]
    writer.array(np.array(table, _U4).reshape(-1), _U4)
    writer.array(batch.persons.kinds, _BYTE)
    writer.array(batch.persons.integers, _I8)
    writer.texts(batch.persons.texts)
    writer.array(batch.person, _U4)
    writer.array(batch.stamp, _I8)
    writer.array(batch.action, _U4)
    writer.texts(PackedTexts.of(batch.actions))
    if not flat:
        writer.array(batch.row_start, _I8)
    for column_id, column in batch.columns.items():
        writer.column(column_id, column)
    return b"".join(writer.parts)


def decode_batch(payload: bytes | memoryview, partition: int | None = None) -> EventBatch:
    """The batch of a payload, or the slice of one partition. Arrays are views on the payload.

    Raises UnsupportedFormatError for a newer version, FormatError for bytes that are no batch.
    """
    try:
        batch = _decode(payload)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise FormatError(f"not an event batch: {error}") from error
    return batch if partition is None else batch.part(partition)


def _decode(payload: bytes | memoryview) -> EventBatch:
    magic, version, flags, partition_count, person_count, events, action_count, column_count, _, rows = (
        _HEADER.unpack_from(payload)
    )
    if magic != MAGIC:
        raise FormatError("not an event batch: wrong magic bytes")
    if version != VERSION:
        raise UnsupportedFormatError(f"an event batch of version {version}; this program reads version {VERSION}")
    reader = _Reader(payload)
    table = reader.array(_U4, 3 * partition_count).reshape(-1, 3).tolist()
    kinds = reader.array(_BYTE, person_count)
    integers = reader.array(_I8, person_count)
    persons = PersonIds(kinds, integers, reader.texts(person_count))
    person = reader.array(_U4, events)
    stamp = reader.array(_I8, events)
    action = reader.array(_U4, events)
    actions = reader.texts(action_count).texts()
    row_start = np.arange(events + 1, dtype=np.int64) if flags & FLAT else reader.array(_I8, events + 1)
    columns = dict(reader.column(rows) for _ in range(column_count))
    return EventBatch(persons, person, stamp, action, actions, row_start, columns, _slices(table))


def _slices(table: Sequence[Sequence[int]]) -> tuple[PartitionSlice, ...]:
    first_events = accumulate((row[1] for row in table), initial=0)
    first_persons = accumulate((row[2] for row in table), initial=0)
    return tuple(
        PartitionSlice(partition, first_event, event_count, first_person, person_count)
        for (partition, event_count, person_count), first_event, first_person in zip(
            table, first_events, first_persons, strict=False
        )
    )


def _check(batch: EventBatch) -> None:
    """Assert what decoding relies on; cheap enough for every insert."""
    table = [(entry.partition, entry.event_count, entry.person_count) for entry in batch.partitions]
    events, rows = batch.events, batch.rows
    assert batch.partitions == _slices(table), "slices of a batch are adjacent and start at 0"
    assert all(one[0] < next_[0] for one, next_ in pairwise(table)), "partitions ascend"
    assert sum(row[1] for row in table) == events == len(batch.person) == len(batch.action)
    assert sum(row[2] for row in table) == len(batch.persons)
    assert len(batch.row_start) == events + 1 and batch.row_start[0] == 0
    assert events == 0 or np.diff(batch.row_start).min() >= 1, "an event has at least one row"
    assert events == 0 or (batch.person.max() < len(batch.persons) and batch.action.max() < len(batch.actions))
    for column in batch.columns.values():
        assert len(column.values) == rows
        assert column.valid is None or len(column.valid) == rows
        if column.type == "text":
            assert column.dictionary is not None
            assert rows == 0 or int(column.values.max()) < max(len(column.dictionary), 1)


class _Writer:
    """Collects arrays, each padded to a multiple of eight bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def raw(self, data: bytes) -> None:
        self.parts.append(data)
        if len(data) % 8:
            self.parts.append(bytes(-len(data) % 8))

    def array(self, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        self.raw(values.astype(dtype, copy=False).tobytes())

    def texts(self, dictionary: TextDictionary) -> None:
        texts = packed(dictionary)
        low, high = int(texts.offsets[0]), int(texts.offsets[-1])
        assert high - low < 2**32, "the texts of a batch take less than 4 GiB"
        self.array(texts.offsets - low if low else texts.offsets, _U4)
        self.raw(texts.data[low:high].tobytes())

    def column(self, column_id: int, column: Column) -> None:
        dictionary = column.dictionary
        is_text = column.type == "text"
        dtype = _CODE_TYPES[column.values.dtype.itemsize] if is_text else _VALUE_TYPES[column.type]
        entries = 0 if dictionary is None else len(dictionary)
        has_valid = column.valid is not None
        self.parts.append(_COLUMN.pack(column_id, _TYPE_CODES[column.type], has_valid, dtype.itemsize, entries))
        self.array(column.values, dtype)
        if column.valid is not None:
            self.array(column.valid, _BYTE)
        if dictionary is not None:
            self.texts(dictionary)


class _Reader:
    """Hands out views on a payload, one after the other."""

    def __init__(self, payload: bytes | memoryview):
        self.payload = payload
        self.position = _HEADER.size

    def array(self, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        size = dtype.itemsize * count
        if size > len(self.payload) - self.position:
            raise FormatError(f"an event batch that ends early, at byte {len(self.payload)}")
        values = np.frombuffer(self.payload, dtype, count, self.position)
        self.position += size + -size % 8
        return values

    def texts(self, count: int) -> PackedTexts:
        offsets = self.array(_U4, count + 1)
        return PackedTexts(offsets, self.array(_BYTE, int(offsets[-1])))

    def column(self, rows: int) -> tuple[int, Column]:
        column_id, type_code, has_valid, width, entries = _COLUMN.unpack_from(self.payload, self.position)
        self.position += _COLUMN.size
        if type_code >= len(_TYPES) or (type_code == 0 and width not in _CODE_TYPES):
            raise FormatError(f"an event batch with a column of unknown type {type_code}, width {width}")
        column_type = _TYPES[type_code]
        dtype = _CODE_TYPES[width] if column_type == "text" else _VALUE_TYPES[column_type]
        values = self.array(dtype, rows)
        valid = self.array(_BYTE, rows).view(np.bool_) if has_valid else None
        dictionary = self.texts(entries) if column_type == "text" else None
        return column_id, Column(column_type, values, valid, dictionary)
