"""Each pair of a person and a code once, from rows in the order of people.

Three ways, by how many rows a person has: few rows are compared with those before them, a row at a distance at a time;
for many rows of few codes there is a table of people by codes, made for some people at a time so that it stays in the
cache; what is left is sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Up to so many rows a person's rows are compared among themselves.
FEW_ROWS = 32
# A table of people by codes may have so many cells per row.
CELLS_PER_ROW = 64
_TABLE_CELLS = 1 << 20

Positions = NDArray[np.int64]


def run_starts(values: NDArray[Any]) -> Positions:
    """The positions at which a run of equal values begins."""
    if not len(values):
        return np.zeros(0, np.int64)
    begins = np.empty(len(values), np.bool_)
    begins[0] = True
    np.not_equal(values[1:], values[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def distinct_pairs(
    codes: NDArray[Any], persons: NDArray[np.int32], starts: Positions, code_count: int
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Codes and persons of each distinct pair, in no particular order.

    codes: below `code_count`. persons: ascending. starts: where the rows of each person begin.
    """
    lengths = np.diff(np.append(starts, len(persons)))
    if not len(persons) or int(lengths.max()) == 1:
        return codes, persons
    many = lengths > FEW_ROWS
    if not many.any():
        rows = _unlike_those_before(codes, persons, int(lengths.max()), code_count)
        return codes[rows], persons[rows]
    of_many = np.repeat(many, lengths)
    parts = [_of_many_rows(codes[of_many], persons[of_many], lengths[many], code_count)]
    if not of_many.all():
        rest = ~of_many
        few_codes, few_persons = codes[rest], persons[rest]
        rows = _unlike_those_before(few_codes, few_persons, int(lengths[~many].max()), code_count)
        parts.append((few_codes[rows], few_persons[rows]))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _keys(codes: NDArray[Any], places: NDArray[Any], code_count: int) -> NDArray[Any]:
    """Pairs as numbers, of the narrowest type that holds them."""
    kind: Any = np.uint32 if (int(places[-1]) + 1) * code_count <= 1 << 32 else np.uint64
    keys: NDArray[Any] = places.astype(kind) * kind(code_count) + codes.astype(kind)
    return keys


def _unlike_those_before(
    codes: NDArray[Any], persons: NDArray[np.int32], longest: int, code_count: int
) -> NDArray[np.bool_]:
    """bool[rows]: whether none of the person's rows before has the code. longest: the most rows of a person."""
    keys = _keys(codes, persons, code_count)
    unlike = np.ones(len(keys), np.bool_)
    for distance in range(1, longest):
        unlike[distance:] &= keys[distance:] != keys[:-distance]
    return unlike


def _of_many_rows(
    codes: NDArray[Any], persons: NDArray[np.int32], lengths: Positions, code_count: int
) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """lengths: how many rows each person has, one after the other."""
    ends = np.cumsum(lengths)
    distinct = persons[ends - lengths]
    places = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    if len(lengths) * code_count > CELLS_PER_ROW * len(codes):
        keys = np.sort(_keys(codes, places, code_count))
        keys = keys[run_starts(keys)]
    else:
        keys = _by_table(codes, places, ends, code_count)
    place = keys // keys.dtype.type(code_count)
    return keys - place * keys.dtype.type(code_count), distinct[place.astype(np.intp)]


def _by_table(codes: NDArray[Any], places: NDArray[np.int32], ends: Positions, code_count: int) -> NDArray[Any]:
    """The distinct keys. places: 0, 1, 2, … per person. ends: where the rows of each end."""
    at_once = max(1, _TABLE_CELLS // code_count)
    table = np.zeros(min(at_once, len(ends)) * code_count, np.bool_)
    found: list[NDArray[Any]] = []
    low = 0
    for first in range(0, len(ends), at_once):
        high = int(ends[min(first + at_once, len(ends)) - 1])
        table[(places[low:high].astype(np.int64) - first) * code_count + codes[low:high]] = True
        cells = np.flatnonzero(table)
        table[cells] = False
        found.append(cells + first * code_count)
        low = high
    return np.concatenate(found)
