"""The attributes of one event to rows: the general case, with lists, nested groups and every error named.

Rows come out in the order written: lists vary slowest (the leftmost slowest of all), the groups of a level follow in
their order. A group inherits what stands outside of it and may override it; where it overrides a list, it takes part
once, not once per element. The size is computed before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import product
from typing import Any

from openset_format.block import ColumnType

GROUPS = "_"
DEPTH_LIMIT = 32
ROWS_PER_EVENT = 10_000

_SHOWN = {bool: "a bool", int: "an int", float: "a double", str: "text", list: "a list", dict: "an object"}

Row = dict[str, Any]


class BadEvent(ValueError):
    """An event that cannot be inserted; the message is the reason."""


def expand(
    attributes: Mapping[str, Any], columns: Mapping[str, ColumnType], most_rows: int = ROWS_PER_EVENT
) -> list[Row]:
    """The rows of an event, at least one: column name → value, without the columns that it does not mention.

    Raises BadEvent for unknown columns, wrong types, too deep nesting and too many rows.
    """
    _check(attributes, columns, 0)
    if _count(attributes, {}, most_rows) > most_rows:
        raise BadEvent(f"attr makes more than {most_rows} rows")
    rows: list[Row] = []
    _build(attributes, {}, frozenset(), rows)
    return rows


def value_problem(value: object, column_type: ColumnType) -> str | None:
    """Why a single value does not fit a column, or None when it does. None fits every column."""
    if value is None:
        return None
    kind = type(value)
    if column_type == "text" and isinstance(value, str):
        return None if is_text(value) else "is text with half of a surrogate pair, which is no character"
    if column_type == "bool" and kind is bool:
        return None
    if column_type == "int" and isinstance(value, int) and kind is not bool:
        return None if -(2**63) <= value < 2**63 else "is an int beyond 64 bits"
    if (column_type == "double" and kind in (int, float)) or (isinstance(value, float) and math.isnan(value)):
        return _double_problem(value)
    return f"is {_SHOWN.get(kind, 'something else')}, the column is {column_type}"


def is_text(text: str) -> bool:
    """False for text with a lone surrogate, which cannot be stored as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(name: str) -> str:
    """A name from outside, fit for a message."""
    text = ascii(name)
    return text if len(text) <= 60 else text[:57] + "..."


def _double_problem(value: Any) -> str | None:
    try:
        number = float(value)
    except OverflowError:
        return "is a number beyond the range of a double"
    if math.isnan(number):
        return "is NaN, which is not a number"
    return "is infinite or beyond the range of a double" if math.isinf(number) else None


def _check(level: Mapping[str, Any], columns: Mapping[str, ColumnType], depth: int) -> None:
    if depth > DEPTH_LIMIT:
        raise BadEvent(f"groups are nested deeper than {DEPTH_LIMIT}")
    for name, value in level.items():
        if name == GROUPS:
            _check_groups(value, columns, depth)
            continue
        column_type = columns.get(name)
        if column_type is None:
            raise BadEvent(f"unknown column {shown(name)}")
        for element in value if isinstance(value, list) else (value,):
            problem = value_problem(element, column_type)
            if problem is not None:
                raise BadEvent(f"attr.{name} {problem}")


def _check_groups(groups: object, columns: Mapping[str, ColumnType], depth: int) -> None:
    if groups is None:
        return
    if not isinstance(groups, list):
        raise BadEvent('"_" must be a list of objects')
    for group in groups:
        if not isinstance(group, dict):
            raise BadEvent('"_" must be a list of objects')
        _check(group, columns, depth + 1)


def _count(level: Mapping[str, Any], outer: Mapping[str, int], most_rows: int) -> int:
    """How many rows a level makes; stops counting beyond `most_rows`. `outer`: lengths of the inherited lists."""
    lengths = dict(outer)
    for name, value in level.items():
        if name != GROUPS:
            lengths[name] = len(value) if isinstance(value, list) and value else 1
    groups = level.get(GROUPS)
    if not groups:
        return math.prod(lengths.values())
    total = 0
    for group in groups:
        total += _count(group, lengths, most_rows)
        if total > most_rows:
            break
    return total


def _build(level: Mapping[str, Any], inherited: Row, repeated: frozenset[str], rows: list[Row]) -> None:
    """Appends the rows of a level.

    inherited: what the levels outside give. repeated: the columns in it that stand for a second or later element of an
    outer list; a group that overrides one of them has had its rows with the first element.
    """
    if not repeated.isdisjoint(level):
        return
    fixed, lists = dict(inherited), {}
    for name, value in level.items():
        if isinstance(value, list):
            if name != GROUPS:
                lists[name] = value or [None]
                fixed[name] = None
        elif name != GROUPS:
            fixed[name] = value
    groups = level.get(GROUPS)
    if not lists and not groups:
        rows.append(fixed)
        return
    for choice in product(*(range(len(values)) for values in lists.values())):
        row = dict(fixed)
        for (name, values), position in zip(lists.items(), choice, strict=True):
            row[name] = values[position]
        if not groups:
            rows.append(row)
            continue
        later = frozenset(name for name, position in zip(lists, choice, strict=True) if position)
        for group in groups:
            _build(group, row, repeated | later, rows)
