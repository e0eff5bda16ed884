"""Group commit: one thread appends the records of all requests that wait and syncs the journal once for them.

A request is one record, whatever partitions its events belong to, so it is there as a whole or not at all. It becomes
visible after the sync and before its caller learns of it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from openset.errors import InternalError, OpenSetError, ReadOnlyError
from openset.log import get_logger
from openset.store.health import Health
from openset.store.records import Share
from openset_format.errors import FormatError
from openset_format.journal import Journal
from openset_format.segment import RecordRef

log = get_logger("openset.store")


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """A record on its way to the disk. `done` gives its sequence, or InternalError or ReadOnlyError.

    kind: see `records`. shares: the partitions it touches.
    """

    kind: int
    table_id: int
    payload: bytes
    shares: Sequence[Share]
    done: Future[int] = field(default_factory=Future)


class Committer:
    """The writer thread of a journal."""

    def __init__(self, journal: Journal, publish: Callable[[list[tuple[Commit, RecordRef]]], None], health: Health):
        """publish: makes durable records visible; called in the writer thread, in journal order."""
        self._journal = journal
        self._health = health
        self._publish = publish
        self._waiting: list[Commit] = []
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def submit(self, commit: Commit) -> Future[int]:
        """Hands a record to the writer. Raises InternalError after `close`."""
        with self._changed:
            if self._closing:
                raise InternalError("the store is closed")
            self._waiting.append(commit)
            self._changed.notify()
        return commit.done

    def close(self) -> None:
        """Writes everything that waits, then ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                group, self._waiting = self._waiting, []
            if not group:
                return
            # A request whose client went away while it waited is not written; from here on it cannot be cancelled.
            group = [commit for commit in group if commit.done.set_running_or_notify_cancel()]
            try:
                self._write(group)
            except Exception as defect:
                # Without this thread nothing could be inserted any more.
                log.exception("a commit failed")
                for commit in group:
                    if not commit.done.done():
                        commit.done.set_exception(InternalError(f"the events could not be written: {defect!r}"))

    def _write(self, group: list[Commit]) -> None:
        written: list[tuple[Commit, RecordRef]] = []
        for commit in group:
            try:
                written.append((commit, self._journal.append(commit.kind, commit.table_id, commit.payload)))
            except FormatError as error:
                commit.done.set_exception(self._not_written(error))
        if not written:
            return
        try:
            self._journal.sync()
        except FormatError as error:
            for commit, _ in written:
                commit.done.set_exception(self._not_written(error))
            return
        self._publish(written)
        for commit, ref in written:
            commit.done.set_result(ref.sequence)

    def _not_written(self, error: FormatError) -> OpenSetError:
        try:
            self._health.explain(error)
        except ReadOnlyError as reason:
            return reason
        return InternalError(f"the events could not be written: {error}")
