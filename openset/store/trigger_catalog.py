"""Which triggers a table has: `tables/<table id>/triggers.json`, with a checksum, replaced as a whole on every change.

Ids only grow. What changes with every insert (who has emitted, counts, messages) is not here but in `trigger_state`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from openset.errors import InternalError, QueryError
from openset.store.sealed_json import check_version, encode_sealed, read_sealed
from openset.store.segment import SegmentColumn
from openset.store.snapshot import TABLES_DIRECTORY
from openset_format.files import FILES, FileLayer, replace_file

CATALOG_NAME = "triggers.json"
FORMAT_VERSION = 1
_MEMBER = "triggers"


class Trigger(msgspec.Struct, frozen=True):
    """A trigger as it was saved.

    epoch: grows when who has emitted is forgotten. columns: what the script reads, as it was. functions: of the script.
    from_sequence: it runs for inserts after this record; where partitions have records of their own, in a cluster, it
    does so in each from the change that tells of this start. disabled: why the daemon disabled it. watched: a stored
    segment of this name takes the place of a script.
    """

    id: int
    name: str
    epoch: int
    script: str
    enabled: bool
    once: bool
    emit_as_event: bool
    filter: str | None
    made_at_ms: int
    columns: tuple[SegmentColumn, ...]
    from_sequence: int
    functions: tuple[str, ...] = ()
    disabled: str | None = None
    watched: bool = False
    webhooks: dict[str, Any] = {}
    start: int = 0

    @property
    def runs(self) -> bool:
        """Whether inserts and schedules have to be evaluated for it."""
        return self.enabled and self.disabled is None


class CatalogContents(msgspec.Struct):
    """What the file holds."""

    format_version: int = FORMAT_VERSION
    next_id: int = 1
    triggers: list[Trigger] = []


def with_trigger(
    contents: CatalogContents, trigger: Trigger, replaces: Trigger | None, begins: Callable[[Trigger], Trigger]
) -> tuple[CatalogContents, Trigger]:
    """The triggers with one that is new or changed, and that one. Raises QueryError.

    replaces: what the change was made of; it has to be what there is still. A new trigger (id 0) gets its id.
    begins: makes one that did not run before one that runs, for inserts after this moment only.
    """
    others = contents.triggers
    before = next((one for one in others if (one.name, one.watched) == (trigger.name, trigger.watched)), None)
    if before != replaces:
        raise QueryError(f"trigger {trigger.name!r} was changed by somebody else just now; try again")
    if trigger.runs and (before is None or not before.runs):
        trigger = begins(trigger)
    if before is None:
        trigger = msgspec.structs.replace(trigger, id=contents.next_id)
        changed = CatalogContents(contents.format_version, contents.next_id + 1, [*others, trigger])
    else:
        triggers = [trigger if one.id == trigger.id else one for one in others]
        changed = CatalogContents(contents.format_version, contents.next_id, triggers)
    return changed, trigger


def without_trigger(contents: CatalogContents, trigger_id: int) -> CatalogContents:
    """The triggers without one; ids are never used again."""
    triggers = [one for one in contents.triggers if one.id != trigger_id]
    return CatalogContents(contents.format_version, contents.next_id, triggers)


def triggers_path(table_id: int) -> Path:
    """Where the triggers of a table are, relative to the data directory."""
    return Path(TABLES_DIRECTORY) / str(table_id) / CATALOG_NAME


class TriggerCatalog:
    """The triggers of one table, in step with their file. Not thread-safe: one thread changes it."""

    def __init__(self, data_dir: Path, table_id: int, files: FileLayer = FILES):
        """Reads the file when there is one. Raises InternalError when it is damaged, ConfigError when it is newer."""
        self._data_dir = data_dir
        self._path = data_dir / triggers_path(table_id)
        self._files = files
        self._contents = read_catalog(self._path)

    def all(self) -> list[Trigger]:
        """Triggers and watched segments, in the order they were made."""
        return list(self._contents.triggers)

    @property
    def contents(self) -> CatalogContents:
        """All of it, as the file has it. Not to be changed."""
        return self._contents

    def replace(self, contents: CatalogContents) -> None:
        """Has these triggers instead, durably, then in memory: what cannot be written does not happen.

        Raises InternalError.
        """
        directory = self._path.parent
        try:
            if not directory.is_dir():
                self._files.make_directory(directory)
                for parent in (directory.parent, self._data_dir):
                    self._files.sync_directory(parent)
            write_catalog(self._path, contents, self._files)
        except OSError as error:
            raise InternalError(f"{self._path} could not be written: {error.strerror}") from error
        self._contents = contents


def write_catalog(path: Path, contents: CatalogContents, files: FileLayer) -> None:
    """The triggers of a table, durably, in place of those that are there. Raises OSError."""
    replace_file(path, encode_sealed(_MEMBER, contents), files)


def read_triggers(data_dir: Path, table_id: int) -> list[Trigger]:
    """The triggers of a table, without changing anything. Raises InternalError, ConfigError."""
    return list(read_catalog(data_dir / triggers_path(table_id)).triggers)


def read_catalog(path: Path) -> CatalogContents:
    """The triggers of a table, none where there is no file. Raises InternalError, ConfigError."""
    contents = read_sealed(path, _MEMBER, CatalogContents)
    if contents is None:
        return CatalogContents()
    check_version(path, contents.format_version, FORMAT_VERSION)
    return contents
