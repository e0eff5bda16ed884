"""Snapshots to Blocks, on the side of the workers: maps, decoded records and overlays are kept from query to query.

A small delta is answered from an overlay: the people it touches are excluded from the Blocks of the file. When most
rows are touched, everything is merged instead. Columns are merged when they are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.errors import InternalError
from openset.store.delta import Base
from openset.store.expiry import first_stamps, living_overlay
from openset.store.identity import SelectedPersonIds
from openset.store.lookup import ColumnValue, IndexedTexts, indexed_texts, is_looked_up, people_in_file, people_in_rows
from openset.store.merge import Layer
from openset.store.ranges import expand_ranges, offsets_of
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.snapshot import PartitionSnapshot, partition_path
from openset.store.state import PartitionState, RecordReader, load_state
from openset_format.block import Block, Column, PersonId, PersonIds
from openset_format.encoding import StoredColumn
from openset_format.errors import FormatError
from openset_format.membership import bitmap_of
from openset_format.reader import PartitionFile

BLOCK_ROWS = 65_536
PARTITIONS_KEPT = 4_096
VIEWS_KEPT = 3
# Above this share of the file's rows in the overlay, all people are merged into one layer.
WHOLE_ABOVE = 0.5


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
        try:
            return self._view(snapshot)
        except FormatError as error:
            raise InternalError(str(error)) from error
        except OSError as error:
            raise InternalError(f"a partition cannot be read: {error}") from error

    def blocks(self, snapshot: PartitionSnapshot, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """The Blocks of a snapshot. Raises as `view` does."""
        return self.view(snapshot).blocks(max_rows_per_block)

    def person_rows(self, snapshot: PartitionSnapshot, person_id: PersonId) -> Block | None:
        """One person's rows, None when there is no such person. Raises as `view` does."""
        return self.view(snapshot).person_rows(person_id)

    def _view(self, snapshot: PartitionSnapshot) -> PartitionView:
        key = (snapshot.schema.id, snapshot.partition, snapshot.lineage)
        if key not in self._kept:
            self._forget_dropped_tables()
            self._forget_older_lineages(snapshot)
            self._kept[key] = _Partition(self._data_dir, snapshot, self.reader)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key].view(snapshot)

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


class _Partition:
    """A partition at the newest snapshot seen, and the last views, for queries that run side by side."""

    def __init__(self, data_dir: Path, snapshot: PartitionSnapshot, reader: RecordReader):
        self._data_dir = data_dir
        self._reader = reader
        self._views: OrderedDict[tuple[int, int, int], PartitionView] = OrderedDict()
        self._state = load_state(data_dir, snapshot, reader)
        self._generation, self._records = snapshot.generation, len(snapshot.records)

    @property
    def has_file(self) -> bool:
        return self._generation > 0

    def view(self, snapshot: PartitionSnapshot) -> PartitionView:
        key = (snapshot.generation, len(snapshot.records), snapshot.schema.version)
        if key not in self._views or not self._views[key].is_as_of(snapshot.expired_before):
            self._views[key] = PartitionView(
                self._state_at(snapshot), snapshot.schema, snapshot.partition, snapshot.expired_before
            )
            if len(self._views) > VIEWS_KEPT:
                self._views.popitem(last=False)
        self._views.move_to_end(key)
        return self._views[key]

    def _state_at(self, snapshot: PartitionSnapshot) -> PartitionState:
        if snapshot.generation > self._generation:
            self._state = load_state(self._data_dir, snapshot, self._reader)
            self._generation, self._records = snapshot.generation, len(snapshot.records)
        elif snapshot.generation < self._generation or len(snapshot.records) < self._records:
            # Older than what is here: put together anew, the newest stays.
            return load_state(self._data_dir, snapshot, self._reader)
        elif len(snapshot.records) > self._records:
            self._state.advance(self._reader.changes(snapshot, self._records))
            self._records = len(snapshot.records)
        return self._state


