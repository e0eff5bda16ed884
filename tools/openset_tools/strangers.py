"""Files in a data directory that are no part of it: leftovers of crashes, and what somebody else put there."""

from __future__ import annotations

import re
from pathlib import Path

from openset.cluster.embedded import STATE_FILE
from openset.cluster.identity import COORDINATOR_DIRECTORY, MEMBER_FILE
from openset.errors import OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.compaction import STAGING_SUFFIX
from openset.store.dead_letters import DEAD_LETTERS_NAME
from openset.store.dropped import DROPPED_SUFFIX
from openset.store.journals import MEMBER_NAME
from openset.store.lock import LOCK_NAME
from openset.store.placing import PLACING_NAME
from openset.store.removals import REMOVED_NAME
from openset.store.segment import SEGMENT_SUFFIX as STORED_SEGMENT_SUFFIX
from openset.store.segment import SEGMENTS_DIRECTORY
from openset.store.snapshot import CLUSTER_DIRECTORY, JOURNAL_DIRECTORY, SUPERSEDED_SUFFIX, TABLES_DIRECTORY
from openset.store.trigger_catalog import CATALOG_NAME as TRIGGERS_NAME
from openset.store.unfinished import UNFINISHED_NAME
from openset_format.files import TEMPORARY_SUFFIX
from openset_format.journal import MARK_NAME
from openset_format.revent_file import REVENT_SUFFIX
from openset_format.segment import SEGMENT_SUFFIX

_OF_THE_CLUSTER = ((), (MEMBER_FILE,), (COORDINATOR_DIRECTORY,), (COORDINATOR_DIRECTORY, STATE_FILE))
_LEFTOVERS = (TEMPORARY_SUFFIX, STAGING_SUFFIX, SUPERSEDED_SUFFIX)
_PARTITION_FILE = re.compile(rf"p(\d{{4}})(\.h5|{re.escape(REVENT_SUFFIX)})")


def strangers(data_dir: Path) -> list[str]:
    """A line for each file or directory that OpenSet does not read, and why not."""
    try:
        catalog: Catalog | None = Catalog(data_dir) if (data_dir / CATALOG_NAME).exists() else None
    except OpenSetError:
        catalog = None  # told by who reads it
    found: list[tuple[Path, str]] = []
    for path in sorted(data_dir.rglob("*")):
        relative = path.relative_to(data_dir)
        reason = _reason(relative, path.is_dir(), catalog)
        if reason is not None and not any(_is_below(relative, other) for other, _ in found):
            found.append((relative, reason))
    return [f"{data_dir / relative}: {reason}" for relative, reason in found]


def _is_below(path: Path, other: Path) -> bool:
    return path != other and path.is_relative_to(other)


def _reason(relative: Path, is_directory: bool, catalog: Catalog | None) -> str | None:
    """Why a file is no part of the directory; None when it is."""
    parts = relative.parts
    if relative.name.endswith(_LEFTOVERS):
        return "left by something unfinished, or needed by a query that runs"
    if parts[0] == JOURNAL_DIRECTORY:
        known = len(parts) == 1 or (len(parts) == 2 and (parts[1] == MARK_NAME or relative.suffix == SEGMENT_SUFFIX))
        return None if known or _is_of_member(parts[1:]) else "not part of the journal"
    if parts[0] == CLUSTER_DIRECTORY:
        return None if parts[1:] in _OF_THE_CLUSTER else "not part of what a node knows of its cluster"
    if parts[0] != TABLES_DIRECTORY:
        return (
            None if len(parts) == 1 and parts[0] in (CATALOG_NAME, LOCK_NAME, PLACING_NAME) else "not part of OpenSet"
        )
    if len(parts) == 1:
        return None
    return _reason_in_table(relative, is_directory, catalog)


def _is_of_member(parts: tuple[str, ...]) -> bool:
    """Whether it is of the journals of a member: its own note, a partition's, a partition's journal."""
    if len(parts) == 1:
        return parts[0] == MEMBER_NAME or re.fullmatch(r"p\d{4}(\.json|-\d+)", parts[0]) is not None
    of_journal = parts[1] == MARK_NAME or parts[1].endswith(SEGMENT_SUFFIX)
    return len(parts) == 2 and of_journal and re.fullmatch(r"p\d{4}-\d+", parts[0]) is not None


def _reason_in_table(relative: Path, is_directory: bool, catalog: Catalog | None) -> str | None:
    _, table, *rest = relative.parts
    if table.endswith(DROPPED_SUFFIX):
        return "of a table that was dropped"
    if not table.isdecimal():
        return "not the directory of a table"
    if catalog is not None and not catalog.has(int(table)):
        return "of a table that was dropped" if catalog.is_dropped(int(table)) else "of a table that the catalog lacks"
    if not rest:
        return None if is_directory else "not the directory of a table"
    if rest[0] == SEGMENTS_DIRECTORY:
        known = len(rest) == 1 or relative.suffix == STORED_SEGMENT_SUFFIX or rest[1] in (UNFINISHED_NAME, REMOVED_NAME)
        return None if known else "not a stored segment"
    match = _PARTITION_FILE.fullmatch(rest[0])
    if len(rest) > 1 or (match is None and rest[0] not in (TRIGGERS_NAME, DEAD_LETTERS_NAME)):
        return "not part of a table"
    if match is not None and catalog is not None and int(match[1]) >= (catalog.partitions or 0):
        return f"the table has {catalog.partitions or 0} partitions"
    return None
