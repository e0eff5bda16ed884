"""Vectors of PyQL values: one value per lane, each with its kind.

Most vectors are uniform: one kind for all values that are not None, with a validity mask. Vectors of several kinds
(an int counter that some lanes turned into a double, ids of people) hold a kind per lane and a 64-bit payload. A
constant is kept as the Python value (`Const`) so that numpy compares narrow columns with plain scalars.

Lists, dicts and sets are handles of a ContainerStore. An operation that is a type error on some lanes gives those
lanes the kind ERROR; the evaluator hands their people to the interpreter, which raises the error with its place or
finds that the person never gets there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql.lanes.texts import TextSource, TextTable
from openset_format.block import Column

Scalar = int | float | str | bool | None
Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]

NONE, BOOL, INT, DOUBLE, TEXT, CONTAINER, ERROR, MIXED = 0, 1, 2, 3, 4, 5, 6, 7


class Failure:
    """The value of an expression that is a type error; whoever reaches it is answered by the interpreter."""


@dataclass(frozen=True, slots=True)
class Const:
    """The same value on every lane."""

    value: Scalar | Failure


@dataclass(frozen=True, slots=True, eq=False)
class Vec:
    """One value per lane.

    kind:  BOOL, INT, DOUBLE, TEXT, CONTAINER, or MIXED.
    data:  bool, int64, float64, text codes (any integer type), container handles or, for MIXED, int64 payloads: ints,
           0/1 for bools, the bits of doubles, codes of the run's own TextTable, handles.
    valid: False where the value is None; None when no value is None. Never used with MIXED.
    kinds: uint8 per lane, for MIXED only (NONE among them).
    table: what text codes refer to, for TEXT only.
    """

    kind: int
    data: NDArray[Any]
    valid: Mask | None = None
    kinds: NDArray[np.uint8] | None = None
    table: TextSource | None = None

    def __len__(self) -> int:
        return len(self.data)

    def take(self, lanes: Positions) -> Vec:
        """The values of some lanes."""
        valid = None if self.valid is None else self.valid[lanes]
        kinds = None if self.kinds is None else self.kinds[lanes]
        return Vec(self.kind, self.data[lanes], valid, kinds, self.table)

    def present(self) -> Mask:
        """bool[n]: where the value is not None."""
        if self.kinds is not None:
            present: Mask = self.kinds != NONE
            return present
        return np.ones(len(self.data), dtype=np.bool_) if self.valid is None else self.valid


Value = Vec | Const
NULL = Const(None)
FAILED = Const(Failure())
_KIND_OF_COLUMN = {"text": TEXT, "int": INT, "double": DOUBLE, "bool": BOOL}


def column_vector(column: Column, rows: Positions | None) -> Vec:
    """A column on some rows, or on all rows without copying."""
    data = column.values if rows is None else column.values[rows]
    valid = column.valid if rows is None or column.valid is None else column.valid[rows]
    if column.type == "bool":
        data = data.view(np.bool_)
    return Vec(_KIND_OF_COLUMN[column.type], data, valid, None, column.dictionary)


def kind_of(value: Scalar | Failure) -> int:
    """The kind of a Python value."""
    if value is None:
        return NONE
    if isinstance(value, Failure):
        return ERROR
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT
    return DOUBLE if isinstance(value, float) else TEXT


def full(value: Scalar | Failure, count: int, table: TextTable) -> Vec:
    """A vector that repeats one value."""
    kind = kind_of(value)
    if kind == NONE:
        return Vec(INT, np.zeros(count, np.int64), np.zeros(count, np.bool_))
    if kind == ERROR:
        return Vec(MIXED, np.zeros(count, np.int64), None, np.full(count, ERROR, np.uint8))
    if kind == BOOL:
        return Vec(BOOL, np.full(count, value, np.bool_))
    if kind == INT:
        return Vec(INT, np.full(count, value, np.int64))
    if kind == DOUBLE:
        return Vec(DOUBLE, np.full(count, value, np.float64))
    return Vec(TEXT, np.full(count, table.intern(str(value)), np.int64), table=table)


def spread(value: Value, count: int, table: TextTable) -> Vec:
    """A constant as a vector; a vector as it is."""
    return full(value.value, count, table) if isinstance(value, Const) else value


def take(value: Value, lanes: Positions | None) -> Value:
    """The values of some lanes (None: all)."""
    if lanes is None or isinstance(value, Const):
        return value
    return value.take(lanes)


def localised(vector: Vec, table: TextTable) -> Vec:
    """A text vector whose codes refer to the run's own table."""
    if vector.kind != TEXT or vector.table is table:
        return vector
    assert vector.table is not None
    return Vec(TEXT, table.translate(vector.table, vector.data, vector.valid), vector.valid, None, table)


