"""One person's rows as Python lists, and the cursor on them.

Columns are turned into lists when a script first reads them, one person at a time: plain, and fast enough for people
with a few thousand rows.
"""

from __future__ import annotations

from itertools import accumulate

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import Value, kind_of
from openset.pyql.names import IS_NEW, NOW
from openset_format.block import Block, Column, PersonId


class LeaveMatch(Exception):
    """The cursor ran past an end of the person's rows: the innermost match is left, without one the script ends."""


class PersonCursor:
    """The rows of the current person and where the script stands.

    count: rows of the person, numbered from 0.  row: the cursor.  stamps: by row.  event_of: the event, from 0, by row.
    event_rows: the first row of each event.  match_row, first_match_row: the rows that the nearest and the outermost
    enclosing match are on, None outside of a match.
    """

    def __init__(self, block: Block, session_time_ms: int):
        self._block = block
        self._session_time_ms = session_time_ms
        self._first = 0
        self._columns: dict[str, list[Value]] = {}
        self.person_id: PersonId = 0
        self.count = 0
        self.row = 0
        self.stamps: list[int] = []
        self.event_of: list[int] = []
        self.event_rows: list[int] = []
        self.match_row: int | None = None
        self.first_match_row: int | None = None

    def start(self, person: int) -> None:
        """Goes to the first row of a person (0…people-1) of the block; the person must have rows."""
        block = self._block
        self._first, end = int(block.row_start[person]), int(block.row_start[person + 1])
        self.count = end - self._first
        assert self.count > 0
        self.person_id = block.person_id(person)
        self.stamps = block.stamp[self._first : end].tolist()
        if block.event_start is None:
            self.event_of = list(range(self.count))
            self.event_rows = self.event_of
        else:
            starts: list[bool] = block.event_start[self._first : end].tolist()
            self.event_of = [events - 1 for events in accumulate(int(start) for start in starts)]
            self.event_rows = [row for row, start in enumerate(starts) if start]
        self._columns = {}
        self.row = 0
        self.match_row = None
        self.first_match_row = None

    def moment(self, otherwise: int) -> int:
        """The person's own `now` in ms where the block has one."""
        held = self._block.columns.get(NOW)
        return otherwise if held is None else int(held.values[self._first])

    def column(self, name: str) -> list[Value]:
        """The values of a column by row; one that the block lacks is None everywhere, is_new False."""
        values = self._columns.get(name)
        if values is None:
            values = self._columns[name] = self._load(name)
        return values

    def _load(self, name: str) -> list[Value]:
        if name == "person":
            return [self.person_id] * self.count
        if name == "stamp":
            return list(self.stamps)
        rows = slice(self._first, self._first + self.count)
        if name == "session":
            sessions: list[Value] = self._block.sessions(self._session_time_ms)[rows].tolist()
            return sessions
        column = self._block.columns.get(name)
        if column is None and name == IS_NEW:
            return [False] * self.count
        return [None] * self.count if column is None else _column_values(column[rows])

    # ------------------------------------------------------------ moves

    def next_event(self) -> None:
        """iter_next: the first row of the next event."""
        self._go_to_event(self.event_of[self.row] + 1)

    def previous_event(self) -> None:
        """iter_prev: the first row of the event before."""
        self._go_to_event(self.event_of[self.row] - 1)

    def _go_to_event(self, event: int) -> None:
        if not 0 <= event < len(self.event_rows):
            raise LeaveMatch
        self.row = self.event_rows[event]

    def set_position(self, position: Value) -> None:
        """iter_set: a row that iter_get gave. Raises RunTimeError unless it is a whole number."""
        if isinstance(position, bool) or not isinstance(position, (int, float)) or position != int(position):
            shown = f"{position}" if isinstance(position, float) else kind_of(position)
            raise RunTimeError(f"iter_set() needs a position that iter_get() gave, this is {shown}")
        if not 0 <= position < self.count:
            raise LeaveMatch
        self.row = int(position)

    def move_first(self) -> None:
        """iter_move_first: the person's first row."""
        self.row = 0

    def move_last(self) -> None:
        """iter_move_last: the person's last row."""
        self.row = self.count - 1

    def reset_event(self) -> None:
        """iter_reset_event: the first row of the current event."""
        self.row = self.event_rows[self.event_of[self.row]]


def _column_values(column: Column) -> list[Value]:
    """The Python values of a column's rows."""
    values: list[Value]
    if column.type == "text":
        assert column.dictionary is not None
        dictionary = column.dictionary
        codes: list[int] = column.values.tolist()
        if column.valid is None:
            return [dictionary.text(code) for code in codes]
        present: list[bool] = column.valid.tolist()
        return [dictionary.text(code) if valid else None for code, valid in zip(codes, present, strict=True)]
    if column.type == "bool":
        values = [bool(value) for value in column.values.tolist()]
    else:
        values = column.values.tolist()
    if column.valid is None:
        return values
    return [value if valid else None for value, valid in zip(values, column.valid.tolist(), strict=True)]
