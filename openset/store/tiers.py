"""Where the rows of a view stand: the file of the partition, and layers above it, each for the people it answers for.

Layers that are large are read as they are from view to view, with what was gathered for them, and only masked; what is
smaller than a Block is merged into one layer when a view needs it. When most rows are in layers, the people of the file
are taken into them, and the file is not read beside them any more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.store.delta import Base
from openset.store.expiry import first_stamps, without_expired
from openset.store.identity import SelectedPersonIds
from openset.store.merge import Layer, layer_of
from openset.store.ranges import expand_ranges, offsets_of, people_ranges
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.state import Moment
from openset_format.block import Block, Column, PersonIds
from openset_format.encoding import StoredColumn
from openset_format.membership import bitmap_of

BLOCK_ROWS = 65_536
# Layers with fewer rows are merged before they are read.
SETTLED_ROWS = BLOCK_ROWS
# Above this share of the file's rows in the overlay, the people of the file are taken into it.
WHOLE_ABOVE = 0.5
# Up to so many rows of a person are looked up one by one.
FEW_ROWS = 200
_ACTION = -1


class Tier:
    """Rows of a file or a layer, and for whom they count."""

    def __init__(self, source: Base | Layer, columns: Columns, persons: PersonIds, include: NDArray[np.bool_] | None):
        """include: bool[people of the source], None for all. persons: everybody in the partition."""
        self.source = source
        self.columns = columns
        self._persons = persons
        self._include = None if include is None or include.all() else include

    def _ordinals(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.source.people[places] if isinstance(self.source, Layer) else places

    def _counts(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of the people at some places those for whom the rows here count."""
        return places if self._include is None else places[self._include[places]]

    def places(self, people: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where those of some people (ascending ordinals) stand for whom the rows here count."""
        if not isinstance(self.source, Layer):
            return self._counts(people[people < self.source.people])
        place = np.searchsorted(self.source.people, people)
        known = place < len(self.source.people)
        place, people = place[known], people[known]
        return self._counts(place[self.source.people[place] == people])

    @property
    def rows(self) -> int:
        """How many count."""
        counts = np.diff(self.source.row_start)
        return int((counts if self._include is None else counts[self._include]).sum())

    @property
    def present(self) -> BitMap:
        """The ordinals of everybody with rows that count."""
        has_rows = self.source.row_start[1:] > self.source.row_start[:-1]
        return bitmap_of(self._ordinals(self._counts(np.flatnonzero(has_rows))))

    @property
    def hidden(self) -> BitMap:
        """The ordinals of the people of the source for whom its rows do not count."""
        if self._include is None:
            return BitMap()
        return bitmap_of(self._ordinals(np.flatnonzero(~self._include)))

    @property
    def oldest_stamp(self) -> int:
        """Of all rows that count, ms."""
        stamps, places = first_stamps(self.source)
        if self._include is not None:
            stamps = stamps[self._include[places]]
        return int(stamps.min(initial=np.iinfo(np.int64).max))

    def blocks(self, max_rows: int) -> Iterator[Block]:
        """Everybody, in Blocks that share the memory of the source."""
        source, include = self.source, self._include
        layer = source if isinstance(source, Layer) and len(source.people) < len(self._persons) else None
        ids = self._persons if layer is None else SelectedPersonIds(self._persons, layer.people)
        for first, last in people_ranges(source.row_start, max_rows):
            included = None if include is None or include[first:last].all() else include[first:last]
            if included is None or included.any():
                rows = slice(int(source.row_start[first]), int(source.row_start[last]))
                yield Block(
                    ids=ids,
                    row_start=source.row_start[first : last + 1] - rows.start,
                    stamp=source.stamp[rows],
                    event_start=_event_start(source, rows),
                    columns=_BlockColumns(self.columns, rows),
                    include=included,
                    first_person=first,
                    ordinals=None if layer is None else layer.people[first:last],
                )

    def blocks_of(self, people: NDArray[np.int64], max_rows: int) -> Iterator[Block]:
        """Some people (ascending ordinals), in Blocks into which their rows are copied."""
        places = self.places(people)
        ordinals = self._ordinals(places)
        source = self.source
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
                event_start=_event_start(source, rows),
                columns=_BlockColumns(self.columns, rows),
                first_person=first,
                ordinals=ordinals[first:last],
            )


def tiers_of(moment: Moment, schema: TableSchema, expired_before: int) -> list[Tier]:
    """The file first, if it is needed, then the layers, oldest first. Everybody counts in one of them at most.

    expired_before: rows of stamps before it (ms) are left out.
    """
    base, overlay = moment.base, moment.overlay
    if overlay.layers and overlay.rows >= WHOLE_ABOVE * base.rows:
        overlay.take_in(moment.whole_base())
    sources: list[Base | Layer] = [*overlay.settled(SETTLED_ROWS)]
    if not overlay.has_everyone:
        sources.insert(0, base)
    includes = _masks(sources, len(moment.persons))
    if expired_before:
        living = _living(moment, sources, includes, expired_before)
        if len(living.people):
            sources.append(living)
            includes = _masks(sources, len(moment.persons))
    return [
        Tier(source, _columns_of(source, moment, schema), moment.persons, include)
        for source, include in zip(sources, includes, strict=True)
    ]


def _masks(sources: list[Base | Layer], people: int) -> list[NDArray[np.bool_]]:
    """For each source, oldest first, bool[people]: who is in no newer one."""
    found = []
    hidden = np.zeros(people, np.bool_)
    for source in reversed(sources):
        own = source.people if isinstance(source, Layer) else slice(0, source.people)
        found.append(~hidden[own])
        hidden[own] = True
    return found[::-1]


def _living(
    moment: Moment, sources: list[Base | Layer], includes: list[NDArray[np.bool_]], expired_before: int
) -> Layer:
    """Everybody of whom something has expired, with what has not."""
    expired = []
    for source, include in zip(sources, includes, strict=True):
        stamps, places = first_stamps(source)
        places = places[(stamps < expired_before) & include[places]]
        expired.append(source.people[places] if isinstance(source, Layer) else places)
    people = np.sort(np.concatenate(expired))
    return without_expired(layer_of(moment.events_of(people)), expired_before)


def one_person(moment: Moment, schema: TableSchema, ordinal: int, expired_before: int) -> Block | None:
    """The rows of one person, put together without looking at anybody else; None when there are none."""
    layer, place = moment.overlay.person(ordinal), 0
    source: Base | Layer
    columns: Columns
    if layer is not None:
        few = layer.rows <= FEW_ROWS
        source, columns = layer, (_FewColumns if few else _LayerColumns)(moment, schema, layer)
    elif ordinal < moment.base.people:
        source, place, columns = moment.base, ordinal, _BaseColumns(moment, schema)
    else:
        return None
    first, last = int(source.row_start[place]), int(source.row_start[place + 1])
    # The rows of a person are ordered by stamp.
    first += int(np.searchsorted(source.stamp[first:last], expired_before)) if expired_before else 0
    rows = slice(first, last)
    if first == last:
        return None
    return Block(
        ids=PersonIds.of([moment.persons[ordinal]]),
        row_start=np.array([0, last - first], np.int64),
        stamp=source.stamp[rows],
        event_start=_event_start(source, rows),
        columns=_BlockColumns(columns, rows),
        ordinals=np.array([ordinal], np.int64),
    )


def _event_start(source: Base | Layer, rows: slice | NDArray[np.int64]) -> NDArray[np.bool_] | None:
    if source.event_start is None or (isinstance(source, Layer) and source.is_flat):
        return None
    return source.event_start[rows]


def _columns_of(source: Base | Layer, moment: Moment, schema: TableSchema) -> Columns:
    return _LayerColumns(moment, schema, source) if isinstance(source, Layer) else _BaseColumns(moment, schema)


class Columns(ABC):
    """The columns of a file or layer over all its rows, made when first read. Subclasses say how."""

    def __init__(self, moment: Moment, schema: TableSchema):
        self._moment = moment
        self._by_name: dict[str, ColumnSchema] = {
            column.name: column for column in schema.columns if self._present(column)
        }

    def names(self) -> list[str]:
        """All columns that have a value anywhere in the partition, and "action"."""
        return ["action", *self._by_name]

    def has(self, name: str) -> bool:
        """Whether it is one of these names."""
        return name == "action" or name in self._by_name

    def column(self, name: str) -> Column | StoredColumn:
        """The column of this name; some rows of it are a Column. Raises KeyError."""
        return self._action() if name == "action" else self._make(self._by_name[name])

    @abstractmethod
    def _present(self, column: ColumnSchema) -> bool: ...

    @abstractmethod
    def _action(self) -> Column: ...

    @abstractmethod
    def _make(self, column: ColumnSchema) -> Column | StoredColumn: ...


class _BaseColumns(Columns):
    """Straight from the file."""

    def _present(self, column: ColumnSchema) -> bool:
        return column.id in self._moment.base.columns

    def _action(self) -> Column:
        return self._moment.base.action

    def _make(self, column: ColumnSchema) -> StoredColumn:
        return self._moment.base.columns[column.id]


class _LayerColumns(Columns):
    """Gathered from file and delta, once for all views that have the layer."""

    def __init__(self, moment: Moment, schema: TableSchema, layer: Layer):
        self._layer = layer
        self._made = moment.delta.kept(layer)
        super().__init__(moment, schema)

    def _present(self, column: ColumnSchema) -> bool:
        return self._moment.delta.has_column(column.id)

    def _action(self) -> Column:
        if _ACTION not in self._made:
            self._made[_ACTION] = self._moment.delta.gather_action(self._layer.action)
        return self._made[_ACTION]

    def _make(self, column: ColumnSchema) -> Column:
        if column.id not in self._made:
            self._made[column.id] = self._moment.delta.gather(column.id, column.type, self._layer.source)
        return self._made[column.id]


class _FewColumns(_LayerColumns):
    """The same for a layer of few rows, without bringing columns up to date that nobody else reads."""

    def _make(self, column: ColumnSchema) -> Column:
        if column.id not in self._made:
            self._made[column.id] = self._moment.delta.gather_few(column.id, column.type, self._layer.source)
        return self._made[column.id]


class _BlockColumns(Mapping[str, Column]):
    """The columns of a Block: some rows of those of its source, sharing its memory where they are a range.

    What is stored narrow is decoded whenever it is asked for: Blocks are kept, and would fill the memory with it.
    """

    def __init__(self, columns: Columns, rows: slice | NDArray[np.int64]):
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
