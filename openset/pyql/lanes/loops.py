"""What all loops on lanes share: how an iteration's lanes come together again with the frame around the loop.

Iterations that come after one that left the loop never happened: their tallies and writes are dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from openset.pyql import tree
from openset.pyql.lanes.action_batches import in_order
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.frames import BREAK, CONTINUE, LEAVE_MATCH, RUNNING, Frame
from openset.pyql.lanes.tallies import merged
from openset.pyql.lanes.vectors import Mask, Positions

RunBody = Callable[[Frame, tree.Body], None]

# At most so many iterations run at once; more are run in pieces.
PIECE_LANES = 1 << 18
UNBOUNDED = 1 << 62


class Loop:
    """A loop being run. takes_leaving: whether a cursor that runs off the end leaves this loop (a match)."""

    takes_leaving = True

    def __init__(self, evaluator: Evaluator, run_body: RunBody, keep_order: bool, functions: int):
        """functions: how many the script has."""
        self.evaluator = evaluator
        self.functions = functions
        self.run = evaluator.run
        self.run_body = run_body
        self.keep_order = keep_order

    def _still_running(self, frame: Frame, lane: Positions) -> Mask:
        if frame.signal is None:
            return np.ones(len(lane), np.bool_)
        running: Mask = frame.signal[lane] == RUNNING
        return running

    def _left(self, frame: Frame, lane: Positions, slot: Positions, child: Frame, ended: Mask) -> Mask | None:
        """Passes on who left the loop and how; returns which iterations happened (None: all)."""
        signal = child.signal
        if signal is None:
            return None
        leaving = np.flatnonzero(signal > CONTINUE)
        if not len(leaving):
            return None
        slots = slot[leaving]
        first = np.append(True, slots[1:] != slots[:-1])
        leaving, slots = leaving[first], slots[first]
        ended[slots] = True
        how = signal[leaving]
        outer = np.where(how > BREAK + 1, how - 1, how)
        passed = np.flatnonzero(((how != LEAVE_MATCH) | (not self.takes_leaving)) & (how != BREAK + 1))
        for code in np.unique(outer[passed]).tolist():
            frame.stop(lane[slots[passed[outer[passed] == code]]], code)
        last = np.full(len(lane), UNBOUNDED, np.int64)
        last[slots] = leaving
        return np.arange(len(child)) <= last[slot]

    def _hand_up_actions(self, frame: Frame, child: Frame, happened: Mask | None) -> None:
        """Gives the frame around the loop the tallies, emissions and schedulings of iterations that happened."""
        self._hand_up_tallies(frame, child, happened)
        assert child.parent_lane is not None
        for emitted in child.emits:
            kept = emitted if happened is None else emitted.keep(happened[emitted.lane])
            kept.lane = child.parent_lane[kept.lane]
            frame.emits.append(kept)
        schedules = child.schedules
        if happened is not None:
            schedules = [batch.keep(np.flatnonzero(happened[batch.lane])) for batch in schedules]
        if schedules:
            frame.schedules.append(in_order(schedules, child.parent_lane, self.functions))

    def _hand_up_tallies(self, frame: Frame, child: Frame, happened: Mask | None) -> None:
        batches = child.batches
        if happened is not None:
            batches = [batch.keep(happened[batch.lane]) for batch in batches]
        batches = [batch for batch in batches if len(batch.row)]
        if len(batches) > 1 and self.keep_order:
            batches = [merged(batches, self.evaluator)]
        assert child.parent_lane is not None
        for batch in batches:
            batch.lane = child.parent_lane[batch.lane]
            frame.batches.append(batch)


def expand(low: Positions, take: Positions) -> tuple[Positions, Positions]:
    """low[i] … low[i]+take[i]-1 for every i, one after the other: (i, index)."""
    total = int(take.sum())
    slot = np.repeat(np.arange(len(take), dtype=np.int64), take)
    index = np.arange(total, dtype=np.int64) + np.repeat(low - (np.cumsum(take) - take), take)
    return slot, index
