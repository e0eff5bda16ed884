"""Sums of doubles that do not depend on the order of the rows, as far as a result can show.

How rows are spread over Blocks, partitions and workers must not change an answer, not even the last digit of a sum,
because siblings are sorted and trimmed by it. So a sum is a pair of doubles, `total` and `rest`: the total is the sum
rounded to a double, the rest what rounding took away. Rows are first cut into a high part, all multiples of one power
of two, whose sums have no rounding error, and the remainder, which is cut again. Shortcut: what is left after the
second cut is summed as it is; its rounding errors are beyond 2^-80 of the largest value of a Block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
_CUTS = 2
_LARGEST_EXPONENT = 1023


def add(total: Any, rest: Any, more: Any, more_rest: Any) -> tuple[Any, Any]:
    """The sum of two pairs, of arrays or of single doubles; what is not finite has the rest 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = total + more
        shift = rounded - total
        lost = (total - (rounded - shift)) + (more - shift) + (rest + more_rest)
        result = rounded + lost
        left = lost - (result - rounded)
    finite = np.isfinite(left)
    return np.where(finite, result, rounded), np.where(finite, left, 0.0)


def group_sums(groups: NDArray[np.int64], size: int, data: Doubles) -> tuple[Doubles, Doubles]:
    """(float64[size], float64[size]): total and rest per group; groups: int64[rows] below size, data: float64[rows]."""
    totals, rests = np.zeros(size), np.zeros(size)
    remaining = data
    for cut in range(_CUTS + 1):
        greatest = max(float(remaining.max(initial=0.0)), -float(remaining.min(initial=0.0)))
        if not greatest:
            break
        exponent = int(np.frexp(greatest)[1]) + len(data).bit_length()
        part = remaining
        if cut < _CUTS and exponent <= _LARGEST_EXPONENT:
            # A double near `unit` has no digits below unit * 2^-53, and the parts together stay below `unit`.
            unit = float(np.ldexp(1.0, exponent))
            part = remaining + unit
            part -= unit
        remaining = remaining - part
        with np.errstate(over="ignore", invalid="ignore"):
            sums = np.bincount(groups, weights=part, minlength=size)
        totals, rests = add(totals, rests, sums, 0.0)
    return totals, rests
