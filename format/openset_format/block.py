"""The in-memory face of a set of people: arrays over mapped files, shared memory or plain memory.

Everything above the store sees only Blocks, so that the query engine runs and is tested without files. A Block is
immutable by convention: arrays may be read-only maps and are never written to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ColumnType = Literal["text", "int", "double", "bool"]
PersonId = str | int

TEXT_PERSON = 0
INTEGER_PERSON = 1
# Somebody who was erased: an ordinal that nobody has any more.
ERASED_PERSON = 2


class TextDictionary:
    """Distinct texts in code order (code 0 first). Subclasses may decode lazily from a file."""

    def __init__(self, texts: Sequence[str]):
        self._texts = list(texts)
        self._codes: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, code: int) -> str:
        """The text of one code. Raises IndexError for a code that is not in the dictionary."""
        return self._texts[code]

    def texts(self) -> list[str]:
        """All texts in code order. The list is shared: do not change it."""
        return self._texts

    def code(self, text: str) -> int | None:
        """The code of a text, or None when it does not occur."""
        if self._codes is None:
            self._codes = {entry: code for code, entry in enumerate(self._texts)}
        return self._codes.get(text)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column over the rows of a Block.

    values: text: unsigned codes (uint8, uint16 or uint32) into `dictionary`; int: int64; double: float64; bool: uint8.
    valid:  bool[rows], False where the value is None (the value stored there is zero); None when every row has a value.
    """

    type: ColumnType
    values: NDArray[Any]
    valid: NDArray[np.bool_] | None = None
    dictionary: TextDictionary | None = None

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Column:
        """The same column over some rows; over a range, it shares the memory."""
        valid = None if self.valid is None else self.valid[rows]
        return Column(self.type, self.values[rows], valid, self.dictionary)

    def value(self, row: int) -> str | int | float | bool | None:
        """The Python value of one row."""
        if self.valid is not None and not self.valid[row]:
            return None
        if self.type == "text":
            assert self.dictionary is not None
            return self.dictionary.text(int(self.values[row]))
        if self.type == "bool":
            return bool(self.values[row])
        return int(self.values[row]) if self.type == "int" else float(self.values[row])


class PersonIds:
    """The ids of people 0…n-1: non-empty text or 64-bit integers, mixed.

    kinds:    uint8[n], TEXT_PERSON, INTEGER_PERSON, or ERASED_PERSON, whose id is the empty text.
    integers: int64[n], the id where it is an integer, else 0.
    texts:    a dictionary with one entry per person ('' where the id is an integer).
    """

    def __init__(self, kinds: NDArray[np.uint8], integers: NDArray[np.int64], texts: TextDictionary):
        self.kinds = kinds
        self.integers = integers
        self.texts = texts

    @classmethod
    def of(cls, ids: Sequence[PersonId]) -> PersonIds:
        """From plain Python ids."""
        kinds = np.fromiter((INTEGER_PERSON if isinstance(i, int) else TEXT_PERSON for i in ids), np.uint8, len(ids))
        integers = np.fromiter((i if isinstance(i, int) else 0 for i in ids), np.int64, len(ids))
        return cls(kinds, integers, TextDictionary(["" if isinstance(i, int) else i for i in ids]))

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, person: int) -> PersonId:
        if self.kinds[person] == INTEGER_PERSON:
            return int(self.integers[person])
        return self.texts.text(int(person))

    def __iter__(self) -> Iterator[PersonId]:
        return (self[person] for person in range(len(self)))

    def index(self, person_id: PersonId) -> int | None:
        """The position of an id, or None. Files override this with a hash look-up."""
        if isinstance(person_id, int):
            hits = np.flatnonzero((self.kinds == INTEGER_PERSON) & (self.integers == person_id))
            return int(hits[0]) if len(hits) else None
        return self.texts.code(person_id) if person_id else None