def payloads(vector: Vec, table: TextTable) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Kinds and 64-bit payloads of any vector."""
    if vector.kinds is not None:
        return vector.kinds, vector.data
    kinds = np.full(len(vector), vector.kind, np.uint8)
    if vector.kind == DOUBLE:
        data = np.ascontiguousarray(vector.data, np.float64).view(np.int64)
    else:
        data = localised(vector, table).data.astype(np.int64)
    if vector.valid is not None:
        kinds[~vector.valid] = NONE
        data = np.where(vector.valid, data, 0)
    return kinds, data


def from_payloads(kinds: NDArray[np.uint8], data: NDArray[np.int64], table: TextTable) -> Vec:
    """The narrowest vector for kinds and payloads: uniform where one kind is present."""
    found = np.flatnonzero(np.bincount(kinds, minlength=MIXED)[1:MIXED]) + 1
    if len(found) > 1 or ERROR in found:
        return Vec(MIXED, data, None, kinds)
    valid = kinds != NONE
    mask = None if valid.all() else valid
    kind = int(found[0]) if len(found) else INT
    if kind == DOUBLE:
        values = data.view(np.float64)
        return Vec(DOUBLE, values if mask is None else np.where(valid, values, 0.0), mask)
    if kind == BOOL:
        return Vec(BOOL, data.astype(np.bool_), mask)
    return Vec(kind, data, mask, None, table if kind == TEXT else None)


def groups(vector: Vec, table: TextTable) -> list[tuple[int, Positions, Value]]:
    """A vector as uniform parts without None-only padding: (kind, positions, values); NONE parts are NULL."""
    if vector.kinds is None:
        return [(vector.kind, np.arange(len(vector), dtype=np.int64), vector)]
    parts: list[tuple[int, Positions, Value]] = []
    # NONE and ERROR parts are constants.
    for kind in np.flatnonzero(np.bincount(vector.kinds, minlength=MIXED)).tolist():
        where = np.flatnonzero(vector.kinds == kind)
        if kind in (NONE, ERROR):
            parts.append((kind, where, NULL if kind == NONE else FAILED))
        else:
            one = np.full(len(where), kind, np.uint8)
            parts.append((kind, where, from_payloads(one, vector.data[where], table)))
    return parts


def assemble(count: int, parts: Sequence[tuple[Positions, Value]], table: TextTable) -> Value:
    """One vector from values at disjoint positions; positions left out are None."""
    uniform = {(p.kind, id(p.table)) for _, p in parts if isinstance(p, Vec)}
    uniform |= {(kind_of(p.value), 0) for _, p in parts if isinstance(p, Const)}
    uniform.discard((NONE, 0))
    if (
        len(uniform) == 1
        and next(iter(uniform))[0] != MIXED
        and all(isinstance(p, Vec) or p.value is None for _, p in parts)
    ):
        return _assemble_uniform(count, parts)
    kinds = np.zeros(count, np.uint8)
    data = np.zeros(count, np.int64)
    for positions, part in parts:
        if isinstance(part, Const) and part.value is None:
            continue
        part_kinds, part_data = payloads(spread(part, len(positions), table), table)
        kinds[positions] = part_kinds
        data[positions] = part_data
    return from_payloads(kinds, data, table)


def _assemble_uniform(count: int, parts: Sequence[tuple[Positions, Value]]) -> Vec:
    vectors = [(positions, part) for positions, part in parts if isinstance(part, Vec)]
    first = vectors[0][1]
    dtype = np.result_type(*(part.data.dtype for _, part in vectors))
    data = np.zeros(count, dtype)
    valid = np.zeros(count, np.bool_)
    for positions, part in vectors:
        data[positions] = part.data
        valid[positions] = True if part.valid is None else part.valid
    return Vec(first.kind, data, None if valid.all() else valid, None, first.table)


def overwrite(old: Value, lanes: Positions, new: Value, count: int, table: TextTable) -> Value:
    """`old` with the values of some lanes replaced; neither argument is changed."""
    if (
        isinstance(old, Vec)
        and isinstance(new, Vec)
        and old.kind == new.kind != MIXED
        and old.table is new.table
        and old.data.dtype == new.data.dtype
    ):
        data = old.data.copy()
        data[lanes] = new.data
        valid = old.valid
        if valid is not None or new.valid is not None:
            valid = np.ones(count, np.bool_) if valid is None else valid.copy()
            valid[lanes] = True if new.valid is None else new.valid
        return Vec(old.kind, data, valid, None, old.table)
    kinds, data = payloads(spread(old, count, table), table)
    new_kinds, new_data = payloads(spread(new, len(lanes), table), table)
    kinds, data = kinds.copy(), data.copy()
    kinds[lanes] = new_kinds
    data[lanes] = new_data
    return from_payloads(kinds, data, table)


def from_scalars(values: Sequence[Scalar | Failure], table: TextTable) -> Vec:
    """A vector of Python values (a loop: for distinct values, not for lanes)."""
    kinds = np.fromiter((kind_of(value) for value in values), np.uint8, len(values))
    data = np.zeros(len(values), np.int64)
    doubles = data.view(np.float64)
    for position, value in enumerate(values):
        if isinstance(value, float):
            doubles[position] = value
        elif isinstance(value, str):
            data[position] = table.intern(value)
        elif value is not None and not isinstance(value, Failure):
            data[position] = int(value)
    return from_payloads(kinds, data, table)


def to_scalars(value: Value, count: int) -> list[Scalar | Failure]:
    """The Python values of a vector (a loop: for distinct values, results and the log)."""
    if isinstance(value, Const):
        return [value.value] * count
    if value.kinds is not None:
        raise AssertionError("mixed vectors are read with mixed_scalars")
    if value.kind == TEXT:
        assert value.table is not None
        text = value.table.text
        plain: list[Scalar | Failure] = (
            [text(code) for code in value.data.tolist()]
            if value.valid is None
            else [
                text(code) if valid else None
                for code, valid in zip(value.data.tolist(), value.valid.tolist(), strict=True)
            ]
        )
        return plain
    plain = value.data.tolist()
    if value.valid is not None:
        plain = [v if valid else None for v, valid in zip(plain, value.valid.tolist(), strict=True)]
    return plain


def scalars(value: Value, count: int, table: TextTable) -> list[Scalar | Failure]:
    """The Python values of any vector (Failure for errors)."""
    if isinstance(value, Vec) and value.kinds is not None:
        result: list[Scalar | Failure] = [None] * count
        for _, positions, part in groups(value, table):
            for position, scalar in zip(positions.tolist(), to_scalars(part, len(positions)), strict=True):
                result[position] = scalar
        return result
    return to_scalars(value, count)


def factorise(value: Vec) -> tuple[NDArray[np.int64], int]:
    """Dense codes of a vector: int64[n] below the returned size, equal exactly where kind and value are equal.

    None has a code of its own. -0.0 and 0.0 are told apart, since str() does; see `one_zero`.
    """
    if value.kinds is not None:
        payload, sizes = dense(value.data)
        return payload * (MIXED + 1) + value.kinds, sizes * (MIXED + 1)
    data = value.data
    if value.kind == DOUBLE:
        data = np.ascontiguousarray(data, np.float64).view(np.int64)
    codes, size = dense(data)
    if value.valid is not None:
        codes = np.where(value.valid, codes + 1, 0)
        size += 1
    return codes, size


def one_zero(value: Vec) -> Vec:
    """A vector with 0.0 for -0.0, for where equal values must have equal codes."""
    return Vec(DOUBLE, value.data + 0.0, value.valid) if value.kind == DOUBLE else value


def fits_table(size: int, count: int, per_value: int = 4, always: int = 1 << 16) -> bool:
    """Whether a table with an entry for each of `size` codes is better than sorting the `count` codes there are."""
    return size <= max(per_value * count, always)


def dense(data: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """Codes below a size not much larger than the number of values, equal where the data are equal."""
    if data.dtype == np.bool_:
        return data.astype(np.int64), 2
    if not len(data):
        return np.zeros(0, np.int64), 1
    low, high = int(data.min()), int(data.max())
    if fits_table(high - low, len(data)):
        return data.astype(np.int64) - low, high - low + 1
    distinct, codes = np.unique(data, return_inverse=True)
    return codes.astype(np.int64), len(distinct)


def unique_codes(codes: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct codes ascending, and for every code its position among them."""
    if fits_table(size, len(codes)):
        present = np.zeros(size, np.bool_)
        present[codes] = True
        distinct = np.flatnonzero(present)
        position = np.zeros(size, np.int64)
        position[distinct] = np.arange(len(distinct))
        return distinct, position[codes]
    found, inverse = np.unique(codes, return_inverse=True)
    return found.astype(np.int64), inverse.astype(np.int64)


def distinct_values(data: NDArray[Any]) -> NDArray[Any]:
    """The distinct values, ascending: by sorting, which for integers is many times faster than np.unique's hashing."""
    ordered: NDArray[Any] = np.sort(data)
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return ordered[np.flatnonzero(new)]


def first_of(inverse: NDArray[np.int64], count: int) -> Positions:
    """For each of `count` classes some position that is in it."""
    example = np.zeros(count, np.int64)
    example[inverse[::-1]] = np.arange(len(inverse) - 1, -1, -1)
    return example
