"""The logs of a member's partitions on its disk: records are kept, cut and shown as the cluster's agreement says.

One thread writes everything, in the order in which it was asked for; records that wait at the same time share their
syncs. A record that is kept is durable and nobody sees it; it becomes visible when it is shown. On a full disk what
waits is tried again until there is room; after a failed sync nothing is kept any more, until the next start.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

from openset.errors import InternalError, OpenSetError
from openset.log import get_logger
from openset.store.health import Health
from openset.store.journals import PartitionJournals
from openset.store.records import EMITTED_RECORD, INSERT_RECORD, Share, shares_of
from openset_format.errors import FormatError, JournalFailedError, WriteError
from openset_format.segment import RecordRef

log = get_logger("openset.store")

_RETRY_SECONDS = 0.2
_ENDED = "the store is closed, or its disk has failed"


class _ClosingError(Exception):
    """The store is being closed; what waits is not written."""


class StoredEntry(NamedTuple):
    """A record of a partition's log. kind: see `records`; term: of the owner who appended it first."""

    term: int
    kind: int
    table_id: int
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class _Kept:
    """A record that is written. payload: empty where it has events, which are read from the journal."""

    ref: RecordRef
    kind: int
    table_id: int
    shares: Sequence[Share]
    payload: bytes


@dataclass(slots=True)
class _Keep:
    """Records to be written, from a sequence on; `next` of them are."""

    partition: int
    first: int
    entries: Sequence[StoredEntry]
    done: Callable[[int], None]
    next: int = 0


@dataclass(slots=True)
class _Step:
    """Something that has its place between records."""

    run: Callable[[], None]
    done: Future[None]


