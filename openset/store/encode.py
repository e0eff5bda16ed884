"""Python values to columns: dictionary codes, 64-bit numbers, validity, and the batch that goes into the journal.

Values arrive in chunks, each for some events of the request; nothing here looks at one value at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from openset.store.ranges import expand_ranges, narrowest
from openset_format.batch import EventBatch, PartitionSlice
from openset_format.block import Column, ColumnType, PersonIds, TextDictionary
from openset_format.persons import person_hashes

Value = TypeVar("Value", str, "str | int")

_VALUE_TYPES: dict[ColumnType, Any] = {"int": np.int64, "double": np.float64, "bool": np.uint8}


class Coder(dict[Any, int], Generic[Value]):
    """Value → code, in the order first seen: looking up a new value gives it the next code."""

    def __missing__(self, value: Value) -> int:
        code = self[value] = len(self)
        return code

    def encode(self, values: Sequence[Value]) -> NDArray[np.uint32]:
        """uint32[len(values)]: the code of each value."""
        return np.fromiter(map(self.__getitem__, values), np.uint32, len(values))


@dataclass(slots=True)
class _Chunk:
    """values[i] belongs to row offsets[i] (None: row 0) of event events[i]; offsets and events are int64."""

    events: NDArray[np.int64]
    offsets: NDArray[np.int64] | None
    values: NDArray[Any]
    valid: NDArray[np.bool_] | None


class ColumnBuilder:
    """One column of a request. The caller has checked that the values fit the type."""

    def __init__(self, column_type: ColumnType):
        self.type = column_type
        # Code 0 is None until the column is built.
        self._coder: Coder[str] = Coder()
        self._coder[None] = 0
        self._chunks: list[_Chunk] = []

    def add(
        self,
        events: NDArray[np.int64],
        values: Sequence[Any],
        offsets: NDArray[np.int64] | None = None,
        has_none: bool = True,
    ) -> None:
        """Values of a column. Raises OverflowError for an int beyond 64 bits (the column is then unusable)."""
        valid = None
        if self.type == "text":
            encoded: NDArray[Any] = self._coder.encode(values)
            valid = encoded != 0 if has_none else None
        else:
            if has_none:
                valid = np.fromiter((value is not None for value in values), np.bool_, len(values))
                values = [0 if value is None else value for value in values]
            encoded = np.fromiter(values, _VALUE_TYPES[self.type], len(values))
        self._chunks.append(_Chunk(events, offsets, encoded, valid))

    def build(self, row_start: NDArray[np.int64]) -> Column | None:
        """The column over the rows of the request, or None when no row has a value."""
        rows = int(row_start[-1])
        flat = len(row_start) == rows + 1
        first = self._chunks[0]
        if len(self._chunks) == 1 and flat and len(first.events) == rows:  # events ascend, so they are all rows
            values, valid = first.values, first.valid
        else:
            values = np.zeros(rows, first.values.dtype)
            valid = np.zeros(rows, np.bool_)
            for chunk in self._chunks:
                places = row_start[chunk.events] if chunk.offsets is None else row_start[chunk.events] + chunk.offsets
                values[places] = chunk.values
                valid[places] = True if chunk.valid is None else chunk.valid
        if valid is not None:
            if not valid.any():
                return None
            if valid.all():
                valid = None
        if self.type != "text":
            return Column(self.type, values, valid)
        return _text_column(values, valid, list(islice(self._coder, 1, None)))


def _text_column(codes: NDArray[np.uint32], valid: NDArray[np.bool_] | None, texts: list[str]) -> Column:
    codes = codes - np.uint32(1)
    if valid is not None:
        codes[~valid] = 0
    return Column("text", codes.astype(narrowest(len(texts)), copy=False), valid, TextDictionary(texts))


def build_batch(
    persons: Sequence[str | int],
    actions: Sequence[str],
    stamps: NDArray[np.int64],
    row_start: NDArray[np.int64],
    columns: dict[int, Column],
    partitions: int,
) -> EventBatch:
    """The batch of events in request order, grouped by partition.

    persons, actions: one per event. stamps: int64[events] in ms.
    row_start: int64[events+1]. columns: over the rows, by column id.
    """
    person_coder: Coder[str | int] = Coder()
    person = person_coder.encode(persons)
    action_coder: Coder[str] = Coder()
    action = action_coder.encode(actions)
    return group_events(
        person, PersonIds.of(list(person_coder)), action, list(action_coder), stamps, row_start, columns, partitions
    )


def group_events(
    person: NDArray[np.uint32],
    persons: PersonIds,
    action: NDArray[np.uint32],
    actions: Sequence[str],
    stamps: NDArray[np.int64],
    row_start: NDArray[np.int64],
    columns: dict[int, Column],
    partitions: int,
) -> EventBatch:
    """`build_batch` of events that are encoded already.

    person, action: uint32[events], positions in persons and actions, which are distinct and in the order they occur.
    """
    home = (person_hashes(persons) % np.uint64(partitions)).astype(np.int64)
    person_order = np.argsort(home.astype(np.uint16), kind="stable")
    place = np.empty(len(persons), np.uint32)
    place[person_order] = np.arange(len(persons), dtype=np.uint32)
    event_home = home[person]
    person = place[person]
    if not np.all(event_home[1:] >= event_home[:-1]):
        order = np.argsort(event_home.astype(np.uint16), kind="stable")
        person, action, stamps = person[order], action[order], stamps[order]
        lengths = np.diff(row_start)[order]
        rows = expand_ranges(row_start[:-1][order], lengths)
        row_start = np.concatenate([[0], np.cumsum(lengths)])
        columns = {column_id: _gather(column, rows) for column_id, column in columns.items()}
    return EventBatch(
        persons=_chosen(persons, person_order),
        person=person,
        stamp=stamps,
        action=action,
        actions=list(actions),
        row_start=row_start,
        columns=columns,
        partitions=_slices(np.bincount(event_home, minlength=1), np.bincount(home, minlength=1)),
    )


def _chosen(persons: PersonIds, order: NDArray[np.int64]) -> PersonIds:
    texts = persons.texts.texts()
    chosen = TextDictionary([texts[position] for position in order.tolist()])
    return PersonIds(persons.kinds[order], persons.integers[order], chosen)


def _gather(column: Column, rows: NDArray[np.int64]) -> Column:
    valid = None if column.valid is None else column.valid[rows]
    return Column(column.type, column.values[rows], valid, column.dictionary)


def _slices(events: NDArray[np.int64], persons: NDArray[np.int64]) -> tuple[PartitionSlice, ...]:
    slices: list[PartitionSlice] = []
    first_event = first_person = 0
    for partition in np.flatnonzero(events).tolist():
        event_count, person_count = int(events[partition]), int(persons[partition])
        slices.append(PartitionSlice(partition, first_event, event_count, first_person, person_count))
        first_event += event_count
        first_person += person_count
    return tuple(slices)
