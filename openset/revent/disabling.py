"""When a trigger would have been disabled: after so many errors in a row, as the runner counts them.

A backtest runs people apart from one another, so what came between two errors has to be put together afterwards.
A moment is a part of a millisecond. In each come, one after the other: what was due, what that scheduled for at once,
what this scheduled for at once, and so on; the inserts; what those scheduled for at once, and so on. Runs of one moment
count as one: its errors are in a row, and it ends a row only when it has none.
Shortcut: inserts of one millisecond are one moment, although those of several requests run one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openset.revent.timelines import RUNS_PER_PERSON, Ints

ERRORS_UNTIL_DISABLED = 10

# The parts of a millisecond, in their order. A person has at most so many runs of what is scheduled, so many parts are
# left for each of DUE and AT_ONCE; moments of the last year there is fit into 64 bits.
DUE = 0
INSERTED = DUE + RUNS_PER_PERSON
AT_ONCE = INSERTED + 1
PARTS = AT_ONCE + RUNS_PER_PERSON
LAST_MOMENT = 2**63 - 1


def moments_of(stamps_ms: Ints, parts: Ints | int) -> Ints:
    """int64[n]: moments, which sort as they happen."""
    return stamps_ms * PARTS + parts


@dataclass(frozen=True, slots=True, eq=False)
class Failures:
    """The moments at which runs failed, ascending and distinct, and how many did."""

    moments: Ints
    counts: Ints

    @classmethod
    def of(cls, moments: Ints) -> Failures:
        """From the moment of every failed run."""
        return cls(*np.unique(moments, return_counts=True))

    def part(self, first: int, last: int) -> Failures:
        """Some of them, by place."""
        return Failures(self.moments[first:last], self.counts[first:last])

    def gaps_with_success(self, moments: Ints) -> NDArray[np.bool_]:
        """bool[moments]: before which of the moments, and after the one before it, one of these runs was.

        moments: of runs that did not fail. Those at a moment with errors count for nothing.
        """
        found = np.zeros(len(self.moments) + 1, np.bool_)
        place = np.searchsorted(self.moments, moments)
        is_moment = self.moments[np.minimum(place, len(self.moments) - 1)] == moments
        found[place[~is_moment]] = True
        return found[:-1]

    def disabled_at(self, gaps: NDArray[np.bool_], limit: int) -> int | None:
        """The first moment that makes `limit` errors in a row, or None. gaps: as above, of all runs."""
        sums = np.cumsum(self.counts)
        # What had been counted when each row of errors began, by its number; number 0 begins with the first error.
        before = np.append(0, (sums - self.counts)[gaps])
        reached = np.flatnonzero(sums - before[np.cumsum(gaps)] >= limit)
        return int(self.moments[reached[0]]) if len(reached) else None
