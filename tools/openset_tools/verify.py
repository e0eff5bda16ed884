"""Whether the files of a data directory are what was written and fit together: `openset verify`.

Read-only and without a lock. Beside a running daemon a file may be replaced while it is read; what is found then is
checked again. The end of the journal that a daemon is just writing, or would cut at its next start, is no damage.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from openset.cluster.embedded import STATE_FILE, read_state
from openset.cluster.identity import COORDINATOR_DIRECTORY, MEMBER_FILE, read_identity
from openset.errors import ConfigError, OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.dead_letters import DEAD_LETTERS_NAME
from openset.store.journals import log_directory, member_path, read_base, read_member
from openset.store.offline import read_data_dir
from openset.store.removals import REMOVED_NAME, read_removals
from openset.store.segment import SEGMENT_SUFFIX, SEGMENTS_DIRECTORY
from openset.store.snapshot import CLUSTER_DIRECTORY, JOURNAL_DIRECTORY, TABLES_DIRECTORY
from openset.store.trigger_catalog import CATALOG_NAME as TRIGGERS_NAME
from openset_format.errors import DamageError, FormatError, MissingSegmentError
from openset_format.journal_reading import read_journal
from openset_format.membership import MembershipFile
from openset_format.revent_file import REVENT_SUFFIX
from openset_format.verify import Problem, verify_partition
from openset_tools.triggers import verify_catalog, verify_dead_letters, verify_sidecar, verify_together
from openset_tools.verify_contents import verify_contents

_ATTEMPTS = 5


def verify(
    data_dir: Path, *, deep: bool = False, advance: Callable[..., None] = lambda done, total, label: None
) -> list[Problem]:
    """Everything that is wrong with a data directory; empty when it is sound.

    Of each file every checksum and every rule of its format. deep: the contents as well: the journal's events can be
    read, everybody is in the right partition, files and journal can be merged, segments have people that there are.
    advance: is told how many bytes are done, how many there are, and what is read. Raises ConfigError for what is no
    data directory.
    """
    if not data_dir.is_dir():
        raise ConfigError(f"{data_dir} is not a directory")
    if not any((data_dir / name).exists() for name in (CATALOG_NAME, JOURNAL_DIRECTORY, TABLES_DIRECTORY)):
        raise ConfigError(f"{data_dir} is not a data directory")
    reading = _Reading(data_dir, advance)
    problems = [*_catalog(data_dir), *_cluster(data_dir)]
    journal = data_dir / JOURNAL_DIRECTORY
    reading.begins(journal)
    problems += _journals(data_dir, journal)
    checks: list[tuple[str, Callable[[Path], list[Problem]]]] = [
        ("*/p*.h5", verify_partition),
        (f"*/{SEGMENTS_DIRECTORY}/*{SEGMENT_SUFFIX}", _membership),
        (f"*/{SEGMENTS_DIRECTORY}/{REMOVED_NAME}", _removals),
        (f"*/p*{REVENT_SUFFIX}", verify_sidecar),
        (f"*/{TRIGGERS_NAME}", verify_catalog),
        (f"*/{DEAD_LETTERS_NAME}", verify_dead_letters),
    ]
    for pattern, check in checks:
        for path in sorted((data_dir / TABLES_DIRECTORY).glob(pattern)):
            reading.begins(path)
            problems += _unless_replaced(path, check)
    reading.ends()
    known = {problem.file for problem in problems}
    try:
        store = read_data_dir(data_dir)
    except OpenSetError as error:
        return problems or [Problem(str(data_dir), None, None, error.message)]
    if not problems:
        problems += verify_together(data_dir)
    # What does not fit together, where the files themselves are sound.
    problems += [
        Problem(str(data_dir), None, None, message)
        for message in store.problems
        if not any(file in message for file in known)
    ]
    return [*problems, *verify_contents(store, known, advance)] if deep else problems


def _cluster(data_dir: Path) -> list[Problem]:
    """What the node knows of its cluster, and the embedded coordinator's state where it has it."""
    directory = data_dir / CLUSTER_DIRECTORY
    coordinator = directory / COORDINATOR_DIRECTORY
    checks: list[tuple[Path, Callable[[], object]]] = [
        (directory / MEMBER_FILE, lambda: read_identity(data_dir)),
        (coordinator / STATE_FILE, lambda: read_state(coordinator)),
    ]
    problems = []
    for path, check in checks:
        try:
            check()
        except OpenSetError as error:
            problems.append(Problem(str(path), None, None, error.message))
    return problems


