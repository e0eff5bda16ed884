"""The scrubber: reads all partition files and closed journal segments again and again, slowly, checking every checksum.

It finds what a disk has lost before somebody needs it, and verifies at once what a query could not read. Threads of its
own at low priority; what they find goes into `Damage`. It reads with plain reads, because a map would end the process
at a bad sector. Small shortcut: what is in the page cache is checked there, not on the disk.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from openset.log import get_logger
from openset.store.damage import Damage
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY
from openset_format.errors import DamageError, UnsupportedFormatError
from openset_format.problem import Problem, problem_of
from openset_format.reader import PartitionFile
from openset_format.seal import SEAL_BYTES, decode_seal
from openset_format.segment import SEGMENT_SUFFIX
from openset_format.verify import damage, verify_segment_bytes

log = get_logger("openset.scrub")

# A node that was just started has better things to do.
FIRST_AFTER_SECONDS = 60.0
NICENESS = 19
_PIECE_BYTES = 1024 * 1024
_AT_ONCE = 1e15
# Faster than the rest, and not so fast that queries wait for it.
_SUSPECTS_BYTES_PER_SECOND = 100 * 1024 * 1024
# At a file that is replaced while it is read: compactions and copies that arrive are rarer.
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Scrubbing:
    """How it is done. bytes_per_second: 0: not at all. interval_s: from the beginning of a pass to the next one's."""

    bytes_per_second: float = 16 * 1024 * 1024
    interval_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class Pass:
    """A pass over everything. ended_ms: milliseconds since 1970. damaged: how many files have problems."""

    ended_ms: int
    files: int
    size_bytes: int
    damaged: int


class _Stopped(Exception):
    """The scrubber is told to end while it reads."""


class Throttle:
    """Reading at a limited rate, until it is stopped."""

    def __init__(self, bytes_per_second: float):
        self._rate = bytes_per_second
        self._stop = threading.Event()
        self.size_bytes = 0

    def took(self, size_bytes: int) -> None:
        """Waits for as long as this much may take. Raises _Stopped."""
        self.size_bytes += size_bytes
        if self._stop.wait(size_bytes / self._rate):
            raise _Stopped

    def wait(self, seconds: float) -> None:
        """Raises _Stopped."""
        if self._stop.wait(seconds):
            raise _Stopped

    def stop(self) -> None:
        """Ends all waiting."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()


def unthrottled() -> Throttle:
    """For whoever waits for what is read."""
    return Throttle(_AT_ONCE)


class _SlowFile:
    """As much of a file opened for reading as `verify.damage` needs."""

    def __init__(self, file: BinaryIO, throttle: Throttle):
        self._file = file
        self._throttle = throttle

    def seek(self, offset: int) -> int:
        return self._file.seek(offset)

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._throttle.took(len(data))
        return data


class Scrubber:
    """The background threads of a daemon, from its making until `close`: one for everything, one for suspects."""

    def __init__(self, data_dir: Path, found: Damage, settings: Scrubbing):
        self._data_dir = data_dir
        self._found = found
        self._interval_s = settings.interval_s
        self._throttle = Throttle(settings.bytes_per_second) if settings.bytes_per_second > 0 else None
        self.last: Pass | None = None
        self._looks = Throttle(_SUSPECTS_BYTES_PER_SECOND)
        self._threads = [threading.Thread(target=self._look, name="suspects", daemon=True)]
        if self._throttle is not None:
            self._threads.append(threading.Thread(target=self._run, args=(self._throttle,), name="scrub", daemon=True))
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the threads, in the middle of a file if need be."""
        self._looks.stop()
        self._found.suspects.put(None)
        if self._throttle is not None:
            self._throttle.stop()
        for thread in self._threads:
            thread.join()

    def _look(self) -> None:
        """At files that somebody could not use, at once."""
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (path := self._found.suspects.get()) is not None and not self._looks.stopped:
            try:
                look_at(path, self._found, self._looks)
            except Exception:  # the thread must outlive whatever goes wrong
                log.exception("a file could not be verified", file=str(path))

    def _run(self, throttle: Throttle) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        try:
            throttle.wait(min(FIRST_AFTER_SECONDS, self._interval_s))
            while True:
                started = time.monotonic()
                try:
                    self.last = scrub(self._data_dir, self._found, throttle)
                    log.info("scrubbed", files=self.last.files, bytes=self.last.size_bytes, damaged=self.last.damaged)
                except Exception:  # the thread must outlive whatever goes wrong
                    log.exception("the data directory could not be scrubbed")
                throttle.wait(max(self._interval_s - (time.monotonic() - started), 0.1))
        except _Stopped:
            return


