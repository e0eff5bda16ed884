"""Snapshots to Blocks, on the side of the workers: maps, decoded records and overlays are kept from query to query.

A query reads the file and the layers of the overlay (`store/tiers`); one person is found without them. Columns are
merged when they are read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from pyroaring import BitMap

from openset.errors import InternalError
from openset.store.lookup import ColumnValue, IndexedTexts, indexed_texts, is_looked_up, people_in_file, people_in_rows
from openset.store.merge import Layer
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot, partition_path
from openset.store.state import Moment, RecordReader, load_state
from openset.store.tiers import BLOCK_ROWS, Tier, one_person, tiers_of
from openset_format.block import Block, PersonId, PersonIds
from openset_format.errors import FormatError
from openset_format.reader import PartitionFile

PARTITIONS_KEPT = 4_096
VIEWS_KEPT = 3
# Moments share most of what they are.
MOMENTS_KEPT = 8
LONG_ROWS = 10_000
LONG_KEPT = 4


class ViewCache:
    """The partitions a worker serves. Not thread-safe: each worker has its own."""

    def __init__(self, data_dir: Path, partitions_kept: int = PARTITIONS_KEPT):
        self._data_dir = Path(data_dir)
        self._kept: OrderedDict[tuple[int, int, int], _Partition] = OrderedDict()
        self._limit = partitions_kept
        self.reader = RecordReader(self._data_dir)

    def view(self, snapshot: PartitionSnapshot) -> PartitionView:
        """Everything a snapshot names, opened: afterwards neither the file nor the journal is needed by name.

        Raises StaleSnapshotError when the snapshot was superseded before it was opened (take a new one and try
        again), InternalError for damaged files.
        """
        with _operating_errors():
            return self._partition(snapshot).view(snapshot)

    def blocks(self, snapshot: PartitionSnapshot, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """The Blocks of a snapshot. Raises as `view` does."""
        return self.view(snapshot).blocks(max_rows_per_block)

    def person_rows(self, snapshot: PartitionSnapshot, person_id: PersonId) -> Block | None:
        """One person's rows, None when there is no such person. Looks at nobody else. Raises as `view` does."""
        with _operating_errors():
            return self._partition(snapshot).person_rows(snapshot, person_id)

    def _partition(self, snapshot: PartitionSnapshot) -> _Partition:
        key = (snapshot.schema.id, snapshot.partition, snapshot.lineage)
        if key not in self._kept:
            self._forget_dropped_tables()
            self._forget_older_lineages(snapshot)
            self._kept[key] = _Partition(self._data_dir, snapshot, self.reader)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    def _forget_dropped_tables(self) -> None:
        """Their files take room on the disk as long as they are mapped."""
        for table_id in {table_id for table_id, _, _ in self._kept}:
            kept = [key for key, partition in self._kept.items() if key[0] == table_id and partition.has_file]
            if kept and not (self._data_dir / partition_path(table_id, 0)).parent.is_dir():
                for key in kept:
                    del self._kept[key]

    def _forget_older_lineages(self, snapshot: PartitionSnapshot) -> None:
        table_id, partition = snapshot.schema.id, snapshot.partition
        for key in [key for key in self._kept if key[:2] == (table_id, partition) and key[2] < snapshot.lineage]:
            del self._kept[key]


@contextmanager
def _operating_errors() -> Iterator[None]:
    """What goes wrong with files as InternalError."""
    try:
        yield
    except FormatError as error:
        raise InternalError(str(error)) from error
    except OSError as error:
        raise InternalError(f"a partition cannot be read: {error}") from error