class Replicas:
    """The writer thread of a member. All methods may be called from any thread."""

    def __init__(
        self,
        journals: PartitionJournals,
        lock: threading.Lock,
        health: Health,
        create: Callable[[int], None],
        take_in: Callable[[RecordRef, int, int, Sequence[Share], bytes], bool],
        due: Callable[[], None],
    ):
        """lock: guards what is visible. create: makes the journal of a partition that is not here, durably.

        take_in: makes a record visible (reference, kind, table id, shares, payload), the lock is held; tells whether a
        compaction may be due. due: one is.
        """
        self.journals = journals
        self._lock = lock
        self._health = health
        self._create = create
        self._take_in = take_in
        self._due = due
        # Records that are written and not visible, by partition.
        self._hidden: dict[int, deque[_Kept]] = {}
        # Up to where records are to be visible, and what holds that back: of each cut and replacement that waits for
        # its turn, the last record that is not touched by it.
        self._wanted: dict[int, int] = {}
        self._limits: dict[int, list[int]] = {}
        # Partitions of which a replacement failed: records that wait behind it are of a log that is not here.
        self._broken: set[int] = set()
        self._waiting: deque[_Keep | _Step] = deque()
        self._closing = False
        self._ended = False
        self._changed = threading.Condition()
        self._recover()
        self._thread = threading.Thread(target=self._run, name="replicas", daemon=True)
        self._thread.start()

    def _recover(self) -> None:
        """What is in the journals and behind their bases is hidden until it is known to be agreed."""
        for number in self.journals.numbers():
            self._recover_partition(number)

    def _recover_partition(self, number: int) -> None:
        hidden = self._hidden[number] = deque()
        shown = self.journals.shown(number)
        for ref, kind, table_id in self.journals.entries(number):
            if ref.sequence > shown:
                hidden.append(_kept(ref, kind, table_id, self.journals.read(ref)))

    # --- what the cluster asks for ---------------------------------------------------------------------------------

    def keep(self, partition: int, first: int, entries: Sequence[StoredEntry], done: Callable[[int], None]) -> None:
        """Writes records, the first of them as record `first` of the partition's log.

        done: is told the sequence of the last one when they are durable, in the writer's thread; never when the disk
        refuses them.
        """
        self._put(_Keep(partition, first, entries, done))

    def cut(self, partition: int, after: int) -> Future[None]:
        """Forgets the records of a partition behind one, durably, before anything that is kept later."""
        with self._lock:
            self._limits.setdefault(partition, []).append(after)
        return self.perform(lambda: self._cut(partition, after))

    def replace(self, partition: int, run: Callable[[], None]) -> Future[None]:
        """`perform` of something that ends with `reset`: until then nothing more of the partition becomes visible.

        When it fails, nothing of the partition is kept until `begin_again`.
        """
        with self._lock:
            self._limits.setdefault(partition, []).append(0)

        def replaced() -> None:
            try:
                run()
            except BaseException:
                self._broken.add(partition)
                with self._lock:
                    if 0 in self._limits.get(partition, ()):  # it did not come to `reset`
                        self.reset(partition)
                raise

        return self.perform(replaced)

    def perform(self, run: Callable[[], None]) -> Future[None]:
        """Runs something in the writer's thread, behind everything that was asked for before."""
        step = _Step(run, Future())
        self._put(step)
        return step.done

    def begin_again(self) -> Future[None]:
        """`perform` of a new beginning: whoever asks for more has seen what is here of every partition."""
        return self.perform(self._broken.clear)

    def show(self, partition: int, up_to: int) -> None:
        """Records up to one are agreed: they are visible from now on, or from when they are written."""
        with self._lock:
            self._wanted[partition] = max(up_to, self._wanted.get(partition, 0))
            due = self._show(partition)
        if due:
            self._due()

    def visible(self) -> dict[int, int]:
        """By partition the record up to which everything is visible here."""
        with self._lock:
            return {number: self.journals.shown(number) for number in self.journals.numbers()}

    def shown(self, partition: int) -> int:
        """Up to which record of a partition everything is visible here; 0 where it is not here."""
        return self.journals.shown(partition) if self.journals.has(partition) else 0

    def shows(self, up_to: Mapping[int, int]) -> bool:
        """Whether these records and those before them are visible, of the partitions that are here."""
        return all(shown >= up_to.get(number, 0) for number, shown in self.visible().items())

    def read(self, partition: int, first: int, last: int) -> list[StoredEntry]:
        """Records from the journal. Raises FormatError when they are not there any more."""
        records = self.journals.of(partition).slice(first, last)
        return [StoredEntry(term, kind, table_id, self.journals.read(ref)) for ref, kind, table_id, term in records]

    def reset(self, partition: int) -> None:
        """The journal of a partition is another one, or none: what `replace` was about. The lock is held."""
        self._hidden.pop(partition, None)
        self._lift(partition, 0)
        if self.journals.has(partition):
            self._recover_partition(partition)
            self._show(partition)
        else:
            self._wanted.pop(partition, None)

    def _lift(self, partition: int, limit: int) -> None:
        """What waited for its turn is done. The lock is held."""
        self._limits[partition].remove(limit)
        if not self._limits[partition]:
            del self._limits[partition]

    def close(self) -> None:
        """Ends the thread. What waits and was not promised to anybody is not written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        self._end()

    # --- the writer ------------------------------------------------------------------------------------------------

    def _put(self, one: _Keep | _Step) -> None:
        with self._changed:
            if self._closing or self._ended:
                if isinstance(one, _Step):
                    one.done.set_exception(InternalError(_ENDED))
                return
            self._waiting.append(one)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                if self._closing:
                    return
                group = self._next_group()
            try:
                if isinstance(group[0], _Step):
                    self._step(group[0])
                else:
                    self._write([one for one in group if isinstance(one, _Keep)])
            except _ClosingError:
                return
            except JournalFailedError as error:
                log.error("nothing is kept any more", reason=str(error))
                self._fail(str(error))
                return
            except Exception as defect:
                # Without this thread the node would say nothing and look alive.
                log.exception("records could not be kept")
                self._fail(f"a defect: {defect!r}")
                return

    def _fail(self, reason: str) -> None:
        self.journals.fail(reason)
        self._end()

    def _end(self) -> None:
        """Nothing is done any more; who waits for a step learns it."""
        with self._changed:
            self._ended = True
            waiting, self._waiting = self._waiting, deque()
        for one in waiting:
            if isinstance(one, _Step):
                one.done.set_exception(InternalError(_ENDED))

    def _next_group(self) -> list[_Keep | _Step]:
        """One step, or everything to be kept before the next step."""
        group = [self._waiting.popleft()]
        while isinstance(group[0], _Keep) and self._waiting and isinstance(self._waiting[0], _Keep):
            group.append(self._waiting.popleft())
        return group

    def _step(self, step: _Step) -> None:
        try:
            step.run()
        except JournalFailedError as error:
            step.done.set_exception(InternalError(str(error)))
            raise
        except (OpenSetError, FormatError, OSError) as error:
            step.done.set_exception(error if isinstance(error, OpenSetError) else InternalError(str(error)))
        else:
            step.done.set_result(None)

    def _write(self, group: Sequence[_Keep]) -> None:
        """All of it that is of logs which are here, however long that takes.

        Raises JournalFailedError, _ClosingError.
        """
        group = [one for one in group if one.partition not in self._broken]
        for one in group:
            while not self.journals.has(one.partition):
                try:
                    self._create(one.partition)
                except (OpenSetError, FormatError, OSError) as error:
                    self._pause(error)
        kept: dict[int, list[_Kept]] = {one.partition: [] for one in group}
        for one in group:
            while one.next < len(one.entries):
                try:
                    self._append(one, kept[one.partition])
                except WriteError as error:
                    self._finish(kept)
                    kept = {one.partition: [] for one in group}
                    self._pause(error)
        self._finish(kept)
        for one in group:
            one.done(one.first + len(one.entries) - 1)

    def _append(self, keep: _Keep, kept: list[_Kept]) -> None:
        journal = self.journals.of(keep.partition)
        entry = keep.entries[keep.next]
        expected = keep.first + keep.next
        assert journal.last_sequence + 1 == expected, "records are kept one behind the other"
        ref = journal.append(entry.kind, entry.table_id, entry.payload, entry.term)
        kept.append(_kept(ref, entry.kind, entry.table_id, entry.payload))
        keep.next += 1

    def _finish(self, kept: dict[int, list[_Kept]]) -> None:
        """Syncs, and shows what is to be seen already."""
        written = [number for number, records in kept.items() if records]
        if not written:
            return
        self.journals.sync(written)
        due = False
        with self._lock:
            for number in written:
                self._hidden.setdefault(number, deque()).extend(kept[number])
                due = self._show(number) or due
        if due:
            self._due()

    def _pause(self, why: Exception) -> None:
        """Returns when it may be tried again: on a full disk, when there is room.

        Raises JournalFailedError when the disk has failed, _ClosingError when the store is being closed.
        """
        log.warning("records wait for the disk", reason=str(why))
        while True:
            with self._changed:
                if not self._closing:
                    self._changed.wait(_RETRY_SECONDS)
                if self._closing:
                    raise _ClosingError
            state = self._health.condition.state
            if state == "failed":
                raise JournalFailedError(str(why))
            if state == "ok":
                return

    def _show(self, partition: int) -> bool:
        """Shows what can be. The lock is held. Whether a compaction may be due."""
        if not self.journals.has(partition):
            return False
        wanted = min([self._wanted.get(partition, 0), *self._limits.get(partition, ())])
        shown, due = self.journals.show(partition, wanted), False
        hidden = self._hidden.get(partition)
        while hidden and hidden[0].ref.sequence <= shown:
            one = hidden.popleft()
            due = self._take_in(one.ref, one.kind, one.table_id, one.shares, one.payload) or due
        return due

    def _cut(self, partition: int, after: int) -> None:
        """Raises FormatError."""
        if self.journals.has(partition):
            with self._lock:
                assert after >= self.journals.shown(partition), "what was shown is never cut"
                hidden = self._hidden.get(partition)
                while hidden and hidden[-1].ref.sequence > after:
                    hidden.pop()
            self.journals.of(partition).cut(after)
        with self._lock:
            self._lift(partition, after)
            self._show(partition)


def _kept(ref: RecordRef, kind: int, table_id: int, payload: bytes | memoryview) -> _Kept:
    """Raises FormatError, InternalError for a payload that is none of its kind."""
    kept = b"" if kind in (INSERT_RECORD, EMITTED_RECORD) else bytes(payload)
    return _Kept(ref, kind, table_id, shares_of(kind, payload, ref.sequence), kept)
