"""Who ever has a value: roaring bitmaps of person ordinals per value of a column, in a partition file.

Built from a column when a file is written, read one bitmap at a time. Small shortcut: one bitmap is made after the
other in Python, which is why columns with many values are left out before any work is done for them.
spec/partition-file.md says what is indexed and what is not.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from .encoding import StoredColumn

# A column with more distinct values than both is not indexed: one for this many rows, and so many in any case.
ROWS_PER_VALUE = 64
FEW_VALUES = 1_024
# Values have to fit two bytes: dictionary codes, or the distance of an integer from the least one.
VALUE_LIMIT = 1 << 16
# A bitmap may take this part of the bytes of its column.
BITMAP_SHARE = 10
# Distinct pairs of value and person are found in a table while it has no more cells than this for each row.
TABLE_CELLS_PER_ROW = 8
# The smallest bitmap there is: one person, as a run.
_LEAST_BITMAP_BYTES = 15
_STEP_ROWS = 1 << 16
_SORTED_ROWS = 1 << 19


@dataclass(frozen=True, slots=True, eq=False)
class StoredIndex:
    """The datasets of an index.

    keys:    the distinct values that occur, ascending: codes for text, 0 and 1 for bool, int64 for int.
    offsets: int64[keys+1], the bitmap of key i is the bytes offsets[i] … offsets[i+1]-1; none: it is not indexed.
    data:    uint8[], roaring bitmaps in their portable serialisation.
    """

    keys: NDArray[Any]
    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]


class DamagedBitmapError(ValueError):
    """Bytes that are no bitmap of the people of the file."""


class PersonIndex:
    """The index of one column of a file. Bitmaps are made when asked for and kept.

    fail: makes an error of a message, for a bitmap that cannot be read.
    """

    def __init__(self, stored: StoredIndex, people: int, fail: Callable[[str], Exception] = DamagedBitmapError):
        self.keys = stored.keys
        self._stored = stored
        self._people = people
        self._fail = fail
        self._made: dict[int, BitMap] = {}

    @property
    def complete(self) -> bool:
        """Whether every value that occurs has a bitmap."""
        return bool((np.diff(self._stored.offsets) > 0).all())

    def people(self, key: int) -> BitMap | None:
        """The people with a row that has this value; None when the index does not know.

        key: the code of a text, 0 or 1, or the integer. The bitmap is shared: do not change it. An unknown value is
        nobody's. Raises what `fail` makes when the file is damaged.
        """
        place = self.place(key)
        if place is None:
            return BitMap()
        if place not in self._made:
            first, last = int(self._stored.offsets[place]), int(self._stored.offsets[place + 1])
            if first == last:
                return None
            self._made[place] = self._read(first, last)
        return self._made[place]

    def place(self, key: int) -> int | None:
        """The position of a value in `keys`, None when it does not occur."""
        # Beyond 64 bits nothing occurs, and numpy would compare as doubles.
        if not -(1 << 63) <= key < 1 << 63:
            return None
        place = int(np.searchsorted(self.keys, key))
        return place if place < len(self.keys) and int(self.keys[place]) == key else None

    def _read(self, first: int, last: int) -> BitMap:
        try:
            bitmap = BitMap.deserialize(self._stored.data[first:last].tobytes())
        except (ValueError, IndexError) as error:
            raise self._fail(f"bytes {first} to {last} are no bitmap: {error}") from error
        if not bitmap or bitmap.max() >= self._people:
            raise self._fail(f"the bitmap at {first} has people that are not in the file")
        return bitmap


def build_index(column: StoredColumn, person_of_row: NDArray[np.uint32]) -> StoredIndex | None:
    """The index of a column, None when none of its values is indexed. person_of_row: uint32[rows], ascending."""
    size_bytes = column.size_bytes
    if size_bytes < BITMAP_SHARE * _LEAST_BITMAP_BYTES:
        return None
    found = _narrow_values(column)
    if found is None:
        return None
    values, least = found
    if column.valid is not None:
        values, person_of_row = values[column.valid], person_of_row[column.valid]
    counts = np.bincount(values)
    present = np.flatnonzero(counts)
    if not 0 < len(present) <= max(FEW_VALUES, len(column.values) // ROWS_PER_VALUE):
        return None
    people, bounds = _people_by_value(values, person_of_row, present)
    bitmaps = _bitmaps(people, bounds, size_bytes)
    if not any(bitmaps):
        return None
    offsets = np.zeros(len(present) + 1, np.int64)
    np.cumsum([len(bitmap) for bitmap in bitmaps], out=offsets[1:])
    keys = present + least if column.type == "int" else present.astype(column.values.dtype)
    return StoredIndex(keys, offsets, np.frombuffer(b"".join(bitmaps), np.uint8))


def _narrow_values(column: StoredColumn) -> tuple[NDArray[Any], int] | None:
    """The values as unsigned numbers of one or two bytes, and what to add to have them back; None: not to be indexed.

    What stands where there is no value may be anything.
    """
    if column.type == "double" or (column.values.dtype.itemsize > 2 and column.type != "int"):
        return None
    if column.type != "int":
        return column.values, 0
    values = column.values if column.valid is None else column.values[column.valid]
    if not len(values):
        return None
    least, greatest = int(values.min()), int(values.max())
    if greatest - least >= VALUE_LIMIT:
        return None
    narrow = np.empty(len(column.values), np.uint8 if greatest - least < 256 else np.uint16)
    for rows in _steps(len(narrow)):
        narrow[rows] = column.values[rows].astype(np.int64).view(np.uint64) - np.uint64(least & (1 << 64) - 1)
    return narrow, least


def _steps(rows: int) -> Iterator[slice]:
    """Ranges of rows whose temporaries fit the cache."""
    for start in range(0, rows, _STEP_ROWS):
        yield slice(start, start + _STEP_ROWS)


def _people_by_value(
    values: NDArray[Any], person_of_row: NDArray[np.uint32], present: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """The distinct people of each value, value after value, and where each value's people start (and the last end)."""
    people = int(person_of_row[-1]) + 1
    if len(present) * people <= TABLE_CELLS_PER_ROW * len(values):
        return _by_table(values, person_of_row, present, people)
    return _by_sorting(values, person_of_row, present)


