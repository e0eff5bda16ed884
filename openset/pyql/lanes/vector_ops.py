"""Operators on vectors: arithmetic, comparison, truth. The meaning is that of values.py, which also serves every
combination of kinds that has no fast form, once per distinct pair of values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vectors import (
    BOOL,
    CONTAINER,
    DOUBLE,
    ERROR,
    FAILED,
    INT,
    MIXED,
    NONE,
    NULL,
    TEXT,
    Const,
    Failure,
    Mask,
    Positions,
    Scalar,
    Value,
    Vec,
    assemble,
    factorise,
    first_of,
    from_scalars,
    groups,
    kind_of,
    localised,
    payloads,
    scalars,
    spread,
    take,
    unique_codes,
)
from openset.pyql.meaning import values

_NUMERIC = (BOOL, INT, DOUBLE)
_EXACT_IN_DOUBLE = 1 << 53
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": np.equal, "!=": np.not_equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
}  # fmt: skip


def kind(value: Value) -> int:
    """The kind of a vector or constant (NONE for the constant None)."""
    return value.kind if isinstance(value, Vec) else kind_of(value.value)


def truth(value: Value, count: int, table: TextTable) -> Mask:
    """bool[count]: Python's truth of each value."""
    if isinstance(value, Const):
        assert not isinstance(value.value, Failure)
        return np.full(count, bool(value.value), np.bool_)
    if value.kind == TEXT:
        assert value.table is not None
        empty = value.table.code("")
        mask = np.ones(count, np.bool_) if empty is None else value.data != empty
    elif value.kind == MIXED:
        return _mixed_truth(value, table)
    elif value.kind == BOOL:
        mask = value.data
    else:
        mask = value.data != 0
    return mask if value.valid is None else mask & value.valid


def _mixed_truth(value: Vec, table: TextTable) -> Mask:
    assert value.kinds is not None
    mask: Mask = (value.kinds != NONE) & (value.data != 0)
    doubles = value.kinds == DOUBLE
    mask[doubles] = value.data[doubles].view(np.float64) != 0
    empty = table.code("")
    texts = value.kinds == TEXT
    mask[texts] = True if empty is None else value.data[texts] != empty
    return mask


def map_distinct(function: Callable[..., Any], arguments: list[Value], count: int, table: TextTable) -> Value:
    """A scalar function on every lane, called once per distinct combination of arguments.

    A RunTimeError, a container among the arguments or as the result make the lanes of that combination fail.
    """
    if all(isinstance(argument, Const) for argument in arguments):
        return Const(_plain(_called(function, [cast(Const, argument).value for argument in arguments])))
    results, inverse = distinct_results(function, arguments, count, table)
    return from_scalars([_plain(result) for result in results], table).take(inverse)


def distinct_results(
    function: Callable[..., Any], arguments: list[Value], count: int, table: TextTable
) -> tuple[list[Any], Positions]:
    """Results of a scalar function per distinct combination of arguments (Failure for errors), and which is whose."""
    arguments = [_without_containers(argument, table) for argument in arguments]
    vectors = [argument for argument in arguments if isinstance(argument, Vec)]
    codes = np.zeros(count, np.int64)
    size = 1
    for vector in vectors:
        own, own_size = factorise(vector)
        if size * own_size > 1 << 40:
            _, codes = unique_codes(codes, size)
            size = int(codes.max()) + 1 if len(codes) else 1
        codes = codes * own_size + own
        size *= own_size
    distinct, inverse = unique_codes(codes, size)
    examples = first_of(inverse, len(distinct))
    columns = [scalars(take(argument, examples), len(examples), table) for argument in arguments]
    return [_called(function, list(row)) for row in zip(*columns, strict=True)], inverse


def _called(function: Callable[..., Any], arguments: list[Any]) -> Any:
    if any(isinstance(argument, Failure) for argument in arguments):
        return FAILED.value
    try:
        return function(*arguments)
    except RunTimeError:
        return FAILED.value


def _plain(result: Any) -> Scalar | Failure:
    """A result that has a place in a vector; containers have none here."""
    if result is None or isinstance(result, bool | int | float | str | Failure):
        return result
    return FAILED.value


def _without_containers(value: Value, table: TextTable) -> Value:
    """A vector with errors in place of containers."""
    if isinstance(value, Const) or (value.kind != CONTAINER and value.kinds is None):
        return value
    kinds, data = payloads(value, table)
    if not (kinds == CONTAINER).any():
        return value
    return Vec(MIXED, data, None, np.where(kinds == CONTAINER, ERROR, kinds).astype(np.uint8))