class _Partition:
    """A partition at the newest snapshot seen, and the last moments and views, for queries that run side by side."""

    def __init__(self, data_dir: Path, snapshot: PartitionSnapshot, reader: RecordReader):
        self._data_dir = data_dir
        self._reader = reader
        self._views: OrderedDict[tuple[int, int, int], PartitionView] = OrderedDict()
        # Of the generation that is here, by the number of records.
        self._moments: OrderedDict[int, Moment] = OrderedDict()
        # Long histories of single people, which are asked for piece by piece: by snapshot, moment of expiry and person.
        self._long: OrderedDict[tuple[int, int, int, int, PersonId], Block] = OrderedDict()
        self._load(snapshot)

    def _load(self, snapshot: PartitionSnapshot) -> None:
        self._state = load_state(self._data_dir, snapshot, self._reader)
        self._generation, self._records = snapshot.generation, len(snapshot.records)
        self._applied = snapshot.applied_sequence
        self._moments = OrderedDict({self._records: self._state.moment})
        self._long.clear()

    @property
    def has_file(self) -> bool:
        return self._generation > 0

    def view(self, snapshot: PartitionSnapshot) -> PartitionView:
        key = _key(snapshot)
        if key not in self._views or not self._views[key].is_as_of(snapshot.expired_before):
            self._views[key] = PartitionView(
                self._moment_at(snapshot), snapshot.schema, snapshot.partition, snapshot.expired_before
            )
            if len(self._views) > VIEWS_KEPT:
                self._views.popitem(last=False)
        self._views.move_to_end(key)
        return self._views[key]

    def person_rows(self, snapshot: PartitionSnapshot, person_id: PersonId) -> Block | None:
        key = (*_key(snapshot), snapshot.expired_before, person_id)
        if key in self._long:
            self._long.move_to_end(key)
            return self._long[key]
        moment = self._moment_at(snapshot)
        ordinal = moment.persons.index(person_id)
        block = None if ordinal is None else one_person(moment, snapshot.schema, ordinal, snapshot.expired_before)
        if block is not None and block.rows > LONG_ROWS:
            self._long[key] = block
            if len(self._long) > LONG_KEPT:
                self._long.popitem(last=False)
        return block

    def _moment_at(self, snapshot: PartitionSnapshot) -> Moment:
        records = len(snapshot.records)
        is_same = snapshot.generation == self._generation
        assert not is_same or snapshot.applied_sequence == self._applied, "a generation of a lineage is one file"
        if snapshot.generation > self._generation:
            self._load(snapshot)
        elif snapshot.generation < self._generation or (records < self._records and records not in self._moments):
            # Older than what is here: put together anew, the newest stays.
            return load_state(self._data_dir, snapshot, self._reader).moment
        elif records > self._records:
            self._state.advance(self._reader.changes(snapshot, self._records))
            self._records = records
            self._moments[records] = self._state.moment
            if len(self._moments) > MOMENTS_KEPT:
                self._moments.popitem(last=False)
        return self._moments[records]


def _key(snapshot: PartitionSnapshot) -> tuple[int, int, int]:
    return snapshot.generation, len(snapshot.records), snapshot.schema.version