class _Reading:
    """How far the files of a directory have been read."""

    def __init__(self, data_dir: Path, advance: Callable[..., None]):
        self._advance = advance
        self._total = _size_bytes(data_dir / JOURNAL_DIRECTORY) + _size_bytes(data_dir / TABLES_DIRECTORY)
        self._done = self._next = 0

    def begins(self, path: Path) -> None:
        """What is read next, a file or a directory."""
        self._done += self._next
        self._next = _size_bytes(path)
        self._advance(min(self._done, self._total), self._total, f"verify {path.name}")

    def ends(self) -> None:
        """Everything has been read."""
        self._advance(self._total, self._total, "verify")


def _size_bytes(path: Path) -> int:
    """Of a file, or of all files below a directory."""
    total = 0
    for each in path.rglob("*") if path.is_dir() else (path,):
        with suppress(OSError):  # removed meanwhile
            status = each.stat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def shown(problem: Problem) -> dict[str, object]:
    """As JSON."""
    return asdict(problem)


def _catalog(data_dir: Path) -> Iterator[Problem]:
    path = data_dir / CATALOG_NAME
    if not path.exists():
        yield Problem(str(path), None, None, "the catalog is missing")
        return
    try:
        mistakes = Catalog(data_dir).mistakes()
    except OpenSetError as error:
        mistakes = [error.message]
    yield from (Problem(str(path), None, None, mistake.removeprefix(f"{path} ")) for mistake in mistakes)


def _journals(data_dir: Path, journal: Path) -> list[Problem]:
    """Of a node that stands alone its journal, of a member those of its partitions."""
    try:
        is_member = read_member(data_dir) is not None
    except OpenSetError as error:
        path = data_dir / member_path()
        return [Problem(str(path), None, None, error.message.removeprefix(f"{path} "))]
    if not is_member:
        return _journal(journal)
    problems: list[Problem] = []
    for path in sorted(journal.glob("p*.json")):
        number = int(path.stem[1:]) if path.stem[1:].isdecimal() else 0
        try:
            base = read_base(data_dir, number)
        except OpenSetError as error:
            problems.append(Problem(str(path), None, None, error.message.removeprefix(f"{path} ")))
        else:
            problems += [] if base is None else _log(data_dir, number)
    return problems


def _log(data_dir: Path, number: int) -> list[Problem]:
    """The journal of a partition, which another may have replaced meanwhile."""
    problems: list[Problem] = []
    for _ in range(_ATTEMPTS):
        base = read_base(data_dir, number)
        problems = [] if base is None else _journal(data_dir / log_directory(number, base.incarnation))
        if not problems or base == read_base(data_dir, number):
            break
    return problems


def _journal(directory: Path) -> list[Problem]:
    problems: list[Problem] = []
    for _ in range(_ATTEMPTS):
        try:
            damage = read_journal(directory).damage
        except MissingSegmentError as error:
            problems = [Problem(str(directory), None, None, error.message.removeprefix(f"{directory}: "))]
        except (FormatError, OSError) as error:
            return [Problem(str(directory), None, None, str(error).removeprefix(f"{directory}: "))]
        else:
            if damage is None:
                return []
            problems = [Problem(damage.file, None, damage.offset, damage.reason)]
    return problems


def _unless_replaced(path: Path, check: Callable[[Path], list[Problem]]) -> list[Problem]:
    """The check of a file, done again while the file is replaced under its name; one that is removed is no concern."""
    problems: list[Problem] = []
    for _ in range(_ATTEMPTS):
        try:
            before = path.stat()
            problems = check(path)
            after = path.stat()
        except FileNotFoundError:
            return []
        except FormatError as error:
            return [Problem(str(path), None, None, error.message.removeprefix(f"{path}: "))]
        except OSError as error:
            return [Problem(str(path), None, None, f"cannot be read: {error.strerror}")]
        if not problems or (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            return problems
    return problems


def _removals(path: Path) -> list[Problem]:
    """What is wrong with the list of segments that were removed."""
    try:
        read_removals(path)
    except OpenSetError as error:
        return [Problem(str(path), None, None, error.message.removeprefix(f"{path} "))]
    return []


def _membership(path: Path) -> list[Problem]:
    try:
        file = MembershipFile.open(path)
        for partition in file.partitions:
            file.members(partition)
    except DamageError as error:
        return [Problem(error.file, None, error.offset, error.reason)]
    except ValueError as error:
        return [Problem(str(path), None, None, f"a bitmap cannot be read: {error}")]
    return []
