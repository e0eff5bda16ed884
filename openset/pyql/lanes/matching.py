"""Running `match` on lanes: which rows come next for which lane, how many matches are run at once, who leaves.

One loop serves all modes of analysis.Mode; they differ in how many matches a round takes. A round's matches become a
child Frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openset.errors import BudgetError, RunTimeError
from openset.pyql import tree
from openset.pyql.lanes.analysis import MatchFacts
from openset.pyql.lanes.block_run import Candidates
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.frames import LEAVE_MATCH, RUNNING, Frame
from openset.pyql.lanes.loops import PIECE_LANES, Loop, RunBody, expand
from openset.pyql.lanes.vectors import Mask, Positions

# Rough costs: a row in the interpreter, a round in lock-step.
_INTERPRETED_ROW_US = 4
_ROUND_US = 250


class MatchLoop(Loop):
    """One execution of a match statement for some lanes of a frame.

    Per active lane: lane, low and high (candidates still to visit), seen (events matched), last_event.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        run_body: RunBody,
        match: tree.Match,
        facts: MatchFacts,
        candidates: Candidates,
        keep_order: bool,
        functions: int,
    ):
        super().__init__(evaluator, run_body, keep_order, functions)
        self.match = match
        self.facts = facts
        self.candidates = candidates
        self.limit = self._limit()

    def _limit(self) -> int | None:
        limit = self.match.limit
        if limit is None:
            return None
        value = self.run.settings.parameters[limit.name] if isinstance(limit, tree.Parameter) else limit.value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RunTimeError("match N needs a whole number of at least 1", line=limit.at.line, column=limit.at.column)
        return value

    def visit(self, frame: Frame, lanes: Positions | None) -> None:
        """Runs the loop; lanes that stop are marked in the frame."""
        rows = self.run.rows(frame, lanes)
        persons = self.run.persons(frame, lanes)
        low = self.candidates.index_from(rows)
        high = self.candidates.index_from(self.run.block.row_start[persons + 1])
        if self.limit is not None and not self.facts.dynamic:
            high = self.candidates.after_events(low, high, self.limit)
        some = np.flatnonzero(low < high)
        lane = some if lanes is None else lanes[some]
        self._in_pieces(frame, lane, low[some], high[some])

    def _in_pieces(self, frame: Frame, lane: Positions, low: Positions, high: Positions) -> None:
        if self.facts.mode != "all":
            self._rounds(frame, lane, low, high)
            return
        ends = np.cumsum(high - low)
        first = 0
        while first < len(lane):
            reach = (ends[first - 1] if first else 0) + PIECE_LANES
            last = max(first + 1, int(np.searchsorted(ends, reach, side="right")))
            self._rounds(frame, lane[first:last], low[first:last], high[first:last])
            first = last

    def _rounds(self, frame: Frame, lane: Positions, low: Positions, high: Positions) -> None:
        """Rounds of growing or fixed size until no lane has a match left."""
        size = PIECE_LANES if self.facts.mode == "all" else 1
        seen = np.zeros(len(lane), np.int64)
        last_event = np.full(len(lane), -1, np.int64)
        while len(lane):
            self.run.settings.check_deadline()
            # Pieces of all matches are small enough already, and one round makes one batch of tallies.
            width = size if self.facts.mode == "all" else min(size, max(1, PIECE_LANES // len(lane)))
            take = np.minimum(high - low, width)
            slot, index = expand(low, take)
            self._count_rows(len(index))
            row = self.candidates.row(index)
            ended = np.zeros(len(lane), np.bool_)
            next_low = low + take
            if self.facts.dynamic:
                kept = self._satisfying(frame, lane, slot, row, ended)
                slot, index, row = slot[kept], index[kept], row[kept]
                if self.facts.mode == "step":
                    slot, index, row = _first_per_slot(slot, index, row)
                    next_low[slot] = index + 1
                if self.limit is not None:
                    within = self._within_limit(slot, row, seen, last_event, ended)
                    slot, row = slot[within], row[within]
            if len(row):
                self._iterate(frame, lane, slot, row, ended)
            if self._interpreter_is_faster(frame, lane, next_low, high):
                self.evaluator.fail(frame, lane)
                return
            alive = np.flatnonzero((next_low < high) & ~ended & self._still_running(frame, lane))
            if self.facts.mode == "rounds":
                size *= 2
            elif self.facts.mode == "step" and self.facts.dynamic:
                few = 2 * len(row) < len(lane) and not self.facts.where_acts
                size = size * 2 if few else max(1, size // 2)
            lane, low, high, seen, last_event = (a[alive] for a in (lane, next_low, high, seen, last_event))

    def _interpreter_is_faster(self, frame: Frame, lane: Positions, low: Positions, high: Positions) -> bool:
        """Whether lock-step has come down to a few people with very many matches each.

        Compares what the rounds to come would cost with a run of the interpreter over all rows of these people, for
        top-level loops without loops in them, where both costs are known.
        """
        if self.facts.mode != "step" or not self.facts.flat or frame.parent is not None:
            return False
        rounds = int((high - low).max())
        if rounds < 256 or rounds % 64:
            return False
        people = frame.person[lane]
        rows = int((self.run.block.row_start[people + 1] - self.run.block.row_start[people]).sum())
        return 2 * rows * _INTERPRETED_ROW_US < rounds * _ROUND_US

    def _count_rows(self, rows: int) -> None:
        self.run.expanded_rows += rows
        budget = self.run.settings.max_expanded_rows
        if self.run.expanded_rows > budget:
            at = self.match.at
            raise BudgetError(
                f"the query visited more than its budget of {budget:,} rows (nested matches without a condition?)",
                line=at.line,
                column=at.column,
            )

    # ------------------------------------------------------------ conditions

    def _satisfying(self, frame: Frame, lane: Positions, slot: Positions, row: Positions, ended: Mask) -> Positions:
        """Which candidates the lane-dependent part of the condition lets through."""
        parent_lane = lane[slot]
        tested = Frame(frame.person[parent_lane], row, frame, parent_lane, in_condition=True)
        going: Positions | None = None
        for part in self.facts.dynamic:
            mask = self.evaluator.condition(part, tested, going)
            chosen = np.flatnonzero(mask)
            going = chosen if going is None else going[chosen]
        if self.facts.where_acts:  # one candidate per lane, so what happened can be handed up as it is
            tested.hand_up(None, self.run.table)
            self._hand_up_actions(frame, tested, None)
        if tested.signal is not None:
            going = self._pass_on(frame, lane, slot, tested, going, ended)
        assert going is not None
        return going

    def _pass_on(
        self, frame: Frame, lane: Positions, slot: Positions, tested: Frame, going: Positions | None, ended: Mask
    ) -> Positions:
        """What stopped lanes in a condition: type errors, and functions that exit or run off the person's events."""
        assert tested.signal is not None
        for code in np.unique(tested.signal).tolist():
            stopped = slot[tested.signal == code]
            if code == LEAVE_MATCH:
                ended[stopped] = True
            elif code != RUNNING:
                frame.stop(np.unique(lane[stopped]), code)
        running = np.flatnonzero(tested.signal == RUNNING)
        return running if going is None else np.intersect1d(going, running)

    def _within_limit(
        self,
        slot: Positions,
        row: Positions,
        seen: NDArray[np.int64],
        last_event: NDArray[np.int64],
        ended: Mask,
    ) -> Positions:
        """Which matches belong to the first N events; lanes that saw the event after those have ended."""
        if not len(slot):
            return slot
        event = self.run.block.event_of_row[row].astype(np.int64)
        first = np.append(True, slot[1:] != slot[:-1])
        before = np.empty(len(slot), np.int64)
        before[1:] = event[:-1]
        before[first] = last_event[slot[first]]
        new = np.cumsum(event != before)
        # Events that are new, counted from the first match of the same lane.
        base = (new - (event != before))[first]
        rank = seen[slot] + new - np.repeat(base, np.diff(np.append(np.flatnonzero(first), len(slot))))
        assert self.limit is not None
        beyond = rank > self.limit
        ended[slot[beyond]] = True
        final = np.append(slot[1:] != slot[:-1], True)
        seen[slot[final]] = rank[final]
        last_event[slot[final]] = event[final]
        if self.run.block.event_start is None:
            ended[slot[rank >= self.limit]] = True
        return np.flatnonzero(~beyond)

    # ------------------------------------------------------------ iterations

    def _iterate(self, frame: Frame, lane: Positions, slot: Positions, row: Positions, ended: Mask) -> None:
        """Runs the body on a round's matches and hands what it did to the frame."""
        parent_lane = lane[slot]
        unique = self.facts.mode == "all" and frame.parent is None
        child = Frame(frame.person[parent_lane], row, frame, parent_lane, row, unique_rows=unique)
        self.run_body(child, self.match.body)
        happened = self._left(frame, lane, slot, child, ended)
        child.hand_up(happened, self.run.table)
        self._hand_up_actions(frame, child, happened)


def _first_per_slot(slot: Positions, index: Positions, row: Positions) -> tuple[Positions, Positions, Positions]:
    if not len(slot):
        return slot, index, row
    first = np.append(True, slot[1:] != slot[:-1])
    return slot[first], index[first], row[first]