@dataclass(eq=False)
class Block:
    """People `first_person … first_person+people-1` of `ids`, with their events in order.

    row_start:   int64[people+1], the rows of person p are row_start[p] … row_start[p+1]-1 (starts at 0).
    stamp:       int64[rows], milliseconds since the epoch, UTC; ascending within a person.
    event_start: bool[rows], True on the first row of each event; None when every event is one row.
    columns:     by name; "action" (text, never None) is always there. A column of the table that no row of this
                 Block has may be missing: it reads as None.
    include:     bool[people], False for people this Block must not answer for; None when it answers for all.
    ordinals:    int64[people], the numbers of the people within their partition, ascending, the same in whichever Block
                 a person stands; None where they are first_person … first_person+people-1.
    People without a row are never run.
    """

    ids: PersonIds
    row_start: NDArray[np.int64]
    stamp: NDArray[np.int64]
    event_start: NDArray[np.bool_] | None
    columns: Mapping[str, Column]
    include: NDArray[np.bool_] | None = None
    first_person: int = 0
    ordinals: NDArray[np.int64] | None = None
    _sessions: dict[int, NDArray[np.int32]] = field(default_factory=dict, repr=False)

    @property
    def people(self) -> int:
        """How many people, those without rows counted."""
        return len(self.row_start) - 1

    @property
    def rows(self) -> int:
        return len(self.stamp)

    def person_id(self, person: int) -> PersonId:
        """The id of a person of this Block (0…people-1)."""
        return self.ids[self.first_person + person]

    @cached_property
    def person_of_row(self) -> NDArray[np.int32]:
        """int32[rows]: the person (0…people-1) each row belongs to."""
        return np.repeat(np.arange(self.people, dtype=np.int32), np.diff(self.row_start))

    @cached_property
    def event_of_row(self) -> NDArray[np.int32]:
        """int32[rows]: the event (0…events-1, over the whole Block) each row belongs to."""
        if self.event_start is None:
            return np.arange(self.rows, dtype=np.int32)
        return np.cumsum(self.event_start, dtype=np.int32) - np.int32(1)

    @cached_property
    def event_first_row(self) -> NDArray[np.int64]:
        """int64[events+1]: the first row of each event; the last entry is `rows`."""
        if self.event_start is None:
            return np.arange(self.rows + 1, dtype=np.int64)
        return np.append(np.flatnonzero(self.event_start), self.rows).astype(np.int64)

    @cached_property
    def runnable(self) -> NDArray[np.int64]:
        """The people (0…people-1) that have rows and are included, ascending."""
        present = self.row_start[1:] > self.row_start[:-1]
        if self.include is not None:
            present &= self.include
        return np.flatnonzero(present)

    def sessions(self, session_time_ms: int) -> NDArray[np.int32]:
        """int32[rows]: 1, 2, 3… per person; a new one starts after more than `session_time_ms` without an event."""
        if session_time_ms not in self._sessions:
            new = np.zeros(self.rows, dtype=np.int32)
            if self.rows:
                new[1:] = (self.stamp[1:] - self.stamp[:-1]) > session_time_ms
                starts = self.row_start[:-1][np.diff(self.row_start) > 0]
                new[starts] = 1
                total = np.cumsum(new, dtype=np.int32)
                first = total[starts] - 1
                new = total - np.repeat(first, np.diff(self.row_start)[np.diff(self.row_start) > 0])
            self._sessions[session_time_ms] = new.astype(np.int32, copy=False)
        return self._sessions[session_time_ms]

    def part(self, first: int, last: int) -> Block:
        """People first…last-1 as a Block of their own that shares all memory."""
        low, high = int(self.row_start[first]), int(self.row_start[last])
        rows = slice(low, high)
        return Block(
            ids=self.ids,
            row_start=self.row_start[first : last + 1] - low,
            stamp=self.stamp[rows],
            event_start=None if self.event_start is None else self.event_start[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            include=None if self.include is None else self.include[first:last],
            first_person=self.first_person + first,
            ordinals=None if self.ordinals is None else self.ordinals[first:last],
        )
