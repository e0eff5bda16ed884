"""Lanes: the vector of cursors that a body runs on.

The outermost Frame has one lane per person. A match makes a child Frame with one lane per matching row; a child's
lanes are ordered by parent lane, then row. Variables are read through the parents and written in the own frame; when
a body ends, what its last iteration wrote goes to the parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql.lanes.action_batches import EmitBatch, ScheduleBatch
from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vectors import NULL, Mask, Positions, Value, overwrite, spread, take

# Why a lane stopped. BREAK + k leaves k loops.
RUNNING, CONTINUE, LEAVE_MATCH, RETURN, EXIT, FAILED_LANE, BREAK = 0, 1, 2, 3, 4, 5, 16

# The values of `return` in functions and at top level, kept like variables; no script can name them.
RETURN_VALUE = "return"
RESULT_VALUE = "result"


@dataclass(slots=True, eq=False)
class Batch:
    """Tallies of one statement run.

    lane:   int64[n], lanes of the frame the batch is held by, ascending within one run of a statement.
    row:    int64[n], the row each was tallied on.
    nodes:  per level int64[n], the node at that depth; -1 where the path ended before it.
    values: per `var` aggregator the value at the tally.
    unique_rows: every row occurs at most once.
    """

    lane: Positions
    row: Positions
    nodes: list[Positions]
    values: list[Value] = field(default_factory=list)
    unique_rows: bool = False

    def keep(self, mask: Mask) -> Batch:
        """The tallies a mask selects."""
        if mask.all():
            return self
        chosen = np.flatnonzero(mask)
        return Batch(
            self.lane[chosen],
            self.row[chosen],
            [level[chosen] for level in self.nodes],
            [take(value, chosen) for value in self.values],
            self.unique_rows,
        )


class Frame:
    """A set of lanes.

    person:      int[n], the person of each lane.
    row:         int64[n], the row each lane's cursor is on.
    match_row:   int64[n], the row that the match of this frame is on; None where no match made the frame.
    parent_lane: int64[n], the lane of `parent` each lane came from.
    in_condition: the lanes are candidates whose condition is being tested.
    whole_block: lane i is row i of the Block, for parts of conditions that are evaluated once per Block.
    """

    __slots__ = (
        "batches",
        "emits",
        "in_condition",
        "match_row",
        "parent",
        "parent_lane",
        "person",
        "row",
        "schedules",
        "signal",
        "unique_rows",
        "variables",
        "whole_block",
        "written",
    )

    def __init__(
        self,
        person: NDArray[Any],
        row: Positions,
        parent: Frame | None = None,
        parent_lane: Positions | None = None,
        match_row: Positions | None = None,
        *,
        whole_block: bool = False,
        unique_rows: bool = False,
        in_condition: bool = False,
    ):
        self.person = person
        self.row = row
        self.parent = parent
        self.parent_lane = parent_lane
        self.match_row = match_row
        self.whole_block = whole_block
        self.unique_rows = unique_rows
        self.in_condition = in_condition
        self.signal: NDArray[np.int16] | None = None
        self.variables: dict[str, Value] = {}
        self.written: dict[str, Mask | None] = {}
        self.batches: list[Batch] = []
        self.emits: list[EmitBatch] = []
        self.schedules: list[ScheduleBatch] = []

    def __len__(self) -> int:
        return len(self.row)

    # ------------------------------------------------------------ control

    def stop(self, lanes: Positions | None, signal: int) -> None:
        """Stops lanes that are running."""
        if self.signal is None:
            self.signal = np.zeros(len(self), np.int16)
        if lanes is None:
            self.signal[:] = signal
        else:
            self.signal[lanes] = signal

    def running(self, lanes: Positions | None) -> Positions | None:
        """Those of some lanes that have not stopped."""
        if self.signal is None:
            return lanes
        if lanes is None:
            going = np.flatnonzero(self.signal == RUNNING)
            return None if len(going) == len(self) else going
        alive = self.signal[lanes] == RUNNING
        return lanes if alive.all() else lanes[alive]

    # ------------------------------------------------------------ variables

    def read(self, name: str, lanes: Positions | None) -> Value:
        """A variable on some lanes."""
        value = self.variables.get(name)
        if value is not None:
            return take(value, lanes)
        if self.parent is None:
            return NULL
        assert self.parent_lane is not None
        return self.parent.read(name, self.parent_lane if lanes is None else self.parent_lane[lanes])

    def assign(self, name: str, lanes: Positions | None, value: Value, table: TextTable) -> None:
        """Gives a variable a value (one per lane of `lanes`)."""
        if lanes is None or len(lanes) == len(self):
            self.variables[name] = value
            self.written[name] = None
            return
        old = self.read(name, None)
        self.variables[name] = overwrite(old, lanes, spread(value, len(lanes), table), len(self), table)
        written = self.written.get(name, _NEVER)
        if written is None:
            return
        if written is _NEVER:
            written = np.zeros(len(self), np.bool_)
            self.written[name] = written
        written[lanes] = True

    def hand_up(self, ended: Mask | None, table: TextTable) -> None:
        """Gives the parent what the last iteration of each of its lanes wrote. ended: lanes that count, None: all."""
        assert self.parent is not None and self.parent_lane is not None
        for name, value in self.variables.items():
            written = self.written.get(name, _NEVER)
            if written is _NEVER:
                continue
            mask = ended if written is None else written if ended is None else written & ended
            lanes = np.arange(len(self), dtype=np.int64) if mask is None else np.flatnonzero(mask)
            if not len(lanes):
                continue
            parents = self.parent_lane[lanes]
            last = np.append(parents[1:] != parents[:-1], True)
            self.parent.assign(name, parents[last], take(value, lanes[last]), table)

    # ------------------------------------------------------------ enclosing matches

    def enclosing_match_row(self, lanes: Positions | None) -> Positions | None:
        """The row the nearest enclosing match is on, for some lanes; None outside a match."""
        if self.match_row is not None:
            return self.match_row if lanes is None else self.match_row[lanes]
        if self.parent is None:
            return None
        assert self.parent_lane is not None
        return self.parent.enclosing_match_row(self.parent_lane if lanes is None else self.parent_lane[lanes])

    def outermost_match_row(self, lanes: Positions | None) -> Positions | None:
        """The row the outermost match is on, for some lanes; None outside a match."""
        if self.parent is not None:
            assert self.parent_lane is not None
            above = self.parent.outermost_match_row(self.parent_lane if lanes is None else self.parent_lane[lanes])
            if above is not None:
                return above
        if self.match_row is None:
            return None
        return self.match_row if lanes is None else self.match_row[lanes]

    def in_match(self) -> bool:
        """Whether a match encloses these lanes."""
        return self.match_row is not None or self.in_condition or (self.parent is not None and self.parent.in_match())


_NEVER: Mask = np.zeros(0, np.bool_)
