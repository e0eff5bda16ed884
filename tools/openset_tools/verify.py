"""Whether the files of a data directory are what was written and fit together: `openset verify`.

Read-only and without a lock. Beside a running daemon a file may be replaced while it is read; what is found then is
checked again. The end of the journal that a daemon is just writing, or would cut at its next start, is no damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openset.errors import ConfigError, OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.offline import OfflineStore, open_views, read_data_dir
from openset.store.segments import SEGMENT_SUFFIX, SEGMENTS_DIRECTORY
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY
from openset_format.errors import DamageError, FormatError, MissingSegmentError
from openset_format.hashing import partitions_of
from openset_format.journal_reading import read_journal
from openset_format.membership import MembershipFile
from openset_format.verify import Problem, verify_partition
from openset_tools.triggers import catalogs, sidecars, verify_catalog, verify_sidecar, verify_together

_ATTEMPTS = 5


def verify(data_dir: Path, *, deep: bool = False, on_file: Callable[[Path], None] = lambda _: None) -> list[Problem]:
    """Everything that is wrong with a data directory; empty when it is sound.

    Of each file every checksum and every rule of its format. deep: the contents as well: the journal's events can be
    read, everybody is in the right partition, files and journal can be merged. on_file: is told what is read next.
    Raises ConfigError for what is no data directory.
    """
    if not data_dir.is_dir():
        raise ConfigError(f"{data_dir} is not a directory")
    if not (data_dir / CATALOG_NAME).exists() and not (data_dir / JOURNAL_DIRECTORY).exists():
        raise ConfigError(f"{data_dir} is not a data directory")
    problems = [*_catalog(data_dir), *_journal(data_dir / JOURNAL_DIRECTORY, on_file)]
    for path in sorted((data_dir / TABLES_DIRECTORY).glob("*/p*.h5")):
        on_file(path)
        problems += _unless_replaced(path, verify_partition)
    for path in sorted((data_dir / TABLES_DIRECTORY).glob(f"*/{SEGMENTS_DIRECTORY}/*{SEGMENT_SUFFIX}")):
        on_file(path)
        problems += _unless_replaced(path, _membership)
    for path in sidecars(data_dir):
        on_file(path)
        problems += _unless_replaced(path, verify_sidecar)
    for path in catalogs(data_dir):
        on_file(path)
        problems += _unless_replaced(path, verify_catalog)
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
    return [*problems, *_contents(store, on_file)] if deep else problems


def shown(problem: Problem) -> dict[str, object]:
    """As JSON."""
    return asdict(problem)


def _catalog(data_dir: Path) -> Iterator[Problem]:
    path = data_dir / CATALOG_NAME
    if not path.exists():
        yield Problem(str(path), None, None, "the catalog is missing")
        return
    try:
        Catalog(data_dir)
    except OpenSetError as error:
        yield Problem(str(path), None, None, error.message)


def _journal(directory: Path, on_file: Callable[[Path], None]) -> list[Problem]:
    on_file(directory)
    problems: list[Problem] = []
    for _ in range(_ATTEMPTS):
        try:
            damage = read_journal(directory).damage
        except MissingSegmentError as error:
            problems = [Problem(str(directory), None, None, error.message)]
        except (FormatError, OSError) as error:
            return [Problem(str(directory), None, None, str(error))]
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
            return [Problem(str(path), None, None, error.message)]
        except OSError as error:
            return [Problem(str(path), None, None, f"cannot be read: {error.strerror}")]
        if not problems or (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            return problems
    return problems


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


def _contents(store: OfflineStore, on_file: Callable[[Path], None]) -> Iterator[Problem]:
    """What only shows when files and journal are read together."""
    partitions = store.catalog.partitions or 1
    for schema in store.catalog.tables():
        on_file(store.data_dir / TABLES_DIRECTORY / str(schema.id))
        try:
            moment, views, problems = open_views(store.data_dir, schema.name)
        except OpenSetError as error:
            yield Problem(str(store.data_dir), None, None, error.message)
            continue
        yield from (
            Problem(str(store.data_dir), None, None, message) for message in problems if message not in moment.problems
        )
        for number, view in views.items():
            where = f"table {schema.name}, partition {number}"
            for block in view.blocks():
                ids = [block.person_id(person) for person in block.runnable.tolist()]
                wrong = np.flatnonzero(partitions_of(ids, len(ids), partitions) != number)
                if len(wrong):
                    message = f"person {ids[wrong[0]]!r} and {len(wrong) - 1} others belong to another partition"
                    yield Problem(where, None, None, message)
                same = block.person_of_row[1:] == block.person_of_row[:-1]
                if ((block.stamp[1:] < block.stamp[:-1]) & same).any():
                    yield Problem(where, None, None, "merged with the journal, events are not in the order of time")
                    break
