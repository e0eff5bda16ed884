"""Removing old backups: first their lists, then the contents that no list names any more.

Nobody can begin a backup meanwhile, so a content that one counts on is never removed. Interrupted, it leaves contents
without a list, which the next one removes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from openset.errors import ConfigError, InternalError
from openset_tools.backups.lists import (
    CONTENTS_DIRECTORY,
    Backup,
    content_path,
    list_path,
    listed,
)
from openset_tools.backups.make import Advance
from openset_tools.backups.places import Place


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed and what is left. contents, size_bytes: those that no list named any more."""

    removed: list[Backup]
    kept: list[Backup]
    contents: int
    size_bytes: int


def prune(
    place: Place,
    keep: int | None = None,
    older_than: timedelta | None = None,
    advance: Advance = lambda done, total: None,
    now: datetime | None = None,
) -> Pruned:
    """Removes the backups that are neither among the newest `keep` nor younger than `older_than`; never the newest.

    With neither it only removes contents that no list names. advance: is told of contents. Raises ConfigError,
    InternalError when a list is damaged: nobody knows then which contents it names, and nothing is removed.
    """
    try:
        listed(place)  # refuses what is no backup directory before it is written to
        with place.claimed("prune") as check:
            found = listed(place)
            if found.damaged:
                raise InternalError(
                    f"{place} is left as it is: some lists of backups are damaged, so that nobody knows what they need",
                    detail=list(found.damaged.values()),
                )
            removed = _outdated(found.backups, keep, older_than, now or datetime.now(UTC))
            kept = [backup for backup in found.backups if backup not in removed]
            check()
            for backup in removed:
                place.remove(list_path(backup.id))
            # A content must not go before the list that names it, whatever happens.
            place.settle()
            needed = {content_path(file.content) for backup in kept for file in backup.files}
            unneeded = {path: size for path, size in place.sizes(CONTENTS_DIRECTORY).items() if path not in needed}
            for number, path in enumerate(sorted(unneeded), 1):
                place.remove(path)
                advance(number, len(unneeded))
            return Pruned(removed, kept, len(unneeded), sum(unneeded.values()))
    except OSError as error:
        raise ConfigError(f"old backups in {place} could not be removed: {error}") from error


def _outdated(backups: list[Backup], keep: int | None, older_than: timedelta | None, now: datetime) -> list[Backup]:
    if keep is None and older_than is None:
        return []
    candidates = backups[: -max(keep or 1, 1)]
    if older_than is None:
        return candidates
    return [backup for backup in candidates if backup.moment < now - older_than]
