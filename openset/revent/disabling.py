"""When a trigger would have been disabled: after so many errors in a row, as the runner counts them.

A backtest runs people apart from one another, so what came between two errors has to be put together afterwards.
A moment is a millisecond and what there is in it one after the other: what was due, the inserts, what those scheduled
for at once. Runs of one moment count as one: its errors are in a row, and it ends a row only when it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

ERRORS_UNTIL_DISABLED = 10

# The parts of a millisecond, in their order.
DUE, INSERTED, AT_ONCE = range(3)
PARTS = 3
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
