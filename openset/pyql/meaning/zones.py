"""Time zones for many stamps at once: the offsets of a zone as a table of the moments at which they change.

Python's own zones answer for one moment at a time; a table is made of such answers, a probe per day of the years that
are asked for and a search where two probes differ. Shortcut: two changes within one day that cancel out are not seen;
no zone has had such since offsets are recorded.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

Stamps = NDArray[np.int64]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_SECONDS = 86_400
# More years than these in one vector are left to the scalar functions.
MOST_YEARS = 300
LEAST_YEAR, GREATEST_YEAR = 3, 9_997


class ZoneTable:
    """The offsets of a zone over some years.

    changes: int64[n], ms since the epoch, ascending. offsets: int64[n+1], ms, before the first change and after each.
    """

    def __init__(self, changes: Stamps, offsets: Stamps):
        self._changes = changes
        self._offsets = offsets
        # A local time that comes twice, or never, belongs to the offset before the change when it is read as the first
        # of two, else to the one after it.
        self._first_reading = changes + np.maximum(offsets[:-1], offsets[1:])
        self._second_reading = changes + np.minimum(offsets[:-1], offsets[1:])

    def to_local(self, stamps: Stamps) -> Stamps:
        """What clocks show at some moments, as if it were a stamp."""
        return stamps + self._offset(self._changes, stamps)

    def to_stamps(self, local: Stamps, second: NDArray[np.bool_] | None = None) -> Stamps:
        """The moments at which clocks show this. second: where the second of two such moments is meant."""
        first = local - self._offset(self._first_reading, local)
        if second is None or not second.any():
            return first
        return np.where(second, local - self._offset(self._second_reading, local), first)

    def is_second(self, stamps: Stamps, local: Stamps) -> NDArray[np.bool_]:
        """Which moments are the second at which clocks show the same."""
        return np.asarray(self._offset(self._first_reading, local) != local - stamps, np.bool_)

    def _offset(self, changes: Stamps, moments: Stamps) -> Stamps:
        if not len(changes):
            return np.broadcast_to(self._offsets[:1], moments.shape)
        return self._offsets[np.searchsorted(changes, moments, side="right")]


def zone_table(zone: tzinfo, first_ms: int, last_ms: int) -> ZoneTable | None:
    """The offsets from the year before one moment to the year after another; None for too many years at once."""
    if not 0 <= last_ms - first_ms < MOST_YEARS * 366 * _DAY_SECONDS * 1000:
        return None
    if first_ms < _year_start_seconds(LEAST_YEAR) * 1000 or last_ms > _year_start_seconds(GREATEST_YEAR) * 1000:
        return None
    first, last = ((_EPOCH + timedelta(milliseconds=moment)).year for moment in (first_ms, last_ms))
    return _table(zone, first - 1, last + 1)


@lru_cache(maxsize=256)
def _table(zone: tzinfo, first_year: int, last_year: int) -> ZoneTable:
    found = [change for year in range(first_year, last_year + 1) for change in _changes(zone, year)]
    before = _offset_ms(zone, _year_start_seconds(first_year))
    changes = np.array([moment for moment, _ in found], np.int64)
    return ZoneTable(changes, np.array([before, *(offset for _, offset in found)], np.int64))


@lru_cache(maxsize=4_096)
def _changes(zone: tzinfo, year: int) -> tuple[tuple[int, int], ...]:
    """The moments of a year, in ms, at which the offset changes, each with the offset from then on."""
    found: list[tuple[int, int]] = []
    start, end = _year_start_seconds(year), _year_start_seconds(year + 1)
    before = _offset_ms(zone, start)
    for moment in range(start + _DAY_SECONDS, end + 1, _DAY_SECONDS):
        after = _offset_ms(zone, moment)
        if after != before:
            found.append((1000 * _first_with(zone, after, moment - _DAY_SECONDS, moment), after))
            before = after
    return tuple(found)


def _first_with(zone: tzinfo, offset_ms: int, low: int, high: int) -> int:
    """The second, above `low` and up to `high`, from which on the offset holds."""
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_ms(zone, middle) == offset_ms:
            high = middle
        else:
            low = middle
    return high


def _offset_ms(zone: tzinfo, seconds: int) -> int:
    offset = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone).utcoffset()
    return cast(timedelta, offset) // timedelta(milliseconds=1)


def _year_start_seconds(year: int) -> int:
    return (datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(seconds=1)