class PartitionView:
    """A partition as it was at one snapshot. It stays valid and unchanged when the cache moves on."""

    def __init__(self, state: PartitionState, schema: TableSchema, partition: int, expired_before: int = 0):
        """expired_before: rows of stamps before it (ms) are left out."""
        self.schema = schema
        self.partition = partition
        self._expired_before = expired_before
        self._persons = state.delta.persons.view()
        # Ordinals whom records that are not in the file yet have erased.
        self.erased = state.erased
        self._state = state
        self._base_columns: _Columns | None = None
        self._include: NDArray[np.bool_] | None = None
        base, overlay = state.base, state.overlay
        if expired_before:
            overlay = living_overlay(state, expired_before)
        layer: Layer | None = None
        if len(overlay.people) and overlay.rows >= WHOLE_ABOVE * base.rows:
            layer = state.whole(overlay)
        else:
            self._base_columns = _BaseColumns(state, schema)
            if len(overlay.people):
                self._include = ~state.touched_in_base(overlay)
                layer = overlay
        self._layer = layer
        self._layer_columns = None if layer is None else _LayerColumns(state, schema, layer)
        self._blocks: dict[int, list[Block]] = {}
        self._indexed_texts: dict[str, IndexedTexts | None] = {}

    def is_as_of(self, expired_before: int) -> bool:
        """Whether it would be the same with another moment of expiry: nothing has expired between the two."""
        if expired_before == self._expired_before:
            return True
        return self._expired_before <= expired_before <= self._oldest_stamp

    @cached_property
    def _oldest_stamp(self) -> int:
        """Of all rows, ms."""
        oldest = [np.iinfo(np.int64).max]
        if self._base_columns is not None:
            stamps, people = first_stamps(self._state.base)
            oldest.append((stamps if self._include is None else stamps[self._include[people]]).min(initial=oldest[0]))
        if self._layer is not None:
            oldest.append(first_stamps(self._layer)[0].min(initial=oldest[0]))
        return int(min(oldest))

    @property
    def people(self) -> int:
        """How many people there are, by ordinal 0 … people-1."""
        return len(self._persons)

    @property
    def persons(self) -> PersonIds:
        """The ids of all people, by ordinal."""
        return self._persons

    @property
    def file(self) -> PartitionFile | None:
        """The file, None where there is none yet."""
        return self._state.base if isinstance(self._state.base, PartitionFile) else None

    @property
    def rows(self) -> int:
        """How many rows a query answers for."""
        total = 0
        if self._base_columns is not None:
            counts = np.diff(self._state.base.row_start)
            total = int((counts if self._include is None else counts[self._include]).sum())
        return total + (0 if self._layer is None else self._layer.rows)

    @cached_property
    def present(self) -> BitMap:
        """The ordinals of the people who have an event: whom a query answers for. Shared: do not change it."""
        present = BitMap()
        if self._base_columns is not None:
            has_rows = self._state.base.row_start[1:] > self._state.base.row_start[:-1]
            present = bitmap_of(np.flatnonzero(has_rows if self._include is None else has_rows & self._include))
        if self._layer is not None:
            row_start = self._layer.row_start
            present |= bitmap_of(self._layer.people[row_start[1:] > row_start[:-1]])
        return present

    @cached_property
    def _touched(self) -> BitMap:
        """The people of the file whom the file does not answer for."""
        return BitMap() if self._include is None else bitmap_of(np.flatnonzero(~self._include))

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
        if self._base_columns is not None:
            column_id = None if column_schema is None else column_schema.id
            in_file = people_in_file(self._state.base, column_id, value)
            if in_file is None:
                return None
            known = in_file - self._touched if self._touched else in_file
        layer, columns = self._layer, self._layer_columns
        if layer is not None and columns is not None and columns.has(column):
            known = known | people_in_rows(layer, columns.column(column)[:], value)
        return known

    def indexed_texts(self, column: str) -> tuple[IndexedTexts, BitMap] | None:
        """The people of each value of a text column (or "action") in the file, and those it does not answer for.

        None where the index of the file does not know every value. What is newer is in `layer_blocks`.
        """
        column_schema = None if column == "action" else self.schema.column(column)
        if self._base_columns is None or (column != "action" and column_schema is None):
            return None
        if column_schema is not None and column_schema.type != "text":
            return None
        if column not in self._indexed_texts:
            column_id = None if column_schema is None else column_schema.id
            self._indexed_texts[column] = indexed_texts(self._state.base, column_id)
        found = self._indexed_texts[column]
        return None if found is None else (found, self._touched)

    def layer_blocks(self, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """The Blocks of the people whom the file does not answer for."""
        return list(self._layer_blocks(max_rows_per_block))

    def blocks(self, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """Blocks that together answer for every person once. A person is never split over Blocks.

        The Blocks are the same objects when asked again, so what they cache is kept from query to query.
        """
        if max_rows_per_block not in self._blocks:
            self._blocks[max_rows_per_block] = list(self.stream(max_rows_per_block))
        return self._blocks[max_rows_per_block]

    def stream(self, max_rows_per_block: int = BLOCK_ROWS) -> Iterator[Block]:
        """The same Blocks made one after the other and not kept: for going through everything once."""
        yield from self._base_blocks(max_rows_per_block)
        yield from self._layer_blocks(max_rows_per_block)

    def blocks_of(self, people: BitMap, max_rows_per_block: int = BLOCK_ROWS) -> list[Block]:
        """Blocks of some people, by ordinal, whose rows are copied together: for people who are few.

        People whom the view does not know, or who have no events, are left out. The Blocks are not kept.
        """
        wanted = np.frombuffer(people.to_array(), np.uint32).astype(np.int64)
        blocks: list[Block] = []
        if self._base_columns is not None:
            base = self._state.base
            known = wanted[wanted < base.people]
            if self._include is not None:
                known = known[self._include[known]]
            blocks += self._gathered(base, self._base_columns, known, known, max_rows_per_block)
        layer = self._layer
        if layer is not None and self._layer_columns is not None:
            places = np.flatnonzero(np.isin(layer.people, wanted, assume_unique=True))
            rows = self._layer_columns
            blocks += self._gathered(layer, rows, places, layer.people[places], max_rows_per_block)
        return blocks

    def _gathered(
        self,
        source: Base | Layer,
        columns: _Columns,
        places: NDArray[np.int64],
        ordinals: NDArray[np.int64],
        max_rows: int,
    ) -> Iterator[Block]:
        """Blocks of the people at some places of a file or layer."""
        starts = source.row_start[places]
        lengths = source.row_start[places + 1] - starts
        row_start = offsets_of(lengths)
        ids = SelectedPersonIds(self._persons, ordinals)
        for first, last in people_ranges(row_start, max_rows):
            rows = expand_ranges(starts[first:last], lengths[first:last])
            yield Block(
                ids=ids,
                row_start=row_start[first : last + 1] - row_start[first],
                stamp=source.stamp[rows],
                event_start=None if source.event_start is None else source.event_start[rows],
                columns=_BlockColumns(columns, rows),
                first_person=first,
                ordinals=ordinals[first:last],
            )

    def person_rows(self, person_id: PersonId) -> Block | None:
        """A Block of one person, None when there is no such person or no event of theirs."""
        ordinal = self._persons.index(person_id)
        if ordinal is None:
            return None
        layer, columns = self._layer, self._layer_columns
        if layer is not None and columns is not None:
            place = int(np.searchsorted(layer.people, ordinal))
            if place < len(layer.people) and layer.people[place] == ordinal:
                ids = SelectedPersonIds(self._persons, [ordinal])
                block = self._layer_block(layer, columns, ids, place, place + 1)
                block.first_person = 0
                return block if block.rows else None
        if self._base_columns is None or ordinal >= self._state.base.people:
            return None
        block = self._base_block(self._base_columns, ordinal, ordinal + 1)
        block.include = None
        return block if block.rows else None

    def _base_blocks(self, max_rows: int) -> Iterator[Block]:
        columns, include = self._base_columns, self._include
        if columns is None:
            return
        for first, last in people_ranges(self._state.base.row_start, max_rows):
            if include is None or include[first:last].any():
                yield self._base_block(columns, first, last)

    def _base_block(self, columns: _Columns, first: int, last: int) -> Block:
        base, include = self._state.base, self._include
        rows = slice(int(base.row_start[first]), int(base.row_start[last]))
        included = None if include is None or include[first:last].all() else include[first:last]
        return Block(
            ids=self._persons,
            row_start=base.row_start[first : last + 1] - rows.start,
            stamp=base.stamp[rows],
            event_start=None if base.event_start is None else base.event_start[rows],
            columns=_BlockColumns(columns, rows),
            include=included,
            first_person=first,
        )

    def _layer_blocks(self, max_rows: int) -> Iterator[Block]:
        layer, columns = self._layer, self._layer_columns
        if layer is None or columns is None:
            return
        everyone = len(layer.people) == self.people
        ids = self._persons if everyone else SelectedPersonIds(self._persons, layer.people)
        for first, last in people_ranges(layer.row_start, max_rows):
            yield self._layer_block(layer, columns, ids, first, last)

    def _layer_block(self, layer: Layer, columns: _Columns, ids: PersonIds, first: int, last: int) -> Block:
        rows = slice(int(layer.row_start[first]), int(layer.row_start[last]))
        return Block(
            ids=ids,
            row_start=layer.row_start[first : last + 1] - rows.start,
            stamp=layer.stamp[rows],
            event_start=None if layer.is_flat else layer.event_start[rows],
            columns=_BlockColumns(columns, rows),
            first_person=first,
            ordinals=layer.people[first:last],
        )


def people_ranges(row_start: NDArray[np.int64], max_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of people with at most `max_rows` rows each, or one person; ranges without a row are left out."""
    first, people = 0, len(row_start) - 1
    while first < people:
        last = int(np.searchsorted(row_start, row_start[first] + max_rows, side="right")) - 1
        last = min(max(last, first + 1), people)
        if row_start[last] > row_start[first]:
            yield first, last
        first = last


class _Columns(ABC):
    """The columns of a layer over all its rows, made when first read. Subclasses say how."""

    def __init__(self, state: PartitionState, schema: TableSchema):
        self._state = state
        self._by_name: dict[str, ColumnSchema] = {
            column.name: column for column in schema.columns if self._present(column)
        }
        self._made: dict[str, Column | StoredColumn] = {}

    def names(self) -> list[str]:
        """All columns that have a value anywhere in the partition, and "action"."""
        return ["action", *self._by_name]

    def has(self, name: str) -> bool:
        return name == "action" or name in self._by_name

    def column(self, name: str) -> Column | StoredColumn:
        """The column of this name; some rows of it are a Column. Raises KeyError."""
        if name not in self._made:
            self._made[name] = self._action() if name == "action" else self._make(self._by_name[name])
        return self._made[name]

    @abstractmethod
    def _present(self, column: ColumnSchema) -> bool: ...

    @abstractmethod
    def _action(self) -> Column: ...

    @abstractmethod
    def _make(self, column: ColumnSchema) -> Column | StoredColumn: ...


class _BaseColumns(_Columns):
    """Straight from the file."""

    def _present(self, column: ColumnSchema) -> bool:
        return column.id in self._state.base.columns

    def _action(self) -> Column:
        return self._state.base.action

    def _make(self, column: ColumnSchema) -> StoredColumn:
        return self._state.base.columns[column.id]


class _LayerColumns(_Columns):
    """Gathered from file and delta."""

    def __init__(self, state: PartitionState, schema: TableSchema, layer: Layer):
        self._layer = layer
        super().__init__(state, schema)

    def _present(self, column: ColumnSchema) -> bool:
        return self._state.delta.has_column(column.id)

    def _action(self) -> Column:
        return self._state.delta.gather_action(self._layer.action)

    def _make(self, column: ColumnSchema) -> Column:
        return self._state.delta.gather(column.id, column.type, self._layer.source)


class _BlockColumns(Mapping[str, Column]):
    """The columns of a Block: some rows of those of its layer, sharing its memory where they are a range.

    What is stored narrow is decoded whenever it is asked for: Blocks are kept, and would fill the memory with it.
    """

    def __init__(self, columns: _Columns, rows: slice | NDArray[np.int64]):
        self._columns = columns
        self._rows = rows
        self._made: dict[str, Column] = {}

    def __getitem__(self, name: str) -> Column:
        if name not in self._made:
            column = self._columns.column(name)
            rows = column[self._rows]
            if isinstance(column, StoredColumn) and column.is_narrow:
                return rows
            self._made[name] = rows
        return self._made[name]

    def __contains__(self, name: Any) -> bool:
        return self._columns.has(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns.names())

    def __len__(self) -> int:
        return len(self._columns.names())
