"""How the values of a column are stored: ints in the narrowest type, doubles that are short decimals as ints.

Text and bool are narrow as they are. Decoding is exact: it gives the very bits that were encoded. What a scan of
doubles gains from fewer bytes is worth a division per row, not a look-up per row, so doubles of few distinct values are
not coded by a dictionary. Layout: spec/partition-file.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .block import Column, ColumnType, TextDictionary

Key = TypeVar("Key")
Rows = slice | NDArray[np.int64]

# What the ints of a column may be stored as.
INT_TYPES = tuple(np.dtype(name) for name in ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<i8"))
# What a double is divided by to have its value back: decimals of up to four places.
SCALES = (1, 10, 100, 1_000, 10_000)
# Decimals have at most four bytes, so that multiplying and dividing them is exact.
_DECIMAL_TYPES = INT_TYPES[:-1]
_DECIMAL_LIMIT = 2**31
# Rows encoded at a time, so that temporaries fit the cache; and the rows that are tried first.
_STEP_ROWS = 1 << 16
_TRIED_ROWS = 1 << 10


@dataclass(frozen=True, slots=True, eq=False)
class StoredColumn:
    """One column over all rows, as it is stored; a range of rows of it is a Column.

    values: text: unsigned codes into `dictionary`; int: one of INT_TYPES; bool: uint8; double: float64, or with a scale
            ints which are to be divided by it.
    valid:  bool[rows], or None when every row has a value. Where there is none, `values` is zero.
    """

    type: ColumnType
    values: NDArray[Any]
    valid: NDArray[np.bool_] | None = None
    dictionary: TextDictionary | None = None
    scale: int | None = None

    def __getitem__(self, rows: Rows) -> Column:
        """The rows as a Column of full-width values. A range that is stored as wide shares the memory."""
        valid = None if self.valid is None else self.valid[rows]
        return Column(self.type, self.decoded(rows), valid, self.dictionary)

    def decoded(self, rows: Rows) -> NDArray[Any]:
        """The full-width values of some rows: codes, int64, float64 or uint8."""
        values = self.values[rows]
        if self.scale is not None:
            return values / np.float64(self.scale)
        return values.astype(np.int64, copy=False) if self.type == "int" else values

    def value(self, row: int) -> str | int | float | bool | None:
        """The Python value of one row."""
        return self[row : row + 1].value(0)

    @property
    def is_narrow(self) -> bool:
        """Whether a reader of the values has to do more than look at them (a required feature of the file)."""
        return self.scale is not None or (self.type == "int" and self.values.dtype != np.int64)

    @property
    def size_bytes(self) -> int:
        """What `values` and `valid` take in a file."""
        has_mask = self.valid is not None and not self.valid.all()
        return int(self.values.nbytes) + (len(self.values) if has_mask else 0)


class DecodedColumns(Mapping[Key, Column], Generic[Key]):
    """Columns as those of a Block, decoded whenever they are asked for: all at once they would need much memory."""

    def __init__(self, columns: Mapping[Key, StoredColumn]):
        self._columns = columns

    def __getitem__(self, key: Key) -> Column:
        return self._columns[key][:]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def code_type(entries: int) -> np.dtype[Any]:
    """The narrowest unsigned type for the codes of a dictionary."""
    if entries <= 1 << 8:
        return np.dtype("u1")
    return np.dtype("<u2") if entries <= 1 << 16 else np.dtype("<u4")


def encode_column(column: Column) -> StoredColumn:
    """A column as it is stored. Where it has no value, `values` must be zero."""
    values, scale = column.values, None
    if column.type == "text":
        assert column.dictionary is not None
        values = values.astype(code_type(len(column.dictionary)), copy=False)
    elif column.type == "int":
        values = _narrowed(values.astype("<i8", copy=False))
    elif column.type == "double":
        values, scale = _decimals(values.astype("<f8", copy=False))
    else:
        values = values.astype("u1", copy=False)
    return StoredColumn(column.type, values, column.valid, column.dictionary, scale)


def _narrowed(values: NDArray[np.int64]) -> NDArray[Any]:
    if not len(values):
        return values
    return values.astype(_narrowest(int(values.min()), int(values.max()), INT_TYPES), copy=False)


def _narrowest(least: int, greatest: int, types: tuple[np.dtype[Any], ...]) -> np.dtype[Any]:
    return next(one for one in types if np.iinfo(one).min <= least and greatest <= np.iinfo(one).max)


def _decimals(values: NDArray[np.float64]) -> tuple[NDArray[Any], int | None]:
    """The values as ints and the scale they are to be divided by; or the values themselves and None."""
    values = np.ascontiguousarray(values)
    for scale in SCALES if len(values) else ():
        if _step_scaled(values[:_TRIED_ROWS], scale) is None:
            continue
        scaled = _scaled(values, scale)
        if scaled is not None:
            return scaled.astype(_narrowest(int(scaled.min()), int(scaled.max()), _DECIMAL_TYPES), copy=False), scale
    return values, None


def _scaled(values: NDArray[np.float64], scale: int) -> NDArray[np.int32] | None:
    scaled = np.empty(len(values), np.int32)
    for start in range(0, len(values), _STEP_ROWS):
        rows = slice(start, start + _STEP_ROWS)
        step = _step_scaled(values[rows], scale)
        if step is None:
            return None
        scaled[rows] = step
    return scaled


def _step_scaled(values: NDArray[np.float64], scale: int) -> NDArray[np.int32] | None:
    """The ints that divided by the scale are these doubles, bit for bit; None where one is not."""
    with np.errstate(invalid="ignore", over="ignore"):
        rounded = np.rint(values * scale)
    if not bool((np.abs(rounded) < _DECIMAL_LIMIT).all()):  # NaN is not below anything
        return None
    scaled = rounded.astype(np.int32)
    same = (scaled / np.float64(scale)).view(np.int64) == values.view(np.int64)
    return scaled if bool(same.all()) else None
