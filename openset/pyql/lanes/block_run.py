"""One Block under a running script: columns, times and people as vectors, and what is computed once per Block."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.lanes.container_store import ContainerStore
from openset.pyql.lanes.frames import Frame
from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vectors import BOOL, INT, MIXED, NULL, TEXT, Const, Mask, Positions, Value, Vec, column_vector
from openset.pyql.names import IS_NEW, NOW
from openset.pyql.settings import RunSettings
from openset_format.block import INTEGER_PERSON, Block, TextDictionary


class _Ids:
    """The ids of a Block's people as a text source: code = person, without reading ids nobody asks for."""

    def __init__(self, texts: TextDictionary, first_person: int, people: int):
        self._texts = texts
        self._first_person = first_person
        self._people = people

    def __len__(self) -> int:
        return self._people

    def text(self, code: int) -> str:
        return self._texts.text(self._first_person + code)

    def code(self, text: str) -> int | None:
        code = self._texts.code(text)
        if code is None or not self._first_person <= code < self._first_person + self._people:
            return None
        return code - self._first_person


class Candidates:
    """Rows of a Block that satisfy the row-only part of a condition, ready for look-ups from any row.

    rows: int64, ascending; None stands for every row.
    """

    def __init__(self, block: Block, mask: Mask | None):
        self._block = block
        self.rows: Positions | None = None if mask is None else np.flatnonzero(mask)
        self._before: NDArray[np.int32] | None = None
        if mask is not None:
            self._before = np.zeros(len(mask) + 1, np.int32)
            np.cumsum(mask, out=self._before[1:])

    def index_from(self, rows: Positions) -> Positions:
        """The index of the first candidate at or after each row (rows may be one past the last)."""
        return rows if self._before is None else self._before[rows].astype(np.int64)

    def row(self, indexes: Positions) -> Positions:
        """The rows of candidates."""
        return indexes if self.rows is None else self.rows[indexes]

    @cached_property
    def _event_rank(self) -> tuple[Positions, Positions]:
        """Per candidate the rank of its event among events with candidates; per rank the first candidate."""
        events = self._block.event_of_row if self.rows is None else self._block.event_of_row[self.rows]
        new = np.ones(len(events), np.bool_)
        new[1:] = events[1:] != events[:-1]
        starts = np.append(np.flatnonzero(new), len(events))
        return np.cumsum(new) - 1, starts

    def after_events(self, low: Positions, high: Positions, events: int) -> Positions:
        """The end of the candidates low … high-1 cut after those of the first `events` events."""
        if self._block.event_start is None:
            return np.minimum(low + events, high)
        rank, starts = self._event_rank
        if not len(rank):
            return high
        last = np.minimum(rank[np.minimum(low, len(rank) - 1)] + events, len(starts) - 1)
        return np.minimum(starts[last], high)


# Tallies of several people are kept up to this size before they are aggregated.
MAX_TALLY_BYTES = 1 << 28


class TooMuchAtOnce(Exception):
    """The tallies of a Block take too much memory; with fewer people at a time they will not."""


