"""A partition put together from its file and the journal records on top: base, delta, and the overlay merged of both.

The overlay holds every person the delta touches, complete. New records only re-merge the people they touch. What a
state is at a moment can be kept, because everything it consists of only grows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import InternalError
from openset.store.delta import Base, Delta, EmptyBase, Piece
from openset.store.merge import Events, Layer, layer_of, layer_without_rows, merge, splice
from openset.store.now import with_now
from openset.store.overlay import Levels
from openset.store.ranges import distinct, expand_ranges
from openset.store.records import ERASURE_RECORD, EVENT_KINDS, Erasure, decode_erasure
from openset.store.snapshot import JOURNAL_DIRECTORY, PartitionSnapshot, StaleSnapshotError, superseded_path
from openset_format.batch import EventBatch, PartitionSlice, decode_batch
from openset_format.block import PersonId, PersonIds
from openset_format.errors import MissingSegmentError
from openset_format.reader import PartitionFile
from openset_format.segment import RecordRef, read_records

RECORDS_KEPT_BYTES = 64 * 1024 * 1024

# What a record has for one partition.
Change = Piece | Erasure


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """A partition after some record. It stays as it is when the state goes on.

    erased: the ordinals of everybody whom a record erased, oldest record first.
    """

    base: Base
    delta: Delta
    overlay: Levels
    persons: PersonIds
    erased: tuple[int, ...]

    def events_of(self, people: NDArray[np.int64]) -> Events:
        """The events of these people (ascending ordinals) in final order, file and delta merged."""
        found, elsewhere = self.overlay.find(people)
        in_base = base_events(self.base, elsewhere[elsewhere < self.base.people])
        events = Events.concatenate([in_base, found])
        return events.take(np.argsort(events.person, kind="stable"))

    def whole_base(self) -> Layer:
        """Everybody in the file."""
        base = self.base
        flat = base.event_start is None
        return Layer(
            people=np.arange(base.people),
            row_start=base.row_start,
            source=np.arange(base.rows),
            stamp=base.stamp,
            action=base.action.values,
            event_start=np.ones(base.rows, np.bool_) if flat or base.event_start is None else base.event_start,
        )


class PartitionState:
    """Everything known of one generation of a partition; `advance` takes further records in."""

    def __init__(self, base: Base, z_order: tuple[str, ...]):
        self.base = base
        self.delta = Delta(base)
        self.erased: tuple[int, ...] = ()
        self._overlay = Levels()
        self._z_order = z_order

    @property
    def moment(self) -> Moment:
        """What it is now."""
        return Moment(self.base, self.delta, self._overlay, self.delta.persons.view(), self.erased)

    def whole(self) -> Layer:
        """All people, file and delta merged, and not kept: ordinal p is person p of the layer."""
        layer = splice(self.moment.whole_base(), self._overlay.whole())
        assert len(layer.people) == len(self.delta.persons)
        return layer

    def advance(self, changes: Sequence[Change]) -> None:
        """Takes what further records have for this partition, in journal order."""
        for erases, group in groupby(changes, key=lambda change: isinstance(change, Erasure)):
            if erases:
                self._erase([change.person for change in group if isinstance(change, Erasure)])
            else:
                self._insert([change for change in group if isinstance(change, Piece)])

    def _erase(self, people: Sequence[PersonId]) -> None:
        """Those of them who are here have no rows any more, in file and delta, and their ordinals are nobody's."""
        ordinals = [ordinal for ordinal in map(self.delta.persons.erase, people) if ordinal is not None]
        self.erased += tuple(ordinals)
        self._overlay = self._overlay.put(layer_without_rows(np.unique(np.array(ordinals, np.int64))))

    def add_imported(self, pieces: Sequence[Piece], now_ms: int) -> None:
        """Takes events that are in no journal. now_ms: what NOW among their stamps means."""
        if pieces:
            self._insert(pieces, now_ms)

    def _insert(self, pieces: Sequence[Piece], now_ms: int | None = None) -> None:
        new = self.delta.add(pieces)
        if now_ms is not None:
            new = replace(new, stamp=with_now(new.person, new.action, new.stamp, now_ms))
        known = self.moment.events_of(distinct(new.person))
        self._overlay = self._overlay.put(layer_of(merge(Events.concatenate([known, new]), self._ranks())))

    def _ranks(self) -> NDArray[np.int64]:
        """int64[actions]: the place of each action in the z-order; those that are not in it share the last."""
        actions = self.delta.actions.view()
        ranks = np.full(len(actions), len(self._z_order), np.int64)
        for rank, action in enumerate(self._z_order):
            code = actions.code(action)
            if code is not None:
                ranks[code] = rank
        return ranks


