"""Hashes of people and events that are equal where these are, whatever file, partition, code or ordinal they have.

An event's value depends on its rows in their order, and on the columns that are looked at; a column without a value is
the same as none. Shortcut: what has equal hashes of 64 bits is taken for equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openset.store.rows import Rows, rows_of
from openset_format.block import Block, Column
from openset_format.dictionary import dictionary_hashes
from openset_format.hashing import checksum
from openset_format.persons import person_hashes

Hashes = NDArray[np.uint64]

_RUN_ROWS = 262_144
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: Hashes) -> Hashes:
    """Spreads the bits of every value (the finalizer of splitmix64)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@dataclass(frozen=True, slots=True, eq=False)
class EventHashes:
    """uint64[events] each. person: the id. key: person, stamp and action, which make an event. value: its rows."""

    person: Hashes
    key: Hashes
    value: Hashes


@dataclass(frozen=True, slots=True, eq=False)
class PeopleHashes:
    """One entry for everybody. person: the id. value: all events in their order. events: how many."""

    person: Hashes
    value: Hashes
    events: NDArray[np.int64]


class Fingerprints:
    """Makes hashes of the Blocks of one partition; keeps those of its people and dictionaries."""

    def __init__(self, columns: Sequence[str]):
        """columns: which count, besides stamp and action."""
        self._columns = list(columns)
        self._salts = {name: np.uint64(checksum(name.encode())) for name in columns}
        # By the object they are of, which is kept so that nothing else gets its place.
        self._known: dict[int, tuple[object, Hashes]] = {}

    def people(self, block: Block) -> Hashes:
        """uint64[people]: the ids of the people of a Block."""
        every = self._of(block.ids, lambda: person_hashes(block.ids))
        return every[block.first_person : block.first_person + block.people]

    def events(self, block: Block) -> EventHashes:
        """The events that a Block answers for, in order."""
        ids = self.people(block)
        parts = [self._events(rows, ids) for rows in rows_of(block, _RUN_ROWS)]
        nothing = np.zeros(0, np.uint64)
        return EventHashes(
            np.concatenate([nothing, *(part.person for part in parts)]),
            np.concatenate([nothing, *(part.key for part in parts)]),
            np.concatenate([nothing, *(part.value for part in parts)]),
        )

    def _events(self, rows: Rows, ids: Hashes) -> EventHashes:
        bounds = rows.first_rows()
        first = bounds[:-1]
        with np.errstate(over="ignore"):
            place = (np.arange(len(rows)) - np.repeat(first, np.diff(bounds))).astype(np.uint64)
            row = mixed(self._rows(rows) + (place + np.uint64(1)) * _GOLDEN)
            value = mixed(np.add.reduceat(row, first))
            person = ids[rows.person[first]]
            action = rows.column("action")
            assert action is not None, "every row has an action"
            key = mixed(person + mixed(rows.stamp[first].view(np.uint64) + _GOLDEN))
            key = mixed(key + self._values(action, first))
        return EventHashes(person, key, value)

    def _rows(self, rows: Rows) -> Hashes:
        total = np.zeros(len(rows), np.uint64)
        for name in self._columns:
            column = rows.column(name)
            if column is None:
                continue
            hashes = mixed(self._values(column) + self._salts[name])
            if column.valid is not None:
                hashes = np.where(column.valid, hashes, np.uint64(0))
            total += hashes
        return total

    def _values(self, column: Column, rows: NDArray[np.int64] | slice = slice(None)) -> Hashes:
        values = column.values[rows]
        if column.type == "text":
            dictionary = column.dictionary
            assert dictionary is not None
            hashes = self._of(dictionary, lambda: np.append(dictionary_hashes(dictionary), np.uint64(0)))
            # A null has the code 0, which an empty dictionary lacks.
            of_rows: Hashes = hashes[values]
            return of_rows
        if column.type == "bool":
            return np.asarray(values, np.uint64) + np.uint64(1)
        if column.type == "double":
            values = values + 0.0  # -0.0 is 0.0
        bits: Hashes = np.ascontiguousarray(values).view(np.uint64)
        return bits

    def _of(self, what: object, make: Callable[[], Hashes]) -> Hashes:
        if id(what) not in self._known:
            self._known[id(what)] = (what, make())
        return self._known[id(what)][1]


def of_people(events: EventHashes) -> PeopleHashes:
    """Everybody's events put together. Those of one person follow each other."""
    if not len(events.person):
        return PeopleHashes(events.person, events.person, np.zeros(0, np.int64))
    first = np.flatnonzero(np.append(True, events.person[1:] != events.person[:-1]))
    counts = np.diff(np.append(first, len(events.person)))
    with np.errstate(over="ignore"):
        place = (np.arange(len(events.person)) - np.repeat(first, counts)).astype(np.uint64)
        each = mixed(events.key + mixed(events.value) + (place + np.uint64(1)) * _GOLDEN)
        return PeopleHashes(events.person[first], mixed(np.add.reduceat(each, first)), counts)