class PartitionView:
    """A partition as it was at one snapshot. It stays valid and unchanged when the cache moves on."""

    def __init__(self, moment: Moment, schema: TableSchema, partition: int, expired_before: int = 0):
        """expired_before: rows of stamps before it (ms) are left out."""
        self.schema = schema
        self.partition = partition
        self._expired_before = expired_before
        self._moment = moment
        self._blocks: dict[int, list[Block]] = {}
        self._indexed_texts: dict[str, IndexedTexts | None] = {}

    @cached_property
    def _tiers(self) -> list[Tier]:
        return tiers_of(self._moment, self.schema, self._expired_before)

    @property
    def _file_tier(self) -> Tier | None:
        """The first tier, where that is the file."""
        tiers = self._tiers
        return None if not tiers or isinstance(tiers[0].source, Layer) else tiers[0]

    @property
    def _layer_tiers(self) -> list[Tier]:
        return self._tiers if self._file_tier is None else self._tiers[1:]

    def is_as_of(self, expired_before: int) -> bool:
        """Whether it would be the same with another moment of expiry: nothing has expired between the two."""
        if expired_before == self._expired_before:
            return True
        return self._expired_before <= expired_before <= self._oldest_stamp

    @cached_property
    def _oldest_stamp(self) -> int:
        """Of all rows, ms."""
        return min((tier.oldest_stamp for tier in self._tiers), default=np.iinfo(np.int64).max)

    @property
    def people(self) -> int:
        """How many people there are, by ordinal 0 … people-1."""
        return len(self.persons)

    @property
    def persons(self) -> PersonIds:
        """The ids of all people, by ordinal."""
        return self._moment.persons

    @property
    def erased(self) -> tuple[int, ...]:
        """Ordinals whom records that are not in the file yet have erased."""
        return self._moment.erased

    @property
    def file(self) -> PartitionFile | None:
        """The file, None where there is none yet."""
        return self._moment.base if isinstance(self._moment.base, PartitionFile) else None

    @property
    def rows(self) -> int:
        """How many rows a query answers for."""
        return sum(tier.rows for tier in self._tiers)

    @cached_property
    def present(self) -> BitMap:
        """The ordinals of the people who have an event: whom a query answers for. Shared: do not change it."""
        return BitMap.union(BitMap(), *(tier.present for tier in self._tiers))

    @cached_property
    def _touched(self) -> BitMap:
        """The people of the file whom the file does not answer for."""
        return BitMap() if self._file_tier is None else self._file_tier.hidden

    def people_with(self, column: str, value: ColumnValue) -> BitMap | None:
        """The ordinals of the people with a row in which a column of the table, or "action", has this value.

        value: of the column's own type (text, int or bool). None when the index of the file does not know, or the
        column is of another type; what is only in the overlay is always known. A column that the table has not (any
        more) reads as None. The bitmap is shared: do not change it. Raises InternalError for a damaged file.
        """
        column_schema = None if column == "action" else self.schema.column(column)
        if column != "action" and column_schema is None:
            return BitMap()
        if not is_looked_up(value, "text" if column_schema is None else column_schema.type):
            return None
        known = BitMap()
        if self._file_tier is not None:
            column_id = None if column_schema is None else column_schema.id
            in_file = people_in_file(self._moment.base, column_id, value)
            if in_file is None:
                return None
            known = in_file - self._touched if self._touched else in_file
        for tier in self._layer_tiers:
            if isinstance(tier.source, Layer) and tier.columns.has(column):
                known = known | (people_in_rows(tier.source, tier.columns.column(column)[:], value) - tier.hidden)
        return known

    def indexed_texts(self, column: str) -> tuple[IndexedTexts, BitMap] | None:
        """The people of each value of a text column (or "action") in the file, and those it does not answer for.

        None where the index of the file does not know every value. What is newer is in `layer_blocks`.
        """
        column_schema = None if column == "action" else self.schema.column(column)
        if self._file_tier is None or (column != "action" and column_schema is None):
            return None
        if column_schema is not None and column_schema.type != "text":
            return None
        if column not in self._indexed_texts:
            column_id = None if column_schema is None else column_schema.id
            self._indexed_texts[column] = indexed_texts(self._moment.base, column_id)
        found = self._indexed_texts[column]
        return None if found is None else (found, self._touched)

    def layer_blocks(self, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """The Blocks of the people whom the file does not answer for."""
        return [block for tier in self._layer_tiers for block in tier.blocks(max_rows_per_block)]

    def blocks(self, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """Blocks that together answer for every person once. A person is never split over Blocks.

        The Blocks are the same objects when asked again, so what they cache is kept from query to query.
        """
        if max_rows_per_block not in self._blocks:
            self._blocks[max_rows_per_block] = list(self.stream(max_rows_per_block))
        return self._blocks[max_rows_per_block]

    def stream(self, max_rows_per_block: int = BLOCK_ROWS) -> Iterator[Block]:
        """The same Blocks made one after the other and not kept: for going through everything once."""
        for tier in self._tiers:
            yield from tier.blocks(max_rows_per_block)

    def blocks_of(self, people: BitMap, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """Blocks of some people, by ordinal, whose rows are copied together: for people who are few.

        People whom the view does not know, or who have no events, are left out. The Blocks are not kept.
        """
        wanted = np.frombuffer(people.to_array(), np.uint32).astype(np.int64)
        return [block for tier in self._tiers for block in tier.blocks_of(wanted, max_rows_per_block)]

    def person_rows(self, person_id: PersonId) -> Block | None:
        """A Block of one person, None when there is no such person or no event of theirs."""
        ordinal = self.persons.index(person_id)
        return None if ordinal is None else one_person(self._moment, self.schema, ordinal, self._expired_before)
