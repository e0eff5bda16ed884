"""Which partitions are to be compacted next: those that are due, and those that somebody asked for.

Only bookkeeping. The store holds its lock for every call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping

from openset.store.compaction import Policy
from openset.store.partition import Partition

Key = tuple[int, int]


class CompactionQueue:
    """Partitions by (table id, partition)."""

    def __init__(self, policy: Policy, first_pending: Callable[[int, int], int | None]):
        """first_pending: the oldest record of a partition that has to stay in the journal, None when none has to."""
        self._policy = policy
        self._first_pending = first_pending
        self._running: set[Key] = set()
        # Compacted whether they are due or not, because somebody asked or something is left over.
        self._wanted: set[Key] = set()
        self._wanted_running: set[Key] = set()

    def want(self, keys: Iterable[Key]) -> None:
        """Asks for partitions that may not be due."""
        self._wanted |= set(keys)

    def still_wanted(self, keys: Collection[Key]) -> bool:
        """Whether any of these waits for the compaction that was asked for, or is in it."""
        return any(key in self._wanted or key in self._wanted_running for key in keys)

    def running_tables(self) -> set[int]:
        """The tables of which a partition is being compacted."""
        return {table_id for table_id, _ in self._running}

    def begin(
        self, partitions: Mapping[Key, Partition], tables: Collection[int], forced: bool, journal_is_too_long: bool
    ) -> Partition | None:
        """The partition to compact now, which counts as running; None when there is none.

        forced: any with a record that is not in its file. The one that holds the oldest record comes first.
        """
        now = time.monotonic()
        chosen: Partition | None = None
        for key, partition in partitions.items():
            if key in self._running or partition.table_id not in tables or partition.damage:
                continue
            # What triggers have not run for stays in the journal.
            events = partition.events_before(self._first_pending(*key))
            due = self._policy.is_due(partition.base_rows, events, now - partition.waiting_since)
            due = due or (events > 0 and (forced or journal_is_too_long))
            if not due and key not in self._wanted:
                continue
            if chosen is None or partition.oldest_sequence < chosen.oldest_sequence:
                chosen = partition
        if chosen is not None:
            key = (chosen.table_id, chosen.partition)
            self._running.add(key)
            if key in self._wanted:
                self._wanted.discard(key)
                self._wanted_running.add(key)
        return chosen

    def end(self, key: Key) -> None:
        """A compaction was published."""
        self._running.discard(key)
        self._wanted_running.discard(key)

    def give_up(self, key: Key) -> None:
        """A compaction failed, or ended before: what was wanted is wanted still."""
        self._running.discard(key)
        if key in self._wanted_running:
            self._wanted_running.discard(key)
            self._wanted.add(key)
