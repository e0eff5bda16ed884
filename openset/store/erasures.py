"""Erasures whose record is durable, and what follows from it: stored segments and dead letters without the person.

The record decides: from then on nobody is told of the person. What follows is written next, and where it cannot
be (a full disk), later: by whoever compacts next, or by the next start. Until then the record stays in the journal, and
its partition is compacted only up to it, because afterwards nobody could tell whom it erased. In a cluster every copy
of the partition does that by itself when the record becomes visible; the other members are told (`forget`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from openset.errors import InternalError, OpenSetError
from openset.log import get_logger
from openset.store.catalog import Catalog
from openset.store.dead_letters import DeadLetters
from openset.store.journals import Mark, first_of
from openset.store.partition import NO_RECORD
from openset.store.records import ERASURE_RECORD, decode_erasure
from openset.store.recovery import Partitions
from openset.store.segments import Segments
from openset.store.state import load_state
from openset_format.block import PersonId
from openset_format.errors import FormatError
from openset_format.journal import Journal

log = get_logger("openset.store")

Key = tuple[int, int]


@dataclass(slots=True)
class _Unfinished:
    """An erasure. is_left: whoever asked for it has given up finishing it."""

    key: Key
    sequence: int
    person: PersonId
    is_left: bool = False


class Erasures:
    """The unfinished erasures of a store. Methods may be called from any thread; `finish` and its like sync."""

    def __init__(
        self,
        data_dir: Path,
        catalog: Catalog,
        partitions: Partitions,
        journal_id: str,
        segments: Segments,
        dead_letters: DeadLetters,
        partitions_lock: threading.Lock,
    ):
        """partitions_lock: guards the partitions."""
        self._data_dir = data_dir
        self._catalog = catalog
        self._partitions = partitions
        self._journal_id = journal_id
        self._segments = segments
        self._dead_letters = dead_letters
        self._partitions_lock = partitions_lock
        # Guards what is unfinished. Taken after the lock of the partitions.
        self._lock = threading.Lock()
        # By partition and sequence: in a member every partition counts its own records.
        self._unfinished: dict[tuple[int, int], _Unfinished] = {}

    def recover(self, journal: Journal) -> None:
        """At a start: does for all erasures in the journal what a crash may have left undone, as far as it can."""
        for ref, kind, table_id in journal.records():
            if kind == ERASURE_RECORD and not self._catalog.is_dropped(table_id):
                self.begin(table_id, ref.sequence, journal.read(ref), is_left=True)
        try:
            self.finish_all()
        except OpenSetError as error:
            log.warning("an erasure is not finished", reason=error.message)

    def begin(self, table_id: int, sequence: int, payload: bytes | memoryview, is_left: bool = False) -> None:
        """A record is durable. is_left: nobody waits to finish it, as in a member's copies. Raises InternalError."""
        erasure = decode_erasure(payload)
        key = (table_id, erasure.partition)
        with self._lock:
            self._unfinished[erasure.partition, sequence] = _Unfinished(key, sequence, erasure.person, is_left)

    def finish(self, partition: int, sequence: int, ordinals: Collection[int]) -> None:
        """Does what follows from one record. ordinals: whom it erased. Raises InternalError, ReadOnlyError."""
        with self._lock:
            found = self._unfinished.get((partition, sequence))
        if found is not None:  # else somebody has done it
            self._finish(found.key, [found], lambda: ordinals)

    def leave(self, partition: int, sequence: int) -> None:
        """Whoever asked for an erasure does not finish it, if it is not finished."""
        with self._lock:
            found = self._unfinished.get((partition, sequence))
            if found is not None:
                found.is_left = True

    def forget(self, table_id: int, partition: int, person: PersonId, ordinals: Collection[int]) -> None:
        """What follows from a record that need not be here: on a member without a copy of the partition.

        Ordinals are never given again, so no computation has them from now on, whatever it knew. May be repeated.
        Raises InternalError, ReadOnlyError, when each part was tried.
        """
        try:
            self._dead_letters.forget_person(table_id, person)
        finally:
            self._segments.forget_people(table_id, partition, ordinals, NO_RECORD)

    def finish_left(self) -> None:
        """Finishes the erasures that were left. Raises InternalError, ReadOnlyError where that cannot be."""
        self._finish_those(lambda one: one.is_left)

    def finish_all(self) -> None:
        """Finishes all of them, where nobody else does. Raises InternalError, ReadOnlyError."""
        self._finish_those(lambda one: True)

    def _finish_those(self, wanted: Callable[[_Unfinished], bool]) -> None:
        """By partition, because finding out whom its records erased takes reading them."""
        by_key: dict[Key, list[_Unfinished]] = {}
        with self._lock:
            for one in self._unfinished.values():
                if wanted(one):
                    by_key.setdefault(one.key, []).append(one)
        failure: OpenSetError | None = None
        for key, group in by_key.items():
            try:
                self._finish(key, group, partial(self._erased, key))
            except OpenSetError as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def _finish(self, key: Key, group: Sequence[_Unfinished], erased: Callable[[], Collection[int]]) -> None:
        """Erasures of one partition, oldest first. Each part is tried, whatever becomes of the others."""
        table_id, number = key
        try:
            for one in group:
                self._dead_letters.forget_person(table_id, one.person)
        finally:
            self._segments.forget_people(table_id, number, erased(), group[-1].sequence)
        with self._lock:
            for one in group:
                self._unfinished.pop((key[1], one.sequence), None)

    def _erased(self, key: Key) -> tuple[int, ...]:
        """The ordinals that records beyond a partition's file have made nobody's. Raises InternalError."""
        with self._partitions_lock:
            schema = next((schema for schema in self._catalog.tables() if schema.id == key[0]), None)
            partition = self._partitions.get(key)
            if schema is None or partition is None or not partition.erasures:
                return ()
            if partition.damage:
                raise InternalError(partition.damage)
            snapshot = partition.snapshot(schema, self._journal_id)
        try:
            return load_state(self._data_dir, snapshot).erased
        except FormatError as error:
            raise InternalError(str(error)) from error

    def first(self, table_id: int, partition: int) -> int | None:
        """The oldest record of a partition that must stay in the journal; None when none has to."""
        with self._lock:
            return min(
                (one.sequence for one in self._unfinished.values() if one.key == (table_id, partition)), default=None
            )

    def waits_for(self, mark: Mark) -> bool:
        """Whether any record before a mark is unfinished."""
        with self._lock:
            return any(one.sequence < first_of(mark, one.key[1]) for one in self._unfinished.values())

    def drop_table(self, table_id: int) -> None:
        """Forgets a table that was dropped."""
        with self._lock:
            self._unfinished = {
                place: one for place, one in self._unfinished.items() if one.key[0] != table_id
            }  # fmt: skip
