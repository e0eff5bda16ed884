"""Date functions on stamps: integer milliseconds since the epoch. Without a zone everything is UTC.

A stamp below 10^11 is taken for seconds. Stamps outside the years 1 to 9999 have no date: the functions give None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import Value, kind_of
from openset.pyql.meaning.values import in_range

SECONDS_BELOW = 100_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

SPAN_UNITS_MS = {
    "seconds": 1_000,
    "minutes": 60_000,
    "hours": 3_600_000,
    "days": 86_400_000,
    "weeks": 604_800_000,
}


def stamp_ms(value: int | float) -> int:
    """A stamp in milliseconds: below 10^11 it was in seconds."""
    return math.floor(value * 1000) if value < SECONDS_BELOW else math.floor(value)


def span_in(unit: str, value: Value) -> int | float | None:
    """to_seconds … to_weeks: a span of milliseconds in a unit, toward zero. A double beyond 64 bits stays one."""
    number = _number(f"to_{unit}", value)
    if number is None:
        return None
    unit_ms = SPAN_UNITS_MS[unit]
    if isinstance(number, int):
        return number // unit_ms if number >= 0 else -(-number // unit_ms)
    return in_range(math.trunc(number / unit_ms))


def date_part(unit: str, value: Value, zone: tzinfo = UTC) -> int | None:
    """get_second … get_year: a number. Day of week 1 is Sunday; month, quarter and day of year count from 1."""
    moment = _moment(f"get_{unit}", value, zone)
    return None if moment is None else _PARTS[unit](moment)


def interval_start(unit: str, value: Value, zone: tzinfo = UTC) -> int | None:
    """date_second … date_year: the stamp, in ms, at which the interval around a stamp began. Weeks begin on Sunday."""
    moment = _moment(f"date_{unit}", value, zone)
    if moment is None:
        return None
    try:
        return (_STARTS[unit](moment).astimezone(UTC) - _EPOCH) // _MILLISECOND
    except OverflowError:
        return None


def bound_ms(value: Value, zone: tzinfo = UTC) -> int | None:
    """A bound of iter_between in ms: ISO 8601 text (in `zone` unless it carries an offset), epoch seconds or ms.

    Raises RunTimeError for text that is no date and for values that are neither text nor a number.
    """
    if value is None:
        return None
    if isinstance(value, str):
        stamp = _parsed(value, zone)
        if stamp is None:
            raise RunTimeError(f"iter_between() needs ISO 8601 dates like '2024-03-01' or '2024-03-01T12:00:00Z', "
                               f"not {value[:40]!r}")  # fmt: skip
        return stamp
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return stamp_ms(value)
    raise RunTimeError(f"iter_between() needs dates, this is {kind_of(value)}")


@lru_cache(maxsize=256)
def _parsed(text: str, zone: tzinfo) -> int | None:
    try:
        moment = datetime.fromisoformat(text.strip().upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return (moment.astimezone(UTC) - _EPOCH) // _MILLISECOND
    except (ValueError, OverflowError):
        return None


def _number(function: str, value: Value) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return value
    raise RunTimeError(f"{function}() needs a number, this is {kind_of(value)}")


def _moment(function: str, value: Value, zone: tzinfo) -> datetime | None:
    number = _number(function, value)
    if number is None:
        return None
    try:
        return (_EPOCH + timedelta(milliseconds=stamp_ms(number))).astimezone(zone)
    except OverflowError:
        return None


def _day(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)


def _sunday_based(moment: datetime) -> int:
    """Days since the last Sunday, 0 to 6."""
    return moment.isoweekday() % 7


_PARTS: dict[str, Callable[[datetime], int]] = {
    "second": lambda moment: moment.second,
    "minute": lambda moment: moment.minute,
    "hour": lambda moment: moment.hour,
    "day_of_week": lambda moment: _sunday_based(moment) + 1,
    "day_of_month": lambda moment: moment.day,
    "day_of_year": lambda moment: moment.timetuple().tm_yday,
    "month": lambda moment: moment.month,
    "quarter": lambda moment: (moment.month + 2) // 3,
    "year": lambda moment: moment.year,
}

_STARTS: dict[str, Callable[[datetime], datetime]] = {
    "second": lambda moment: moment.replace(microsecond=0),
    "minute": lambda moment: moment.replace(second=0, microsecond=0),
    "hour": lambda moment: moment.replace(minute=0, second=0, microsecond=0),
    "day": _day,
    "week": lambda moment: _day(moment - timedelta(days=_sunday_based(moment))),
    "month": lambda moment: _day(moment).replace(day=1),
    "quarter": lambda moment: _day(moment).replace(day=1, month=(moment.month - 1) // 3 * 3 + 1),
    "year": lambda moment: _day(moment).replace(day=1, month=1),
}