def negate(value: Value, count: int, table: TextTable) -> Value:
    """Unary minus."""
    if isinstance(value, Vec) and value.kind == DOUBLE:
        return Vec(DOUBLE, -value.data, value.valid)
    if kind(value) in (BOOL, INT):
        return binary("-", Const(0), value, count, table)
    return map_distinct(values.negated, [value], count, table)


def binary(operator: str, left: Value, right: Value, count: int, table: TextTable) -> Value:
    """left operator right, for arithmetic and comparison (not `and`, `or`, `in`)."""
    if isinstance(left, Const) and isinstance(right, Const):
        return map_distinct(values.BINARY_OPERATIONS[operator], [left, right], count, table)
    for side in (left, right):
        if isinstance(side, Vec) and side.kinds is not None:
            return _by_kind(operator, left, right, count, table, side)
    if operator in _COMPARISONS:
        return _compare(operator, left, right, count, table)
    return _arithmetic(operator, left, right, count, table)


def _by_kind(operator: str, left: Value, right: Value, count: int, table: TextTable, mixed: Vec) -> Value:
    """One call per kind of the mixed side."""
    parts: list[tuple[Positions, Value]] = []
    for _, lanes, part in groups(mixed, table):
        one, other = (part, take(right, lanes)) if mixed is left else (take(left, lanes), part)
        parts.append((lanes, binary(operator, one, other, len(lanes), table)))
    return assemble(count, [(lanes, spread(part, len(lanes), table)) for lanes, part in parts], table)


# ---------------------------------------------------------------- comparison


def _compare(operator: str, left: Value, right: Value, count: int, table: TextTable) -> Value:
    kinds = (kind(left), kind(right))
    if (isinstance(left, Const) and left.value is None) or (isinstance(right, Const) and right.value is None):
        return _compare_none(operator, left, right, count)
    if kinds[0] in _NUMERIC and kinds[1] in _NUMERIC:
        return _compare_numbers(operator, left, right, count, table)
    if kinds == (TEXT, TEXT) and operator in ("==", "!="):
        return _equal_texts(operator, left, right, table)
    return map_distinct(values.BINARY_OPERATIONS[operator], [left, right], count, table)


def _compare_none(operator: str, left: Value, right: Value, count: int) -> Value:
    other = right if isinstance(left, Const) and left.value is None else left
    if operator not in ("==", "!="):
        return Const(False)
    if isinstance(other, Const):
        return Const((other.value is None) == (operator == "=="))
    if other.valid is None:
        return Const(operator == "!=")
    return Vec(BOOL, ~other.valid if operator == "==" else other.valid)


def _operand(value: Value) -> Any:
    return value.value if isinstance(value, Const) else value.data


def _both_valid(left: Value, right: Value) -> Mask | None:
    masks = [side.valid for side in (left, right) if isinstance(side, Vec) and side.valid is not None]
    if not masks:
        return None
    return masks[0] if len(masks) == 1 else masks[0] & masks[1]


def _compare_numbers(operator: str, left: Value, right: Value, count: int, table: TextTable) -> Value:
    if {kind(left), kind(right)} >= {DOUBLE} and not (_fits_double(left) and _fits_double(right)):
        return map_distinct(values.BINARY_OPERATIONS[operator], [left, right], count, table)
    a, b = _operand(left), _operand(right)
    try:
        mask = cast(Mask, _COMPARISONS[operator](a, b))
    except OverflowError:  # a literal beyond the column's type
        return map_distinct(values.BINARY_OPERATIONS[operator], [left, right], count, table)
    return Vec(BOOL, _with_none(operator, mask, left, right))


def _with_none(operator: str, mask: Mask, left: Value, right: Value) -> Mask:
    """None equals None only, and has no order."""
    valid = _both_valid(left, right)
    if valid is None:
        return mask
    if operator == "==":
        neither = _neither_valid(left, right)
        return mask & valid if neither is None else (mask & valid) | neither
    if operator == "!=":
        neither = _neither_valid(left, right)
        return mask | ~valid if neither is None else (mask | ~valid) & ~neither
    return mask & valid


def _neither_valid(left: Value, right: Value) -> Mask | None:
    if not (isinstance(left, Vec) and isinstance(right, Vec)) or left.valid is None or right.valid is None:
        return None
    return ~(left.valid | right.valid)


