"""The time of an event as clients send it: milliseconds or seconds since 1970, or ISO 8601 text.

A number below 10^11 is in seconds. Text without an offset is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

SECONDS_BELOW = 10**11
# The last millisecond of the year 9999.
LAST_STAMP = 253_402_300_799_999

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# datetime.fromisoformat takes more than ISO 8601 (any separator); this keeps to it.
_ISO = re.compile(
    r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}"
    r"([Tt ][0-9]{2}(:?[0-9]{2}(:?[0-9]{2}([.,][0-9]+)?)?)?([Zz]|[+-][0-9]{2}(:?[0-9]{2})?)?)?"
)


class BadStamp(ValueError):
    """A stamp that cannot be one; the message is the reason."""


def parse_stamp(value: object) -> int:
    """Milliseconds since the epoch. Raises BadStamp."""
    if isinstance(value, str):
        return _in_range(_parse_text(value), value)
    if isinstance(value, float):
        if not value.is_integer():  # also infinite and NaN
            raise BadStamp(f"stamp {value!r} is not a whole number of seconds or milliseconds")
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadStamp("stamp must be milliseconds, seconds or ISO 8601 text")
    return _in_range(value * 1_000 if value < SECONDS_BELOW else value, value)


def _parse_text(text: str) -> int:
    if not _ISO.fullmatch(text):
        raise BadStamp(f"stamp {_shortened(text)} is not an ISO 8601 date or time")
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise BadStamp(f"stamp {_shortened(text)} is not an ISO 8601 date or time: {error}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MILLISECOND


def _in_range(stamp: int, given: object) -> int:
    if 0 <= stamp <= LAST_STAMP:
        return stamp
    raise BadStamp(f"stamp {_shortened(given)} is {'before 1970' if stamp < 0 else 'after the year 9999'}")


def _shortened(given: object) -> str:
    text = ascii(given)
    return text if len(text) <= 60 else text[:57] + "..."
