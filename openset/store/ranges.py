"""Index arithmetic: runs of rows without a loop over them, and types for codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Positions worked on at a time, so that temporaries fit the cache.
_STEP = 1 << 16


def expand_ranges(starts: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """int64[sum(lengths)]: starts[0], starts[0]+1, … for lengths[0] positions, then the same for the next range."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    shift = np.asarray(starts, np.int64) - ends + lengths
    expanded = np.repeat(shift, lengths)
    for start in range(0, total, _STEP):
        step = expanded[start : start + _STEP]
        step += np.arange(start, start + len(step))
    return expanded


def distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct values, ascending: by sorting, which is many times faster than np.unique's hashing."""
    ordered = np.sort(values)
    return ordered[np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)])]


def picked(lower: NDArray[Any], upper: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    """The values at `places` of both arrays laid end to end, which takes no memory for laying them so."""
    values = np.empty(len(places), np.result_type(lower, upper))
    for start in range(0, len(places), _STEP):
        step = places[start : start + _STEP]
        in_lower = step < len(lower)
        if in_lower.all():
            values[start : start + _STEP] = lower[step]
            continue
        part = values[start : start + _STEP]
        part[in_lower] = lower[step[in_lower]]
        part[~in_lower] = upper[step[~in_lower] - len(lower)]
    return values


def offsets_of(lengths: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """int64[n+1]: where each run starts when runs of these lengths follow each other; the last entry is the end."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def people_ranges(row_start: NDArray[np.int64], max_rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of people with at most `max_rows` rows each, or one person; ranges without a row are left out."""
    first, people = 0, len(row_start) - 1
    while first < people:
        last = int(np.searchsorted(row_start, row_start[first] + max_rows, side="right")) - 1
        last = min(max(last, first + 1), people)
        if row_start[last] > row_start[first]:
            yield first, last
        first = last


def count_within(groups: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """int64[n]: how often the same group occurred before, for each position."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(groups) else order
    lengths = np.diff(np.append(starts, len(groups)))
    counts = np.empty(len(groups), np.int64)
    counts[order] = np.arange(len(groups)) - np.repeat(starts, lengths)
    return counts


def narrowest(entries: int) -> type[np.unsignedinteger[Any]]:
    """The narrowest type for the codes of a dictionary with so many entries."""
    return np.uint8 if entries <= 1 << 8 else np.uint16 if entries <= 1 << 16 else np.uint32
