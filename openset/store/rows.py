"""The rows of Blocks one after the other, for what goes through a table once: exports, notebooks, summaries.

Rows that a Block does not answer for are left out. A run of rows is cut between events, so that neither the number of
people nor the longest history says how much is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from openset_format.block import Block, Column


@dataclass(eq=False)
class Rows:
    """Whole events of a Block. places: of their rows in the Block; a slice shares the Block's memory."""

    block: Block
    places: slice | NDArray[np.int64]

    def __len__(self) -> int:
        if isinstance(self.places, slice):
            return int(self.places.stop - self.places.start)
        return len(self.places)

    @cached_property
    def person(self) -> NDArray[np.int32]:
        """int32[rows]: the person (0…people-1 of the Block) of each row."""
        return self.block.person_of_row[self.places]

    @cached_property
    def event(self) -> NDArray[np.int32]:
        """int32[rows]: the number of each row's event among those of its person, from 0."""
        if not len(self):
            return np.zeros(0, np.int32)
        event = self.block.event_of_row
        first = event[np.minimum(self.block.row_start[:-1], self.block.rows - 1)]
        return event[self.places] - first[self.person]

    @property
    def stamp(self) -> NDArray[np.int64]:
        """int64[rows], ms."""
        return self.block.stamp[self.places]

    def column(self, name: str) -> Column | None:
        """A column over the rows, "action" included; None where no row of the Block has a value."""
        if name not in self.block.columns:
            return None
        column, places = self.block.columns[name], self.places
        valid = None if column.valid is None else column.valid[places]
        return Column(column.type, column.values[places], valid, column.dictionary)

    def first_rows(self) -> NDArray[np.int64]:
        """int64[events+1]: the first row of each event; the last entry is the number of rows."""
        changes = (np.diff(self.event) != 0) | (np.diff(self.person) != 0)
        return np.concatenate([[0], np.flatnonzero(changes) + 1, [len(self)]]) if len(self) else np.zeros(1, np.int64)


def rows_of(block: Block, max_rows: int | None = None) -> Iterator[Rows]:
    """All rows that a Block answers for, in order: at most `max_rows` at a time, or those of one event."""
    places: NDArray[np.int64] | None = None
    rows = block.rows
    if block.include is not None and not block.include.all():
        places = np.flatnonzero(np.repeat(block.include, np.diff(block.row_start)))
        rows = len(places)
    if max_rows is None or rows <= max_rows:
        if rows:
            yield Rows(block, slice(0, rows) if places is None else places)
        return
    starts = block.event_first_row
    first = 0
    while first < rows:
        last = min(first + max_rows, rows)
        if last < rows:
            row = last if places is None else int(places[last])
            # Back to where the event of that row begins; not further than that this run has one.
            begin = int(starts[np.searchsorted(starts, row, side="right") - 1])
            last = begin if places is None else int(np.searchsorted(places, begin))
            if last <= first:
                row = first if places is None else int(places[first])
                end = int(starts[np.searchsorted(starts, row, side="right")])
                last = end if places is None else int(np.searchsorted(places, end))
        yield Rows(block, slice(first, last) if places is None else places[first:last])
        first = last
