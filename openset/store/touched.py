"""Blocks of the people whom inserts touched, wave by wave, for triggers. On the side of the workers.

Records are taken in one after the other, so that everyone is seen as of the record that touched them: a wave is a run
of records in which nobody occurs twice. Only rows of these people are gathered, whatever the partition holds; the rows
that the wave brought are marked in the column `is_new`. Shortcut: partitions are put together here a second time,
beside the views of queries, because a query may be ahead of the triggers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import InternalError
from openset.store.delta import Piece
from openset.store.expiry import without_expired
from openset.store.identity import GrowingPersons
from openset.store.merge import Layer, layer_of
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.state import Change, PartitionState, RecordReader, load_state
from openset_format.block import Block, Column, PersonId, PersonIds, TextDictionary
from openset_format.errors import FormatError

PARTITIONS_KEPT = 4_096
IS_NEW = "is_new"


@dataclass(frozen=True, slots=True, eq=False)
class Wave:
    """People whom some records touched, each by one of them. sequences: of the records. people: ascending ordinals."""

    sequences: list[int]
    people: NDArray[np.int64]
    touched: Touched


class Touched:
    """Some people of a partition as it is at a moment; used before the partition moves on."""

    def __init__(self, state: PartitionState, snapshot: PartitionSnapshot, new_from: int):
        """new_from: the number of the first row that counts as new."""
        self._state = state
        self._snapshot = snapshot
        self._new_from = new_from

    @property
    def people(self) -> PersonIds:
        """The ids of everybody in the partition, by ordinal."""
        return self._state.delta.persons.view()

    def block(self, people: NDArray[np.int64], schema: TableSchema) -> Block | None:
        """A Block of those of the people (ascending ordinals) who have rows; None when nobody has.

        schema: which columns there are, by which names.
        """
        state = self._state
        layer = layer_of(state.moment.events_of(people))
        if self._snapshot.expired_before:
            layer = without_expired(layer, self._snapshot.expired_before)
        if not layer.rows:
            return None
        return Block(
            ids=_TouchedIds(state.delta.persons, layer.people),
            row_start=layer.row_start,
            stamp=layer.stamp,
            event_start=None if layer.is_flat else layer.event_start,
            columns=_TouchedColumns(state, schema, layer, self._new_from),
            ordinals=layer.people,
        )


class _TouchedIds(PersonIds):
    """The ids of some people, looked up one by one; all together they are made only when a script reads `person`."""

    def __init__(self, persons: GrowingPersons, ordinals: NDArray[np.int64]):
        self._persons = persons
        self._ordinals = ordinals

    @cached_property
    def _made(self) -> PersonIds:
        return PersonIds.of([self[place] for place in range(len(self))])

    @property
    def kinds(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return self._made.kinds

    @property
    def integers(self) -> NDArray[np.int64]:  # type: ignore[override]
        return self._made.integers

    @property
    def texts(self) -> TextDictionary:  # type: ignore[override]
        return self._made.texts

    def __len__(self) -> int:
        return len(self._ordinals)

    def __getitem__(self, person: int) -> PersonId:
        return self._persons.person(int(self._ordinals[person]))


class _TouchedColumns(Mapping[str, Column]):
    """The columns of a Block, each gathered when it is first read."""

    def __init__(self, state: PartitionState, schema: TableSchema, layer: Layer, new_from: int):
        self._state = state
        self._layer = layer
        self._new_from = new_from
        self._by_name = {column.name: column for column in schema.columns if state.delta.has_column(column.id)}
        self._made: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Column:
        if name == "action":
            return self._state.delta.gather_action(self._layer.action)
        if name == IS_NEW:
            return Column("bool", (self._layer.source >= self._new_from).astype(np.uint8))
        column = self._by_name[name]
        return self._state.delta.gather(column.id, column.type, self._layer.source)

    def __contains__(self, name: Any) -> bool:
        return name in ("action", IS_NEW) or name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(["action", IS_NEW, *self._by_name])

    def __len__(self) -> int:
        return 2 + len(self._by_name)


@dataclass(slots=True)
class _Kept:
    """A partition as it is at some record. records: how many of those above the file are in it."""

    generation: int
    records: int
    state: PartitionState


class TouchedPeople:
    """The partitions a worker runs triggers for. Not thread-safe: each worker has its own."""

    def __init__(self, reader: RecordReader, data_dir: Path, partitions_kept: int = PARTITIONS_KEPT):
        self._data_dir = data_dir
        self._reader = reader
        self._kept: OrderedDict[tuple[int, int], _Kept] = OrderedDict()
        self._limit = partitions_kept

    def now(self, snapshot: PartitionSnapshot) -> Touched:
        """The partition of a snapshot; nothing in it is new. Raises StaleSnapshotError, InternalError."""
        kept = self._at(snapshot, len(snapshot.records))
        return Touched(kept.state, snapshot, _rows(kept.state))

    def waves(self, snapshot: PartitionSnapshot, after: int, apart: Mapping[int, Collection[int]]) -> Iterator[Wave]:
        """The people whom the records of a snapshot above `after` touched, in order. Raises as `now` does.

        apart: records that stand in no wave together when what is said of them differs. A wave is to be used before
        the next one is asked for.
        """
        sequences = snapshot.records.fields[:, 0]
        first = int(np.searchsorted(sequences, after, side="right"))
        kept = self._at(snapshot, first)
        try:
            changes = self._reader.changes(snapshot, first)
        except FormatError as error:
            raise InternalError(str(error)) from error
        wave: list[tuple[int, Piece]] = []
        people = np.zeros(0, np.int64)
        for sequence, change in zip(sequences[first:].tolist(), changes, strict=True):
            own = people[:0] if not isinstance(change, Piece) else _ordinals(kept.state, change)
            differs = bool(wave) and apart.get(wave[0][0]) != apart.get(sequence)
            if wave and (differs or not isinstance(change, Piece) or np.isin(own, people).any()):
                yield self._taken_in(kept, snapshot, wave, people)
                wave, people = [], people[:0]
            if isinstance(change, Piece):
                wave.append((sequence, change))
                people = np.concatenate([people, own])
            else:
                self._advance(kept, [change])
        if wave:
            yield self._taken_in(kept, snapshot, wave, people)

    def _taken_in(
        self, kept: _Kept, snapshot: PartitionSnapshot, wave: list[tuple[int, Piece]], people: NDArray[np.int64]
    ) -> Wave:
        new_from = _rows(kept.state)
        self._advance(kept, [piece for _, piece in wave])
        return Wave([sequence for sequence, _ in wave], np.unique(people), Touched(kept.state, snapshot, new_from))

    def _advance(self, kept: _Kept, changes: list[Change]) -> None:
        kept.state.advance(changes)
        kept.records += len(changes)

    def _at(self, snapshot: PartitionSnapshot, records: int) -> _Kept:
        """The partition with the first records of a snapshot."""
        key = (snapshot.schema.id, snapshot.partition)
        kept = self._kept.pop(key, None)
        before = snapshot.records.fields[:records, 0]
        snapshot = _cut(snapshot, int(before[-1]) + 1 if len(before) else 0)
        try:
            if kept is None or kept.generation != snapshot.generation or kept.records > records:
                kept = _Kept(snapshot.generation, records, load_state(self._data_dir, snapshot, self._reader))
            elif kept.records < records:
                self._advance(kept, self._reader.changes(snapshot, kept.records))
        except FormatError as error:
            raise InternalError(str(error)) from error
        except OSError as error:
            raise InternalError(f"a partition cannot be read: {error}") from error
        self._kept[key] = kept
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return kept


def _cut(snapshot: PartitionSnapshot, before: int) -> PartitionSnapshot:
    """The snapshot without the records from a sequence on."""
    return PartitionSnapshot(
        snapshot.schema, snapshot.partition, snapshot.generation, snapshot.journal_id, snapshot.applied_sequence,
        snapshot.records.before(before), snapshot.expired_before,
    )  # fmt: skip


def _rows(state: PartitionState) -> int:
    """The number that the next row gets."""
    return state.base.rows + state.delta.rows


def _ordinals(state: PartitionState, piece: Piece) -> NDArray[np.int64]:
    """The people of a piece that comes next; those who are new get their ordinals by it."""
    return state.delta.persons.ordinals(piece.persons)
