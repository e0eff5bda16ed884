"""The stamps of events that come without one: now, and the next milliseconds for further events of a person and action.

An event is known by person, stamp and action, so two events sent without a stamp must not get the same one, whether
they come in one request or in two of the same millisecond: the later would replace the earlier. What was given is
remembered until it is past; in a cluster the owners of partitions do that (`cluster.stamping`). Shortcut: not across
restarts, which take longer than the milliseconds that are at stake.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.store.encode import Coder
from openset.store.ranges import count_within
from openset_format.block import PersonId

# Stands for a stamp that is not there yet.
NOW = -1
# What is past is forgotten when at least so many are remembered, and twice as many as the last time.
_FORGET_FROM = 4_096

Name = tuple[PersonId, str]


class NowStamps:
    """Gives stamps to the events of one table that have none. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_free: dict[Name, int] = {}
        self._forget_at = _FORGET_FROM

    def take(self, names: Sequence[Name], now_ms: int) -> NDArray[np.int64]:
        """int64[len(names)], ms: for each (person, action), in order, now or the first stamp after those given."""
        coder: Coder[Any] = Coder()
        codes = coder.encode(names)
        counts = np.bincount(codes, minlength=len(coder)).tolist()
        first = self.reserve(list(coder), counts, [now_ms] * len(coder))
        return np.array(first, np.int64)[codes] + count_within(codes)

    def reserve(self, names: Sequence[Name], counts: Sequence[int], least_ms: Sequence[int]) -> list[int]:
        """The first of as many stamps in a row as are wanted for each name: the least, or after those given before.

        Where a name comes twice, the second gets those behind the first's.
        """
        first = []
        with self._lock:
            if len(self._next_free) >= self._forget_at:
                self._forget(min(least_ms, default=0))
            held = self._next_free
            for name, count, least in zip(names, counts, least_ms, strict=True):
                start = max(least, held.get(name, 0))
                held[name] = start + count
                first.append(start)
        return first

    def _forget(self, now_ms: int) -> None:
        self._next_free = {name: free for name, free in self._next_free.items() if free > now_ms}
        self._forget_at = max(_FORGET_FROM, 2 * len(self._next_free))


class LaterStamps(NowStamps):
    """Leaves NOW where a stamp is missing, for `with_now` to replace when all events are known."""

    def take(self, names: Sequence[Name], now_ms: int) -> NDArray[np.int64]:
        return np.full(len(names), NOW, np.int64)


def with_now(
    person: NDArray[np.int64], action: NDArray[Any], stamp: NDArray[np.int64], now_ms: int
) -> NDArray[np.int64]:
    """int64[events], ms: the stamps, with now, now+1, … in place of NOW, per person and action.

    person, action: numbers of each event's person and action.
    """
    missing = np.flatnonzero(stamp == NOW)
    if not len(missing):
        return stamp
    names = person[missing].astype(np.int64) << 32 | action[missing].astype(np.int64)
    stamp = stamp.copy()
    stamp[missing] = now_ms + count_within(names)
    return stamp