def _by_table(
    values: NDArray[Any], person_of_row: NDArray[np.uint32], present: NDArray[np.int64], people: int
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """A cell for every value and person, set by the rows."""
    line = np.zeros(int(present[-1]) + 1, np.int64)
    line[present] = np.arange(len(present)) * people
    cells = np.zeros(len(present) * people, np.bool_)
    for rows in _steps(len(values)):
        cells[line[values[rows]] + person_of_row[rows]] = True
    found = np.flatnonzero(cells)
    del cells
    having = np.empty(len(found), np.uint32)
    for step in _steps(len(found)):
        having[step] = found[step] % people
    return having, np.searchsorted(found, np.arange(len(present) + 1) * people)


def _by_sorting(
    values: NDArray[Any], person_of_row: NDArray[np.uint32], present: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """For many values or people of few rows. Somebody whose rows are sorted in two steps may come twice."""
    line = np.zeros(int(present[-1]) + 1, np.int64)
    line[present] = np.arange(len(present))
    steps = range(0, len(values), _SORTED_ROWS)
    pairs = [_sorted_pairs(values[at : at + _SORTED_ROWS], person_of_row[at : at + _SORTED_ROWS]) for at in steps]
    counts = [np.bincount(line[found], minlength=len(present)) for found, _ in pairs]
    bounds = np.zeros(len(present) + 1, np.int64)
    np.cumsum(sum(counts), out=bounds[1:])
    having = np.empty(int(bounds[-1]), np.uint32)
    free = bounds[:-1].copy()
    for (_, people), count in zip(pairs, counts, strict=True):
        # From places among the pairs of the step to places among all.
        having[np.repeat(free - (np.cumsum(count) - count), count) + np.arange(len(people))] = people
        free += count
    return having, bounds


def _sorted_pairs(values: NDArray[Any], person_of_row: NDArray[np.uint32]) -> tuple[NDArray[Any], NDArray[np.uint32]]:
    """The distinct pairs of value and person in some rows, by value, then by person."""
    order = np.argsort(values, kind="stable")  # radix, because values are narrow; people stay in order
    values, people = values[order], person_of_row[order]
    new = np.ones(len(values), np.bool_)
    new[1:] = (values[1:] != values[:-1]) | (people[1:] != people[:-1])
    return values[new], people[new]


def _bitmaps(people: NDArray[np.uint32], bounds: NDArray[np.int64], size_bytes: int) -> list[bytes]:
    """The serialised bitmap of each value, empty where it takes more than its share of the column's bytes."""
    raw = memoryview(people.astype("<u4", copy=False).tobytes())
    bitmaps: list[bytes] = []
    for first, last in pairwise((bounds * 4).tolist()):
        bitmap = BitMap(array("I", raw[first:last].tobytes()))
        bitmap.run_optimize()
        data = bitmap.serialize()
        bitmaps.append(b"" if len(data) * BITMAP_SHARE > size_bytes else data)
    return bitmaps
