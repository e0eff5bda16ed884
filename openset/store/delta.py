"""The delta of a partition: what the journal has and the file lacks, with the ordinals and codes of the partition.

Records are taken in journal order and only ever added. A column is translated when it is first read, and then kept up;
the order in which columns are read does not influence any code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openset_format.batch import EventBatch
from openset_format.block import Column, ColumnType, PersonIds, TextDictionary
from openset.store.identity import GrowingDictionary, GrowingPersons
from openset.store.merge import Events

_VALUE_TYPES: dict[ColumnType, Any] = {"text": np.uint32, "int": np.int64, "double": np.float64, "bool": np.uint8}


class Base(Protocol):
    """What a delta lies on: an openset_format PartitionFile, or `EmptyBase` before there is one."""

    @property
    def rows(self) -> int: ...
    @property
    def people(self) -> int: ...
    @property
    def persons(self) -> PersonIds: ...
    @property
    def row_start(self) -> NDArray[np.int64]: ...
    @property
    def stamp(self) -> NDArray[np.int64]: ...
    @property
    def event_start(self) -> NDArray[np.bool_] | None: ...
    @property
    def action(self) -> Column: ...
    @property
    def columns(self) -> Mapping[int, Column]: ...


class EmptyBase:
    """A partition without a file: nobody and nothing."""

    rows = 0
    people = 0
    event_start: NDArray[np.bool_] | None = None

    def __init__(self) -> None:
        self.persons = PersonIds.of([])
        self.row_start = np.zeros(1, np.int64)
        self.stamp = np.zeros(0, np.int64)
        self.action = Column("text", np.zeros(0, np.uint8), None, TextDictionary([]))
        self.columns: Mapping[int, Column] = {}


class _DeltaColumn:
    """One column over the rows of the delta, translated up to some batch."""

    def __init__(self, column_type: ColumnType, base: Column | None):
        self.type = column_type
        self.dictionary: GrowingDictionary | None = None
        if column_type == "text":
            below = base.dictionary if base is not None and base.dictionary is not None else TextDictionary([])
            self.dictionary = GrowingDictionary(below)
        self._batches = 0
        self._values: NDArray[Any] = np.zeros(0, _VALUE_TYPES[column_type])
        self._valid = np.zeros(0, np.bool_)

    def over(self, column_id: int, batches: Sequence[EventBatch]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values and validity over all rows of the batches, the first of which it may know already."""
        new = batches[self._batches :]
        if new:
            parts = [self._translate(batch.columns.get(column_id), batch.rows) for batch in new]
            self._values = np.concatenate([self._values, *(values for values, _ in parts)])
            self._valid = np.concatenate([self._valid, *(valid for _, valid in parts)])
            self._batches = len(batches)
        return self._values, self._valid

    def _translate(self, column: Column | None, rows: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if column is None:
            return np.zeros(rows, self._values.dtype), np.zeros(rows, np.bool_)
        values, valid = column.values, column.valid
        if self.dictionary is not None:
            assert column.dictionary is not None
            values = self.dictionary.encode(values, valid, column.dictionary)
        return values, np.ones(rows, np.bool_) if valid is None else valid


class Delta:
    """Batches of one partition on top of its base."""

    def __init__(self, base: Base):
        self.base = base
        self.rows = 0
        self.events = 0
        self.persons = GrowingPersons(base.persons)
        assert base.action.dictionary is not None
        self.actions = GrowingDictionary(base.action.dictionary)
        self._batches: list[EventBatch] = []
        self._columns: dict[int, _DeltaColumn] = {}
        self._present: set[int] = set()

    def add(self, batch: EventBatch) -> Events:
        """Takes the slice of one record (a batch of this partition alone) and returns its events."""
        first_row = batch.row_start[:-1] + (self.base.rows + self.rows)
        ordinals = self.persons.ordinals(batch.persons)
        events = Events(
            person=ordinals[batch.person],
            stamp=batch.stamp,
            action=self.actions.encode(batch.action, None, TextDictionary(batch.actions)),
            first_row=first_row,
            rows=np.diff(batch.row_start),
        )
        self._batches.append(batch)
        self._present |= batch.columns.keys()
        self.rows += batch.rows
        self.events += batch.events
        return events

    def has_column(self, column_id: int) -> bool:
        """Whether file or delta have any value of a column."""
        return column_id in self.base.columns or column_id in self._present

    def gather(self, column_id: int, column_type: ColumnType, source: NDArray[np.int64]) -> Column:
        """A column over rows of file and delta. source: int64[rows], file rows first, then those of the delta."""
        base = self.base.columns.get(column_id)
        if column_id not in self._columns:
            self._columns[column_id] = _DeltaColumn(column_type, base)
        column = self._columns[column_id]
        delta_values, delta_valid = column.over(column_id, self._batches)
        if base is None:
            base_values: NDArray[Any] = np.broadcast_to(np.zeros((), delta_values.dtype), self.base.rows)
            base_valid: NDArray[np.bool_] | None = np.broadcast_to(np.False_, self.base.rows)
        else:
            base_values, base_valid = base.values, base.valid
        values = pick(base_values, delta_values, source)
        valid = pick_valid(base_valid, delta_valid, source, self.base.rows)
        dictionary = None
        if column.dictionary is not None:
            dictionary = column.dictionary.view()
            values = values.astype(narrowest(len(dictionary)), copy=False)
        return Column(column_type, values, valid, dictionary)

    def gather_action(self, action: NDArray[Any]) -> Column:
        """The action column of a layer, from its codes."""
        dictionary = self.actions.view()
        return Column("text", action.astype(narrowest(len(dictionary)), copy=False), None, dictionary)


def pick(base: NDArray[Any], delta: NDArray[Any], source: NDArray[np.int64]) -> NDArray[Any]:
    """The values at `source` of both arrays laid end to end."""
    if 2 * len(source) > len(base):
        return np.concatenate([base, delta])[source]
    picked = np.empty(len(source), np.result_type(base, delta))
    in_base = source < len(base)
    picked[in_base] = base[source[in_base]]
    in_delta = ~in_base
    picked[in_delta] = delta[source[in_delta] - len(base)]
    return picked


def pick_valid(
    base: NDArray[np.bool_] | None, delta: NDArray[np.bool_], source: NDArray[np.int64], base_rows: int
) -> NDArray[np.bool_] | None:
    """The same for validity; None when all are valid. base: None when all rows of the file are."""
    if base is None:
        if delta.all():
            return None
        base = np.broadcast_to(np.True_, base_rows)
    valid = pick(base, delta, source)
    return None if valid.all() else valid


def narrowest(entries: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest type for the codes of a dictionary with so many entries."""
    return np.uint8 if entries <= 1 << 8 else np.uint16 if entries <= 1 << 16 else np.uint32
