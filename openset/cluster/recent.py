"""The newest records of every log in memory, so that what is sent to copies need not be read from the disk."""

from __future__ import annotations

import time
from collections.abc import Sequence

from openset.cluster.messages import Entry

_KEPT_BYTES = 16 * 1024 * 1024
# Who sends a record again gives up before.
_SENT_AGAIN_SECONDS = 40.0


class _Tail:
    """The end of one log. first: the index of the first entry. came: when each of them did, in seconds."""

    def __init__(self, first: int):
        self.first = first
        self.entries: list[Entry] = []
        self.came: list[float] = []
        self.size_bytes = 0

    def drop_oldest(self) -> None:
        """About half of it: dropping one by one would move the others each time."""
        count = max(len(self.entries) // 2, 1)
        self.size_bytes -= sum(len(entry.payload.data) for entry in self.entries[:count])
        self.first += count
        del self.entries[:count], self.came[:count]


class RecentEntries:
    """The ends of logs, each up to some bytes. Entries have `wire.Payload` as their payload."""

    def __init__(self, kept_bytes: int = _KEPT_BYTES):
        self._limit = kept_bytes
        self._tails: dict[int, _Tail] = {}

    def keep(self, partition: int, first: int, entries: Sequence[Entry]) -> None:
        """Entries behind the ones that are here."""
        tail = self._tails.get(partition)
        if tail is None or tail.first + len(tail.entries) != first:
            tail = self._tails[partition] = _Tail(first)
        tail.entries += entries
        tail.came += [time.monotonic()] * len(entries)
        tail.size_bytes += sum(len(entry.payload.data) for entry in entries)
        while tail.size_bytes > self._limit and len(tail.entries) > 1:
            tail.drop_oldest()

    def cut(self, partition: int, after: int) -> None:
        """Those behind an index count no more."""
        tail = self._tails.get(partition)
        if tail is None:
            return
        if after < tail.first:
            del self._tails[partition]
            return
        gone = tail.entries[after - tail.first + 1 :]
        tail.size_bytes -= sum(len(entry.payload.data) for entry in gone)
        del tail.entries[after - tail.first + 1 :], tail.came[after - tail.first + 1 :]

    def forget(self, partition: int) -> None:
        self._tails.pop(partition, None)

    def find(self, partition: int, payload: object) -> int | None:
        """The index of the last entry with a payload that somebody who sends it again may mean; None for none."""
        tail, now = self._tails.get(partition), time.monotonic()
        if tail is None:
            return None
        for place in range(len(tail.entries) - 1, -1, -1):
            if now - tail.came[place] > _SENT_AGAIN_SECONDS:
                return None
            if tail.entries[place].payload == payload:
                return tail.first + place
        return None

    def get(self, partition: int, first: int, last: int) -> tuple[Entry, ...] | None:
        """The entries first … last, None when not all of them are here."""
        if last < first:
            return ()
        tail = self._tails.get(partition)
        if tail is None or first < tail.first or last >= tail.first + len(tail.entries):
            return None
        return tuple(tail.entries[first - tail.first : last - tail.first + 1])