def base_events(base: Base, people: NDArray[np.int64]) -> Events:
    """The events of these people (ascending ordinals) in the file, in order."""
    starts = base.row_start[people]
    lengths = base.row_start[people + 1] - starts
    rows = expand_ranges(starts, lengths)
    person = np.repeat(people, lengths)
    if base.event_start is None:
        first, counts = rows, np.ones(len(rows), np.int64)
    else:
        at = np.flatnonzero(base.event_start[rows])
        first, person, counts = rows[at], person[at], np.diff(np.append(at, len(rows)))
    action: NDArray[Any] = base.action.values[first]
    return Events(person, base.stamp[first], action, first, counts)


def open_base(data_dir: Path, snapshot: PartitionSnapshot) -> Base:
    """The file a snapshot names, mapped. Raises StaleSnapshotError when it has been replaced, FormatError."""
    if not snapshot.generation:
        return EmptyBase()
    path = data_dir / snapshot.file
    try:
        file = PartitionFile.open(path)
    except FileNotFoundError as error:
        raise InternalError(f"{path} is missing") from error
    if (file.generation, file.applied_sequence) == (snapshot.generation, snapshot.applied_sequence):
        return file
    # Replaced; a pinned snapshot finds the old file under its second name.
    try:
        return PartitionFile.open(
            data_dir / superseded_path(snapshot.schema.id, snapshot.partition, snapshot.generation)
        )
    except FileNotFoundError as error:
        raise StaleSnapshotError(f"{path} is generation {file.generation}, not {snapshot.generation}") from error


class RecordReader:
    """Reads journal records and keeps the last ones, because a record usually has events of several partitions."""

    def __init__(self, data_dir: Path, kept_bytes: int = RECORDS_KEPT_BYTES):
        self._directory = data_dir / JOURNAL_DIRECTORY
        self._limit = kept_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, int], _Record] = OrderedDict()

    def changes(self, snapshot: PartitionSnapshot, first: int = 0) -> list[Change]:
        """What the records from position `first` on have for the partition. Raises StaleSnapshotError, FormatError."""
        refs = list(snapshot.records.since(first))
        try:
            records = self._records(refs)
        except MissingSegmentError as error:
            raise StaleSnapshotError(str(error)) from error
        return [record.change(snapshot.partition) for record in records]

    def _records(self, refs: Sequence[RecordRef]) -> list[_Record]:
        # A member has a journal per partition: sequences alone name no record.
        keys = [(ref.segment, ref.offset) for ref in refs]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        missing = [(key, ref) for key, ref in zip(keys, refs, strict=True) if key not in found]
        read = read_records(self._directory, [ref for _, ref in missing])
        for (key, ref), (kind, _, payload) in zip(missing, read, strict=True):
            record = _Record.decode(kind, payload, ref)
            found[key] = self._kept[key] = record
            self._bytes += record.size_bytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].size_bytes
        return [found[key] for key in keys]


@dataclass(frozen=True, slots=True)
class _Record:
    """A decoded record: the events of an insert and where each partition has its own, or somebody who is erased."""

    content: EventBatch | Erasure
    places: dict[int, PartitionSlice]
    size_bytes: int

    @classmethod
    def decode(cls, kind: int, payload: memoryview, ref: RecordRef) -> _Record:
        if kind == ERASURE_RECORD:
            return cls(decode_erasure(payload), {}, ref.size_bytes)
        assert kind in EVENT_KINDS, "only records with events are among those of a partition"
        batch = decode_batch(payload)
        return cls(batch, {place.partition: place for place in batch.partitions}, ref.size_bytes)

    def change(self, partition: int) -> Change:
        """What it has for a partition."""
        content = self.content
        return content if isinstance(content, Erasure) else Piece(content, self.places[partition])


def load_state(data_dir: Path, snapshot: PartitionSnapshot, reader: RecordReader | None = None) -> PartitionState:
    """File and records of a snapshot, merged. Raises StaleSnapshotError, FormatError."""
    state = PartitionState(open_base(data_dir, snapshot), snapshot.schema.z_order)
    state.advance((reader or RecordReader(data_dir)).changes(snapshot))
    return state
