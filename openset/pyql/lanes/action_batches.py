"""Emissions and schedulings of many lanes: how they are kept while a script runs, and put in order afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openset.pyql.lanes.vectors import Mask, Positions, Value, take

CANCELLED = -1


@dataclass(slots=True, eq=False)
class EmitBatch:
    """One run of an emit. lane: int64[n], of the frame that holds the batch; name, value: per lane."""

    lane: Positions
    name: Value
    value: Value

    def keep(self, mask: Mask) -> EmitBatch:
        """The emissions a mask selects."""
        chosen = np.flatnonzero(mask)
        return EmitBatch(self.lane[chosen], take(self.name, chosen), take(self.value, chosen))


@dataclass(slots=True, eq=False)
class ScheduleBatch:
    """Runs of schedule and cancel. lane: int64[n].  function: int32[n], its place in the script.  span_ms: int64[n],
    CANCELLED for a cancel."""

    lane: Positions
    function: NDArray[np.int32]
    span_ms: NDArray[np.int64]

    def keep(self, chosen: Positions) -> ScheduleBatch:
        """Some of the schedulings, by position."""
        return ScheduleBatch(self.lane[chosen], self.function[chosen], self.span_ms[chosen])


def in_order(batches: Sequence[ScheduleBatch], lane_above: Positions | None, functions: int) -> ScheduleBatch:
    """Batches of a frame as one: each lane's schedulings in the order they were made, the last one per function.

    lane_above: the lane of the frame above that each lane came from, ascending; the answer is then in its lanes.
    functions: how many the script has.
    """
    lane = np.concatenate([batch.lane for batch in batches])
    order = np.argsort(lane, kind="stable")
    lane = lane[order] if lane_above is None else lane_above[lane[order]]
    function = np.concatenate([batch.function for batch in batches])[order]
    span_ms = np.concatenate([batch.span_ms for batch in batches])[order]
    _, from_end = np.unique((lane * functions + function)[::-1], return_index=True)
    return ScheduleBatch(lane, function, span_ms).keep(np.sort(len(lane) - 1 - from_end))