def scrub(data_dir: Path, found: Damage, throttle: Throttle) -> Pass:
    """One pass over everything there is."""
    files = damaged = 0
    before = throttle.size_bytes
    targets = list(_targets(data_dir))
    found.retain(targets)
    for path in targets:
        try:
            problems = _problems(path, throttle)
        except FileNotFoundError:
            continue  # compacted, dropped or removed meanwhile
        found.note(path, problems)
        files += 1
        damaged += bool(problems)
    return Pass(time.time_ns() // 1_000_000, files, throttle.size_bytes - before, damaged)


def _targets(data_dir: Path) -> Iterator[Path]:
    yield from sorted((data_dir / TABLES_DIRECTORY).glob("*/p*.h5"))
    journals = data_dir / JOURNAL_DIRECTORY
    # A member has a directory for each partition's.
    for directory in (journals, *sorted(path for path in journals.glob("p*") if path.is_dir())):
        # The last segment is being written.
        yield from sorted(directory.glob(f"*{SEGMENT_SUFFIX}"))[:-1]


def look_at(path: Path, found: Damage, throttle: Throttle | None = None) -> None:
    """Verifies a partition file, because it could not be used. throttle: without one as fast as it goes.

    Notes nothing of a file that cannot be verified by this version, or where the throttle is stopped meanwhile.
    """
    throttle = throttle or unthrottled()
    with suppress(UnsupportedFormatError, _Stopped):
        try:
            for _ in range(_LOOKS):
                before = _identity(path)
                found.note(path, _problems(path, throttle))
                if _identity(path) == before:
                    return  # else another one is in place, of which that may not be true
        except FileNotFoundError:
            found.note(path, [Problem(str(path), None, None, "is missing")] if found.is_lost(path) else ())


def _identity(path: Path) -> tuple[int, int]:
    """Another one for a file that replaces this one. Raises FileNotFoundError."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def _problems(path: Path, throttle: Throttle) -> list[Problem]:
    try:
        return _of_segment(path, throttle) if path.suffix == SEGMENT_SUFFIX else _of_partition(path, throttle)
    except DamageError as error:
        return [problem_of(error)]
    except (FileNotFoundError, UnsupportedFormatError):
        raise
    except OSError as error:
        return [Problem(str(path), None, None, f"cannot be read: {error.strerror}")]


def _of_partition(path: Path, throttle: Throttle) -> list[Problem]:
    """Raises DamageError, OSError."""
    while True:
        with path.open("rb") as handle:
            seal = decode_seal(handle.read(SEAL_BYTES), path)
            file = PartitionFile.open(path)
            if file.seal != seal:
                continue  # it was replaced between
            slow: Any = _SlowFile(handle, throttle)
            found = list(damage(file, cast(BinaryIO, slow)))
            # What is in place now may be another one, and sound.
            if not found or path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                return found


def _of_segment(path: Path, throttle: Throttle) -> list[Problem]:
    """Raises OSError."""
    data = bytearray()
    with path.open("rb") as handle:
        while piece := handle.read(_PIECE_BYTES):
            data += piece
            throttle.took(len(piece))
    return verify_segment_bytes(path, data)
