"""Whether a node can write. On a full or failing disk it answers queries only, and says so.

`Health` is the state, told of every refused step by `WatchedFiles`, the layer below everything the daemon writes. A
full disk is tried again with a probe; after anything else only a restart makes the node write again, because nobody
knows what is on a disk that has failed, and least of all after a failed sync.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openset.errors import OpenSetError, ReadOnlyError
from openset.log import get_logger
from openset_format.files import Buffer, FileLayer, WritableFile, temporary_path

log = get_logger("openset.store")

State = Literal["ok", "full", "failed"]

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What says something about the disk; other errors (a name that is missing, no rights) are the caller's own.
FAILED = frozenset(
    getattr(errno, name)
    for name in ("EIO", "EROFS", "ENODEV", "ENXIO", "EUCLEAN", "EBADMSG", "ESTALE", "EREMOTEIO")
    if hasattr(errno, name)
)
# A probe writes as much as the step that was refused, within these limits.
LEAST_PROBE_BYTES = 1 << 20
MOST_PROBE_BYTES = 256 << 20
_PROBE_STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Condition:
    """What the node can do. reason: why it does not write, with the file; since_ms: when it stopped."""

    state: State = "ok"
    reason: str = ""
    since_ms: int = 0


class Health:
    """The condition of a node's disk. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._condition = Condition()
        self._needed_bytes = 0
        self._journal_failure: Callable[[], str | None] = lambda: None

    def watch_journal(self, failure: Callable[[], str | None]) -> None:
        """failure: why the journal cannot be used any more, None while it can."""
        self._journal_failure = failure

    @property
    def condition(self) -> Condition:
        """As it is now."""
        failure = self._journal_failure()
        if failure is not None:
            self._become("failed", failure)
        return self._condition

    @property
    def is_read_only(self) -> bool:
        return self.condition.state != "ok"

    def refused(self, step: str, path: Path, error: OSError, size_bytes: int = 0) -> None:
        """The operating system refused a step. step: what was tried; size_bytes: how much was to be written."""
        reason = f"{error.strerror or error} at {step} of {path}"
        if error.errno in FULL and step != "the sync of the directory":
            with self._lock:
                self._needed_bytes = max(self._needed_bytes, size_bytes)
            self._become("full", reason)
        elif error.errno in FAILED or step in SYNCS:
            self._become("failed", reason)

    def check(self) -> None:
        """Raises ReadOnlyError when nothing can be written now."""
        condition = self.condition
        if condition.state == "full":
            raise ReadOnlyError(
                f"the node answers queries only, its disk is full: {condition.reason}; "
                "it takes changes again when there is room"
            )
        if condition.state == "failed":
            raise ReadOnlyError(
                f"the node answers queries only, its disk has failed: {condition.reason}; "
                "it takes changes again after a restart"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a change: raises ReadOnlyError before it, and instead of an error that a refused step caused."""
        self.check()
        try:
            yield
        except OpenSetError as error:
            self.explain(error)
            raise

    def explain(self, error: Exception) -> None:
        """Raises ReadOnlyError where that is why something failed."""
        try:
            self.check()
        except ReadOnlyError as reason:
            raise reason from error

    def probe(self, directory: Path, files: FileLayer) -> bool:
        """Tries whether a full disk has room again; whether the node writes now. Writes and syncs: takes a while."""
        if self.condition.state != "full":
            return not self.is_read_only
        path = temporary_path(directory / "probe")
        try:
            _fill(path, min(max(self._needed_bytes, LEAST_PROBE_BYTES), MOST_PROBE_BYTES), files)
            files.unlink(path)
        except OSError as error:
            with suppress(OSError):
                files.discard(path)
            if error.errno not in FULL:
                self.refused("a probe", path, error)
            return False
        with self._lock:
            if self._condition.state != "full":
                return False
            self._condition, self._needed_bytes = Condition(), 0
        log.info("the disk has room again, changes are taken")
        return True

    def _become(self, state: State, reason: str) -> None:
        """Only ever for the worse; `probe` makes it better."""
        with self._lock:
            before = self._condition
            if before.state in (state, "failed"):
                return
            self._condition = Condition(state, reason, before.since_ms or time.time_ns() // 1_000_000)
        log.error("the node answers queries only", state=state, reason=reason)


def _fill(path: Path, size_bytes: int, files: FileLayer) -> None:
    """Random bytes, which no file system makes smaller. Raises OSError."""
    data = os.urandom(_PROBE_STEP_BYTES)
    with files.create(path) as file:
        for offset in range(0, size_bytes, _PROBE_STEP_BYTES):
            file.write_at([data[: size_bytes - offset]], offset)
        file.sync()


SYNCS = frozenset({"a sync", "the sync of the directory"})


class WatchedFiles(FileLayer):
    """A layer that tells a Health of every step that is refused. `inner` does the work."""

    def __init__(self, inner: FileLayer, health: Health):
        self.inner = inner
        self.health = health

    @contextmanager
    def watched(self, step: str, path: Path, size_bytes: int = 0) -> Iterator[None]:
        """Around a step."""
        try:
            yield
        except OSError as error:
            self.health.refused(step, path, error, size_bytes)
            raise

    def create(self, path: Path) -> WritableFile:
        with self.watched("the creation", path):
            return _WatchedFile(self, self.inner.create(path))

    def open(self, path: Path) -> WritableFile:
        return _WatchedFile(self, self.inner.open(path))

    def rename(self, source: Path, target: Path) -> None:
        with self.watched("the renaming", target):
            self.inner.rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        with self.watched("a second name", target):
            self.inner.link(source, target)

    def unlink(self, path: Path) -> None:
        with self.watched("the removal", path):
            self.inner.unlink(path)

    def remove_directory(self, path: Path) -> None:
        with self.watched("the removal", path):
            self.inner.remove_directory(path)

    def make_directory(self, path: Path) -> None:
        with self.watched("the creation", path):
            self.inner.make_directory(path)

    def free_bytes(self, path: Path) -> int:
        return self.inner.free_bytes(path)

    def sync_directory(self, path: Path) -> None:
        with self.watched("the sync of the directory", path):
            self.inner.sync_directory(path)


class _WatchedFile(WritableFile):
    """A file of WatchedFiles."""

    def __init__(self, layer: WatchedFiles, inner: WritableFile):
        # The descriptor is the inner file's, which closes it.
        super().__init__(inner.path, -1)
        self._layer = layer
        self._inner = inner

    def write_at(self, buffers: Sequence[Buffer], offset: int) -> int:
        try:
            return self._inner.write_at(buffers, offset)
        except OSError as error:
            size_bytes = sum(memoryview(buffer).nbytes for buffer in buffers)
            self._layer.health.refused("a write", self.path, error, size_bytes)
            raise

    def read_into(self, buffer: memoryview, offset: int) -> int:
        return self._inner.read_into(buffer, offset)

    def truncate(self, size: int) -> None:
        with self._layer.watched("the truncation", self.path):
            self._inner.truncate(size)

    def size(self) -> int:
        return self._inner.size()

    def sync(self) -> None:
        with self._layer.watched("a sync", self.path):
            self._inner.sync()

    def sync_data(self) -> None:
        with self._layer.watched("a sync", self.path):
            self._inner.sync_data()

    def lock(self) -> None:
        self._inner.lock()

    def make_read_only(self) -> None:
        self._inner.make_read_only()

    def close(self) -> None:
        self._inner.close()
