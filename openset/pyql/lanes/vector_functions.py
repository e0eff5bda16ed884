"""The pure built-in functions on vectors: numpy where the common kinds allow it, else once per distinct value."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vector_ops import kind, map_distinct
from openset.pyql.lanes.vectors import BOOL, DOUBLE, INT, Const, Value, Vec
from openset.pyql.meaning import dates
from openset.pyql.meaning.zones import zone_table

Ints = NDArray[np.int64]

_DAY_MS = 86_400_000
# The years 1 to 9999, in which numpy and Python's datetime agree.
_LEAST_MS, _GREATEST_MS = -62_135_596_800_000, 253_402_300_799_999


def call(
    name: str,
    scalar: Callable[..., Any],
    arguments: list[Value],
    count: int,
    table: TextTable,
    zone: tzinfo = UTC,
) -> Value:
    """A pure built-in on every lane. scalar: its meaning for single values. zone: of the date functions."""
    first = arguments[0] if arguments else None
    if isinstance(first, Vec) and first.kind in (INT, DOUBLE, BOOL):
        result = _fast(name, first, arguments, zone)
        if result is not None:
            return result
    return map_distinct(scalar, arguments, count, table)


def _fast(name: str, value: Vec, arguments: list[Value], zone: tzinfo) -> Value | None:
    if name.startswith("to_"):
        return _span(value, dates.SPAN_UNITS_MS[name[3:]]) if value.kind == INT else None
    if name.startswith("get_"):
        return _dated(value, partial(_part, name[4:], zone))
    if name.startswith("date_"):
        return _dated(value, partial(_start, name[5:], zone))
    if name == "bucket" and isinstance(arguments[1], Const):
        return _bucket(value, arguments[1])
    if name in ("int", "trunc"):
        return _to_int(value, none_is_zero=name == "int")
    if name == "float":
        return _to_float(value)
    return None


def _span(value: Vec, unit_ms: int) -> Vec | None:
    if len(value) and int(value.data.min()) == np.iinfo(np.int64).min:
        return None
    return Vec(INT, np.sign(value.data) * (np.abs(value.data) // unit_ms), value.valid)


def _dated(value: Vec, date: Callable[[Ints], Ints | None]) -> Vec | None:
    """What a date function gives for each stamp; None, no fast way, where one is no int or beyond years 1 to 9999."""
    if value.kind != INT:
        return None
    data = cast(Ints, value.data)
    if len(data):
        low, high = int(data.min()), int(data.max())
        if low < _LEAST_MS // 1000 or high > _GREATEST_MS:
            return None
        if low < dates.SECONDS_BELOW:
            data = np.where(data < dates.SECONDS_BELOW, data * 1000, data)
    result = date(data)
    if result is None:
        return None
    return Vec(INT, result if value.valid is None else np.where(value.valid, result, 0), value.valid)


def _part(unit: str, zone: tzinfo, stamps: Ints) -> Ints | None:
    """A part of the date of each stamp, in ms; None where there is no fast way."""
    if zone is UTC or not len(stamps):
        return _PARTS[unit](stamps)
    table = zone_table(zone, int(stamps.min()), int(stamps.max()))
    return None if table is None else _PARTS[unit](table.to_local(stamps))


def _start(unit: str, zone: tzinfo, stamps: Ints) -> Ints | None:
    """Where the interval of each stamp began; None where there is no fast way.

    A time of day that comes twice on a day stays in the half it is in; days and what is longer begin the first time.
    """
    if zone is UTC or not len(stamps):
        return _STARTS[unit](stamps)
    table = zone_table(zone, int(stamps.min()), int(stamps.max()))
    if table is None:
        return None
    local = table.to_local(stamps)
    second = table.is_second(stamps, local) if unit in ("second", "minute", "hour") else None
    return table.to_stamps(_STARTS[unit](local), second)


def _days(ms: Ints) -> Ints:
    return ms // _DAY_MS


def _months(ms: Ints) -> Ints:
    """Months since January 1970."""
    return _days(ms).astype("M8[D]").astype("M8[M]").astype(np.int64)


def _month_start(months: Ints) -> Ints:
    """The stamp in ms at which months since January 1970 start."""
    return months.astype("M8[M]").astype("M8[ms]").astype(np.int64)


def _year_start(ms: Ints) -> Ints:
    return _month_start(_months(ms) // 12 * 12)


# 1970-01-01 was a Thursday.
_PARTS: dict[str, Callable[[Ints], Ints]] = {
    "second": lambda ms: ms // 1000 % 60,
    "minute": lambda ms: ms // 60_000 % 60,
    "hour": lambda ms: ms // 3_600_000 % 24,
    "day_of_week": lambda ms: (_days(ms) + 4) % 7 + 1,
    "day_of_month": lambda ms: _days(ms) - _days(_month_start(_months(ms))) + 1,
    "day_of_year": lambda ms: _days(ms) - _days(_year_start(ms)) + 1,
    "month": lambda ms: _months(ms) % 12 + 1,
    "quarter": lambda ms: _months(ms) % 12 // 3 + 1,
    "year": lambda ms: _months(ms) // 12 + 1970,
}
_STARTS: dict[str, Callable[[Ints], Ints]] = {
    "second": lambda ms: ms // 1000 * 1000,
    "minute": lambda ms: ms // 60_000 * 60_000,
    "hour": lambda ms: ms // 3_600_000 * 3_600_000,
    "day": lambda ms: _days(ms) * _DAY_MS,
    "week": lambda ms: (_days(ms) - (_days(ms) + 4) % 7) * _DAY_MS,
    "month": lambda ms: _month_start(_months(ms)),
    "quarter": lambda ms: _month_start(_months(ms) // 3 * 3),
    "year": _year_start,
}


def _bucket(value: Vec, width: Const) -> Vec | None:
    step = width.value
    if isinstance(step, bool) or not isinstance(step, int | float) or step == 0 or value.kind == BOOL:
        return None
    if value.kind == INT and isinstance(step, int):
        if abs(step) > 1 << 40 or (len(value) and abs(int(value.data.min())) > 1 << 61):
            return None
        data = value.data // step * step
        return Vec(INT, data if value.valid is None else np.where(value.valid, data, 0), value.valid)
    with np.errstate(all="ignore"):
        quotient = value.data.astype(np.float64) / step
        result = np.floor(quotient) * float(step)
    if not np.isfinite(result).all():
        return None
    return Vec(DOUBLE, result if value.valid is None else np.where(value.valid, result, 0.0), value.valid)


def _to_int(value: Vec, none_is_zero: bool) -> Vec | None:
    if value.kind == DOUBLE:
        if len(value) and float(np.abs(value.data).max()) >= 9.0e18:
            return None
        data = value.data.astype(np.int64)
    else:
        data = value.data.astype(np.int64, copy=False)
    return Vec(INT, data, None if none_is_zero else value.valid)


def _to_float(value: Vec) -> Vec:
    """None gives 0; a missing value is stored as zero already."""
    return Vec(DOUBLE, value.data.astype(np.float64, copy=False))


def within(stamps: Ints, span: Value, moment: Value) -> Value | None:
    """iter_within(SPAN, T) for int or double spans and moments; None where a kind is another."""
    if any(isinstance(v, Const) and v.value is None for v in (span, moment)):
        return Const(False)
    if kind(span) not in (INT, BOOL) or kind(moment) != INT:
        return None
    span_ms: Any = span.value if isinstance(span, Const) else span.data
    at: Any = moment.value if isinstance(moment, Const) else moment.data
    if np.any(np.abs(np.asarray(at, np.float64)) > 1e18):
        return None
    mask = np.abs(stamps - at) <= span_ms
    for value in (span, moment):
        if isinstance(value, Vec) and value.valid is not None:
            mask &= value.valid
    return Vec(BOOL, mask)