class BlockRun:
    """A Block, the settings of the run and the run's text table, with caches that live as long as the Block runs."""

    def __init__(self, block: Block, settings: RunSettings, table: TextTable):
        self.block = block
        self.settings = settings
        self.table = table
        self.store = ContainerStore(settings.max_memory_bytes)
        self.failed = np.zeros(block.people, np.bool_)
        self.expanded_rows = 0
        self.tally_bytes = 0
        self.masks: dict[tree.Expression, Mask | None] = {}
        self.inlines: dict[tree.Inline, Vec] = {}

    def hold_tallies(self, size_bytes: int) -> None:
        """Counts what tallies take until the Block is done.

        Raises TooMuchAtOnce where fewer people would do, RunTimeError when one person is beyond the memory budget.
        """
        self.tally_bytes += size_bytes
        if self.block.people > 1 and self.tally_bytes > MAX_TALLY_BYTES:
            raise TooMuchAtOnce
        if self.tally_bytes > self.settings.max_memory_bytes:
            raise RunTimeError(
                f"the tallies of one person grew beyond the memory budget of {self.settings.max_memory_bytes:,} bytes"
            )

    # ------------------------------------------------------------ rows

    def rows(self, frame: Frame, lanes: Positions | None) -> Positions:
        return frame.row if lanes is None else frame.row[lanes]

    def persons(self, frame: Frame, lanes: Positions | None) -> NDArray[Any]:
        return frame.person if lanes is None else frame.person[lanes]

    def column(self, read: tree.ColumnRead, frame: Frame, lanes: Positions | None) -> Value:
        """A column, built-in or not, on the rows of some lanes."""
        if read.name == "person":
            return self.person_vector.take(self.persons(frame, lanes))
        rows = None if frame.whole_block and lanes is None else self.rows(frame, lanes)
        return self.column_on(read.name, rows)

    def column_on(self, name: str, rows: Positions | None) -> Value:
        """A column other than person on some rows (None: all)."""
        if name == "stamp":
            return Vec(INT, self.block.stamp if rows is None else self.block.stamp[rows])
        if name == "session":
            sessions = self.block.sessions(self.settings.session_time_ms)
            return Vec(INT, (sessions if rows is None else sessions[rows]).astype(np.int64))
        column = self.block.columns.get(name)
        if column is None and name == IS_NEW:
            return Vec(BOOL, np.zeros(self.block.rows if rows is None else len(rows), np.bool_))
        if column is None or (column.type == "text" and not len(column.dictionary or ())):
            return NULL
        return column_vector(column, rows)

    @cached_property
    def person_vector(self) -> Vec:
        """Ids per person."""
        first, count = self.block.first_person, self.block.people
        kinds = self.block.ids.kinds[first : first + count]
        integers = np.asarray(self.block.ids.integers[first : first + count])
        integer = kinds == INTEGER_PERSON
        if count and integer.all():
            return Vec(INT, integers)
        texts = _Ids(self.block.ids.texts, first, count)
        if not integer.any():
            return Vec(TEXT, np.arange(count, dtype=np.int64), None, None, texts)
        textual = np.flatnonzero(~integer)
        data = integers.copy()
        data[textual] = self.table.translate(texts, textual, None)
        return Vec(MIXED, data, None, np.where(integer, INT, TEXT).astype(np.uint8))

    # ------------------------------------------------------------ times

    def stamps(self, rows: Positions | None) -> NDArray[np.int64]:
        return self.block.stamp if rows is None else self.block.stamp[rows]

    def time_value(self, name: str, frame: Frame, lanes: Positions | None) -> Value:
        """now, event_time, first_event, … for some lanes."""
        if name == NOW:
            if NOW not in self.block.columns:
                return Const(self.settings.now_ms)
            return self.column_on(NOW, None if frame.whole_block and lanes is None else self.rows(frame, lanes))
        if name in ("prev_match", "first_match"):
            at = frame.enclosing_match_row(lanes) if name == "prev_match" else frame.outermost_match_row(lanes)
            return NULL if at is None else Vec(INT, self.block.stamp[at])
        if name == "event_time":
            return Vec(INT, self.stamps(None if frame.whole_block and lanes is None else self.rows(frame, lanes)))
        return Vec(INT, self._per_person(name)[self.persons(frame, lanes)])

    def _per_person(self, name: str) -> NDArray[np.int64]:
        if name == "first_event":
            return self._edge_stamps[0]
        if name == "last_event":
            return self._edge_stamps[1]
        return self.event_counts if name == "event_count" else self.session_counts

    @cached_property
    def _edge_stamps(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        first = np.zeros(self.block.people, np.int64)
        last = np.zeros(self.block.people, np.int64)
        some = np.flatnonzero(np.diff(self.block.row_start))
        first[some] = self.block.stamp[self.block.row_start[some]]
        last[some] = self.block.stamp[self.block.row_start[some + 1] - 1]
        return first, last

    @cached_property
    def event_counts(self) -> NDArray[np.int64]:
        """int64[people]: events per person."""
        if self.block.event_start is None:
            return np.diff(self.block.row_start)
        before = np.concatenate([[0], np.cumsum(self.block.event_start, dtype=np.int64)])
        return np.diff(before[self.block.row_start])

    @cached_property
    def session_counts(self) -> NDArray[np.int64]:
        """int64[people]: sessions per person."""
        counts = np.zeros(self.block.people, np.int64)
        some = np.flatnonzero(np.diff(self.block.row_start))
        sessions = self.block.sessions(self.settings.session_time_ms)
        counts[some] = sessions[self.block.row_start[some + 1] - 1]
        return counts

    @cached_property
    def all_rows(self) -> Frame:
        """A frame whose lane i is row i."""
        rows = np.arange(self.block.rows, dtype=np.int64)
        return Frame(self.block.person_of_row, rows, whole_block=True)

    def row_in_person(self, frame: Frame, lanes: Positions | None) -> NDArray[np.int64]:
        """iter_get(): the position among the person's rows, from 0."""
        first: NDArray[np.int64] = self.block.row_start[self.persons(frame, lanes)]
        return self.rows(frame, lanes) - first
