"""Which segments were removed, as nodes of a cluster remember it: one that was away would bring them back otherwise.

One small file a table (`removed.json` beside the segments, with a checksum, replaced as a whole). A removal is about
all computations of a name up to an edition. It is forgotten when no node can reasonably have them any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from openset.errors import InternalError
from openset.log import get_logger
from openset.store.sealed_json import check_version, encode_sealed, read_sealed
from openset.store.segment import Edition, Segment, segment_path
from openset_format.files import FileLayer, replace_file

log = get_logger("openset.store")

REMOVED_NAME = "removed.json"
# So long a removal is remembered, and so many of a table; then nodes that were away must not bring segments along.
REMEMBERED_MS = 90 * 86_400_000
REMEMBERED_PER_TABLE = 10_000
FORMAT_VERSION = 1
_MEMBER = "removed"


class Removal(msgspec.Struct, frozen=True):
    """Up to which computation a segment was removed. until_ms: when that may be forgotten, the same on all nodes."""

    edition: Edition
    until_ms: int

    def hides(self, segment: Segment) -> bool:
        """Whether a computation was removed."""
        return segment.edition <= self.edition

    def is_outlived_by(self, segment: Segment) -> bool:
        """Whether a later computation stays for as long as this would be remembered: what has it needs no removal."""
        stays = segment.is_kept_fresh or segment.expires_at_ms >= self.until_ms
        return stays and segment.edition > self.edition


class _Contents(msgspec.Struct):
    segments: dict[str, Removal]
    format_version: int = FORMAT_VERSION


def removals_path(table_id: int) -> Path:
    """Where the removals of a table are, relative to the data directory."""
    return segment_path(table_id, 0).with_name(REMOVED_NAME)


def read_removals(path: Path) -> dict[str, Removal]:
    """By name; nothing where there is no file. Raises InternalError when it is damaged, ConfigError."""
    contents = read_sealed(path, _MEMBER, _Contents)
    if contents is None:
        return {}
    check_version(path, contents.format_version, FORMAT_VERSION)
    return contents.segments


class Removals:
    """The removals of a data directory. Whoever uses it has the lock for everything but `write`."""

    def __init__(self, data_dir: Path, files: FileLayer):
        self._data_dir = data_dir
        self._files = files
        self._by_table: dict[int, dict[str, Removal]] = {}

    def read(self, table_id: int) -> None:
        """At a start. A damaged file is logged and left out: other nodes know, too. Raises ConfigError."""
        try:
            self._by_table[table_id] = read_removals(self._data_dir / removals_path(table_id))
        except InternalError as error:
            log.error("removed segments cannot be read", reason=error.message)

    def get(self, table_id: int, name: str) -> Removal | None:
        """What is known of a name."""
        return self._by_table.get(table_id, {}).get(name)

    def all(self, now_ms: float) -> dict[tuple[int, str], Removal]:
        """Those that are to be remembered, by table and name."""
        return {
            (table_id, name): removal
            for table_id, removals in self._by_table.items()
            for name, removal in removals.items()
            if now_ms < removal.until_ms
        }

    def joined(
        self, table_id: int, news: Mapping[str, Removal], stored: Mapping[str, Segment], now_ms: float
    ) -> dict[str, Removal] | None:
        """The removals of a table with some more and without those that may be forgotten; None where nothing is news.

        stored: what the table has when they count.
        """
        before = self._by_table.get(table_id, {})
        joined = dict(before)
        for name, removal in news.items():
            known = joined.get(name, removal)
            joined[name] = Removal(
                max(known.edition, removal.edition),
                # Clocks of other nodes may be wrong.
                min(max(known.until_ms, removal.until_ms), int(now_ms) + REMEMBERED_MS),
            )
        lasting = [
            (name, removal)
            for name, removal in joined.items()
            if now_ms < removal.until_ms and not (name in stored and removal.is_outlived_by(stored[name]))
        ]
        lasting.sort(key=lambda entry: entry[1].until_ms)
        kept = dict(lasting[-REMEMBERED_PER_TABLE:])
        return None if all(before.get(name) == kept.get(name) for name in news) else kept

    def write(self, table_id: int, removals: dict[str, Removal]) -> None:
        """Makes the removals of a table durable; they are known when `keep` is told. Raises OSError."""
        data = encode_sealed(_MEMBER, _Contents(removals))
        replace_file(self._data_dir / removals_path(table_id), data, self._files)

    def keep(self, table_id: int, removals: dict[str, Removal]) -> None:
        """From now on these are known."""
        self._by_table[table_id] = removals

    def drop_table(self, table_id: int) -> None:
        """Forgets a table that was dropped; the file goes with its directory."""
        self._by_table.pop(table_id, None)