def _fits_double(value: Value) -> bool:
    """Whether every int of a value is exact as a double."""
    if kind(value) != INT:
        return True
    if isinstance(value, Const):
        return abs(cast(int, value.value)) <= _EXACT_IN_DOUBLE
    data = value.data
    return not len(data) or (int(data.min()) >= -_EXACT_IN_DOUBLE and int(data.max()) <= _EXACT_IN_DOUBLE)


def _equal_texts(operator: str, left: Value, right: Value, table: TextTable) -> Value:
    if isinstance(left, Const):
        left, right = right, left
    assert isinstance(left, Vec) and left.table is not None
    if isinstance(right, Const):
        code = left.table.code(cast(str, right.value))
        if code is None:
            return Const(operator == "!=")
        mask = cast(Mask, _COMPARISONS[operator](left.data, code))
        return Vec(BOOL, _with_none(operator, mask, left, right))
    if left.table is not right.table:
        left, right = localised(left, table), localised(right, table)
    mask = cast(Mask, _COMPARISONS[operator](left.data, right.data))
    return Vec(BOOL, _with_none(operator, mask, left, right))


# ---------------------------------------------------------------- arithmetic


def _arithmetic(operator: str, left: Value, right: Value, count: int, table: TextTable) -> Value:
    kinds = (kind(left), kind(right))
    if any(isinstance(side, Const) and side.value is None for side in (left, right)):
        other = right if isinstance(left, Const) and left.value is None else left
        if kind(other) in _NUMERIC:
            return NULL
    elif kinds[0] in _NUMERIC and kinds[1] in _NUMERIC:
        fast: Value | None
        if operator == "/":
            fast = _divide(left, right)
        elif DOUBLE in kinds:
            fast = _double_arithmetic(operator, left, right)
        else:
            fast = _int_arithmetic(operator, left, right, count, table)
        if fast is not None:
            return fast
    return map_distinct(values.BINARY_OPERATIONS[operator], [left, right], count, table)


def _doubles(value: Value) -> Any:
    if isinstance(value, Const):
        return float(cast(float, value.value))
    return value.data.astype(np.float64) if value.data.dtype != np.float64 else value.data


def _finite(data: NDArray[np.float64], valid: Mask | None) -> Vec:
    """A double result: what is not finite is None, None holds zero."""
    good = np.isfinite(data)
    if valid is not None:
        good &= valid
    if good.all():
        return Vec(DOUBLE, data)
    return Vec(DOUBLE, np.where(good, data, 0.0), good)


def _divide(left: Value, right: Value) -> Value:
    a, b = _doubles(left), np.asarray(_doubles(right))
    with np.errstate(all="ignore"):
        quotient = np.where(b == 0, 0.0, a / np.where(b == 0, 1.0, b))
    return _finite(quotient, _both_valid(left, right))


def _double_arithmetic(operator: str, left: Value, right: Value) -> Value | None:
    a, b = _doubles(left), np.asarray(_doubles(right))
    with np.errstate(all="ignore"):
        if operator == "+":
            data = a + b
        elif operator == "-":
            data = a - b
        elif operator == "*":
            data = a * b
        else:
            safe = np.where(b == 0, 1.0, b)
            data = np.where(b == 0, 0.0, np.floor_divide(a, safe) if operator == "//" else np.mod(a, safe))
    return _finite(np.asarray(data), _both_valid(left, right))


def _ints(value: Value) -> Any:
    if isinstance(value, Const):
        return np.int64(cast(int, value.value))
    return value.data if value.data.dtype == np.int64 else value.data.astype(np.int64)


def _int_arithmetic(operator: str, left: Value, right: Value, count: int, table: TextTable) -> Value | None:
    """Int results; None where an overflow needs the general way."""
    a, b = np.asarray(_ints(left)), np.asarray(_ints(right))
    valid = _both_valid(left, right)
    with np.errstate(all="ignore"):
        if operator in ("+", "-"):
            data = a + b if operator == "+" else a - b
            overflow = ((a ^ data) & (b ^ data) if operator == "+" else (a ^ b) & (a ^ data)) < 0
            if overflow.any():
                return None
        elif operator == "*":
            if (np.abs(a.astype(np.float64) * b.astype(np.float64)) > 9.0e18).any():
                return None
            data = a * b
        else:
            if (a == np.iinfo(np.int64).min).any():
                return None
            safe = np.where(b == 0, 1, b)
            data = np.where(b == 0, 0, np.floor_divide(a, safe) if operator == "//" else np.mod(a, safe))
    if valid is not None:
        data = np.where(valid, data, 0)
    return Vec(INT, np.asarray(data, np.int64), valid)
