"""The delta of a partition: what the journal has and the file lacks, with the ordinals and codes of the partition.

Records are taken in journal order and only ever added. A column is translated when it is first read, and then kept up;
the order in which columns are read does not influence any code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from openset.store.identity import GrowingDictionary, GrowingPersons, join_persons, join_texts
from openset.store.merge import Events, Layer
from openset.store.ranges import expand_ranges, narrowest, offsets_of
from openset_format.batch import EventBatch, PartitionSlice
from openset_format.block import Column, ColumnType, PersonIds, TextDictionary
from openset_format.dictionary import packed
from openset_format.encoding import StoredColumn
from openset_format.person_index import PersonIndex

_VALUE_TYPES: dict[ColumnType, Any] = {"text": np.uint32, "int": np.int64, "double": np.float64, "bool": np.uint8}
# Rows gathered at a time, so that temporaries fit the cache.
PICKED_ROWS = 1 << 16


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
    def columns(self) -> Mapping[int, StoredColumn]: ...
    @property
    def action_index(self) -> PersonIndex | None: ...
    def index(self, column_id: int) -> PersonIndex | None: ...


class EmptyBase:
    """A partition without a file: nobody and nothing."""

    rows = 0
    people = 0
    event_start: NDArray[np.bool_] | None = None
    action_index: PersonIndex | None = None

    def __init__(self) -> None:
        self.persons = PersonIds.of([])
        self.row_start = np.zeros(1, np.int64)
        self.stamp = np.zeros(0, np.int64)
        self.action = Column("text", np.zeros(0, np.uint8), None, TextDictionary([]))
        self.columns: Mapping[int, StoredColumn] = {}

    def index(self, column_id: int) -> PersonIndex | None:
        return None


class Piece:
    """The events of one partition in a batch; only what is read of it is looked at.

    events, people, rows: where they are in the arrays of the batch.
    """

    def __init__(self, batch: EventBatch, place: PartitionSlice):
        self.batch = batch
        self.events = slice(place.first_event, place.first_event + place.event_count)
        self.people = slice(place.first_person, place.first_person + place.person_count)
        self.rows = slice(int(batch.row_start[self.events.start]), int(batch.row_start[self.events.stop]))

    @property
    def row_count(self) -> int:
        return self.rows.stop - self.rows.start

    @property
    def persons(self) -> PersonIds:
        """The people of the piece, in the order in which they occur."""
        persons, people = self.batch.persons, self.people
        texts = packed(persons.texts).part(people.start, people.stop)
        return PersonIds(persons.kinds[people], persons.integers[people], texts)


class _GrowingArray:
    """An array that is added to at its end, with room to spare: what is there is copied only when it has doubled."""

    def __init__(self, dtype: Any):
        self._room: NDArray[Any] = np.zeros(0, dtype)
        self._count = 0

    def extend(self, values: NDArray[Any]) -> None:
        end = self._count + len(values)
        if end > len(self._room):
            room = np.empty(max(end, 2 * len(self._room)), self._room.dtype)
            room[: self._count] = self._room[: self._count]
            self._room = room
        self._room[self._count : end] = values
        self._count = end

    def view(self) -> NDArray[Any]:
        """What is there now; it does not change when more comes."""
        return self._room[: self._count]


class _DeltaColumn:
    """One column over the rows of the delta, translated up to some piece."""

    def __init__(self, column_id: int, column_type: ColumnType, base: StoredColumn | None):
        self.dictionary: GrowingDictionary | None = None
        if column_type == "text":
            below = base.dictionary if base is not None and base.dictionary is not None else TextDictionary([])
            self.dictionary = GrowingDictionary(below)
        self._id = column_id
        self._pieces = 0
        self._type = _VALUE_TYPES[column_type]
        self._values = _GrowingArray(self._type)
        self._valid = _GrowingArray(np.bool_)

    def over(self, pieces: Sequence[Piece]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values and validity over all rows of the pieces, the first of which it may know already."""
        new = pieces[self._pieces :]
        if new:
            values, valid = self._translate(new)
            self._values.extend(values)
            self._valid.extend(valid)
            self._pieces = len(pieces)
        return self._values.view(), self._valid.view()

    def _translate(self, pieces: Sequence[Piece]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The values of some pieces, one after the other; where a piece lacks the column there are none."""
        bounds = offsets_of(np.array([piece.row_count for piece in pieces], np.int64))
        values = np.zeros(int(bounds[-1]), self._type)
        valid = np.zeros(int(bounds[-1]), np.bool_)
        present = [number for number, piece in enumerate(pieces) if self._id in piece.batch.columns]
        if not present:
            return values, valid
        columns = [pieces[number].batch.columns[self._id][pieces[number].rows] for number in present]
        lengths = np.diff(bounds)[present]
        found = np.concatenate([column.values for column in columns])
        has_value = np.concatenate(
            [np.ones(len(column.values), np.bool_) if column.valid is None else column.valid for column in columns]
        )
        if self.dictionary is not None:
            texts, first_codes = join_texts([_dictionary(column) for column in columns])
            found = self.dictionary.encode(found + np.repeat(first_codes, lengths), has_value, texts)
        rows = expand_ranges(bounds[present], lengths)
        values[rows], valid[rows] = found, has_value
        return values, valid


def _dictionary(column: Column) -> TextDictionary:
    assert column.dictionary is not None, "a text column has a dictionary"
    return column.dictionary


class Delta:
    """Pieces of one partition on top of its base."""

    def __init__(self, base: Base):
        self.base = base
        self.rows = 0
        self.persons = GrowingPersons(base.persons)
        self.actions = GrowingDictionary(_dictionary(base.action))
        self._pieces: list[Piece] = []
        # The first row of each piece.
        self._piece_start = _GrowingArray(np.int64)
        self._columns: dict[int, _DeltaColumn] = {}
        self._present: set[int] = set()
        self._kept: WeakKeyDictionary[Layer, dict[int, Column]] = WeakKeyDictionary()

    def add(self, pieces: Sequence[Piece]) -> Events:
        """Takes the pieces of further records, at least one, in journal order, and returns their events."""
        event_counts = np.array([piece.events.stop - piece.events.start for piece in pieces], np.int64)
        first_people = offsets_of(np.array([piece.people.stop - piece.people.start for piece in pieces], np.int64))
        ordinals = self.persons.ordinals(join_persons([piece.persons for piece in pieces]))
        # From places in each batch to places in the pieces laid end to end.
        shift = first_people[:-1] - np.array([piece.people.start for piece in pieces], np.int64)
        person = np.concatenate([piece.batch.person[piece.events] for piece in pieces]) + np.repeat(shift, event_counts)
        texts, first_codes = join_texts([TextDictionary(piece.batch.actions) for piece in pieces])
        action = np.concatenate([piece.batch.action[piece.events] for piece in pieces])
        action = self.actions.encode(action + np.repeat(first_codes, event_counts), None, texts)
        rows = np.concatenate([np.diff(piece.batch.row_start)[piece.events] for piece in pieces])
        first_row = offsets_of(rows)[:-1] + (self.base.rows + self.rows)
        self._pieces += pieces
        piece_rows = np.array([piece.row_count for piece in pieces], np.int64)
        self._piece_start.extend(self.rows + offsets_of(piece_rows)[:-1])
        self.rows += int(rows.sum())
        for piece in pieces:
            self._present |= piece.batch.columns.keys()
        stamp = np.concatenate([piece.batch.stamp[piece.events] for piece in pieces])
        return Events(ordinals[person], stamp, action, first_row, rows)

    def has_column(self, column_id: int) -> bool:
        """Whether file or delta have any value of a column."""
        return column_id in self.base.columns or column_id in self._present

    def gather(self, column_id: int, column_type: ColumnType, source: NDArray[np.int64]) -> Column:
        """A column over rows of file and delta. source: int64[rows], file rows first, then those of the delta."""
        base = self.base.columns.get(column_id)
        if column_id not in self._columns:
            self._columns[column_id] = _DeltaColumn(column_id, column_type, base)
        column = self._columns[column_id]
        delta_values, delta_valid = column.over(self._pieces)
        rows, no_values = self.base.rows, np.zeros((), delta_values.dtype)
        base_values = np.broadcast_to(no_values, rows).__getitem__ if base is None else base.decoded
        base_valid = np.broadcast_to(np.False_, rows) if base is None else base.valid
        values = pick(base_values, rows, delta_values, source)
        valid = pick_valid(base_valid, rows, delta_valid, source)
        dictionary = None
        if column.dictionary is not None:
            dictionary = column.dictionary.view()
            values = values.astype(narrowest(len(dictionary)), copy=False)
        return Column(column_type, values, valid, dictionary)

    def gather_few(self, column_id: int, column_type: ColumnType, source: NDArray[np.int64]) -> Column:
        """The same for few rows: looks at nothing but these, and a text column has a dictionary of their texts only."""
        values, valid = np.zeros(len(source), _VALUE_TYPES[column_type]), np.zeros(len(source), np.bool_)
        codes: dict[str, int] = {}
        for places, part in self._parts(column_id, source):
            if part.valid is not None:
                places, part = places[part.valid], part[np.flatnonzero(part.valid)]
            valid[places] = True
            if part.dictionary is None:
                values[places] = part.values
            else:
                used, which = np.unique(part.values, return_inverse=True)
                texts = map(part.dictionary.text, used.tolist())
                values[places] = np.array([codes.setdefault(text, len(codes)) for text in texts], np.int64)[which]
        dictionary = None
        if column_type == "text":
            dictionary, values = TextDictionary(list(codes)), values.astype(narrowest(len(codes)), copy=False)
        return Column(column_type, values, None if valid.all() else valid, dictionary)

    def _parts(self, column_id: int, source: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Column]]:
        """A column as the file and each of the pieces have it, for those places of `source` that are in there."""
        in_base = source < self.base.rows
        places = np.flatnonzero(in_base)
        if column_id in self.base.columns and len(places):
            yield places, self.base.columns[column_id][source[places]]
        places = np.flatnonzero(~in_base)
        rows = source[places] - self.base.rows
        starts = self._piece_start.view()
        owner = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(owner).tolist():
            piece = self._pieces[number]
            if column_id in piece.batch.columns:
                own = owner == number
                yield places[own], piece.batch.columns[column_id][rows[own] - starts[number] + piece.rows.start]

    def gather_action(self, action: NDArray[Any]) -> Column:
        """The action column of a layer, from its codes."""
        dictionary = self.actions.view()
        return Column("text", action.astype(narrowest(len(dictionary)), copy=False), None, dictionary)

    def kept(self, layer: Layer) -> dict[int, Column]:
        """Columns over the rows of a layer by id, for whoever gathers them: kept as long as the layer is."""
        return self._kept.setdefault(layer, {})


def pick(
    base: Callable[[NDArray[np.int64]], NDArray[Any]], base_rows: int, delta: NDArray[Any], source: NDArray[np.int64]
) -> NDArray[Any]:
    """The values at `source` of file and delta laid end to end, in the type of the delta's, which holds both.

    base: gives the values of some rows of the file.
    """
    picked = np.empty(len(source), delta.dtype)
    for start in range(0, len(source), PICKED_ROWS):
        rows, part = source[start : start + PICKED_ROWS], picked[start : start + PICKED_ROWS]
        in_base = rows < base_rows
        if in_base.all():
            part[:] = base(rows)
            continue
        part[in_base] = base(rows[in_base])
        in_delta = ~in_base
        part[in_delta] = delta[rows[in_delta] - base_rows]
    return picked


def pick_valid(
    base: NDArray[np.bool_] | None, base_rows: int, delta: NDArray[np.bool_], source: NDArray[np.int64]
) -> NDArray[np.bool_] | None:
    """The same for validity; None when all are valid. base: None when all rows of the file are."""
    if base is None:
        if delta.all():
            return None
        base = np.broadcast_to(np.True_, base_rows)
    valid = pick(base.__getitem__, base_rows, delta, source)
    return None if valid.all() else valid
