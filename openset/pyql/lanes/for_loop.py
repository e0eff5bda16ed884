"""Running `for` on lanes: every element of every lane's container is an iteration.

The cursor stays that of the block around the loop, so a body that moves it runs in lock-step.
"""

from __future__ import annotations

import numpy as np

from openset.pyql import tree
from openset.pyql.lanes.analysis import Mode
from openset.pyql.lanes.container_store import DICT
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.frames import Frame
from openset.pyql.lanes.lane_map import Ints, Kinds
from openset.pyql.lanes.loops import PIECE_LANES, Loop, RunBody, expand
from openset.pyql.lanes.vector_containers import Cells, at
from openset.pyql.lanes.vectors import CONTAINER, NONE, TEXT, Mask, Positions, Value, payloads, spread
from openset.pyql.meaning import containers


class ForLoop(Loop):
    """One execution of a for statement for some lanes of a frame."""

    takes_leaving = False

    def __init__(
        self, evaluator: Evaluator, run_body: RunBody, loop: tree.For, mode: Mode, keep_order: bool, functions: int
    ):
        super().__init__(evaluator, run_body, keep_order, functions)
        self.loop = loop
        self.mode = mode
        self.ops = evaluator.containers

    def visit(self, frame: Frame, lanes: Positions) -> None:
        """Runs the loop; lanes that stop are marked in the frame."""
        value = self.evaluator.value(self.loop.iterable, frame, lanes)
        kinds, data = self._containers(value, len(lanes))
        if len(self.loop.names) == 2:
            kinds = self._only_dicts(kinds, data)
        running = self._still_running(frame, lanes)
        wrong = running & (kinds != CONTAINER) & (kinds != NONE)
        if wrong.any():
            self.evaluator.fail(frame, lanes[wrong])
        held = np.flatnonzero(running & (kinds == CONTAINER))
        slot, columns = self._elements(data[held])
        sizes = np.bincount(slot, minlength=len(held))
        high = np.cumsum(sizes)
        some = np.flatnonzero(sizes)
        self._rounds(frame, lanes[held[some]], (high - sizes)[some], high[some], columns)

    def _containers(self, value: Value, count: int) -> Cells:
        """Handles to go through; texts become lists of their characters."""
        table = self.evaluator.table
        kinds, data = payloads(spread(value, count, table), table)
        texts = np.flatnonzero(kinds == TEXT)
        if len(texts):
            characters = self.ops.mapped(
                containers.loop_values, [self.ops.vector(at((kinds, data), texts))], len(texts)
            )
            kinds, data = kinds.copy(), data.copy()
            kinds[texts], data[texts] = payloads(
                spread(characters, len(texts), self.evaluator.table), self.evaluator.table
            )
        return kinds, data

    def _only_dicts(self, kinds: Kinds, data: Ints) -> Kinds:
        """`for k, v` over anything but a dict is left to the interpreter."""
        held = np.flatnonzero(kinds == CONTAINER)
        other = held[self.ops.store.kind[data[held]] != DICT]
        kinds = kinds.copy()
        kinds[other] = TEXT
        return kinds

    def _elements(self, handles: Ints) -> tuple[Positions, list[Cells]]:
        """Position in `handles` of every element, and per loop variable the values."""
        if len(self.loop.names) == 1:
            slot, kinds, data = self.ops.members(handles)
            columns: list[Cells] = [(kinds, data)]
        else:
            slot, entry = self.ops.store.elements(handles)
            columns = [self.ops.store.labels_of(entry), self.ops.store.values_of(entry)]
        for kinds, data in columns:
            self.ops.store.freeze(data[kinds == CONTAINER])
        return slot, columns

    def _rounds(self, frame: Frame, lane: Positions, low: Positions, high: Positions, columns: list[Cells]) -> None:
        size = PIECE_LANES if self.mode == "all" else 1
        while len(lane):
            self.run.settings.check_deadline()
            take = np.minimum(high - low, min(size, max(1, PIECE_LANES // len(lane))))
            slot, index = expand(low, take)
            self.run.expanded_rows += len(index)
            ended = np.zeros(len(lane), np.bool_)
            self._iterate(frame, lane, slot, [at(cells, index) for cells in columns], ended)
            low = low + take
            alive = np.flatnonzero((low < high) & ~ended & self._still_running(frame, lane))
            if self.mode == "rounds":
                size *= 2
            lane, low, high = lane[alive], low[alive], high[alive]

    def _iterate(self, frame: Frame, lane: Positions, slot: Positions, values: list[Cells], ended: Mask) -> None:
        parent_lane = lane[slot]
        row = frame.row[parent_lane]
        child = Frame(frame.person[parent_lane], row, frame, parent_lane)
        for name, cells in zip(self.loop.names, values, strict=True):
            child.assign(name, None, self.ops.vector(cells), self.run.table)
        self.run_body(child, self.loop.body)
        happened = self._left(frame, lane, slot, child, ended)
        child.hand_up(happened, self.run.table)
        if child.row is not row:  # the body moved the cursor, and runs in lock-step: one iteration per lane
            frame.row = frame.row.copy()
            frame.row[parent_lane] = child.row
            frame.unique_rows = False
        self._hand_up_actions(frame, child, happened)
