"""Pins: a query that runs over many partitions keeps the files and journal records its snapshots name.

While a snapshot is pinned, a replaced file stays reachable under a second name, a hard link beside the new one. Links
mean nothing to the next start, which removes them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from openset.store.snapshot import PartitionSnapshot, superseded_path
from openset_format.files import FILES, FileLayer

Key = tuple[int, int]


class Pins:
    """Which generations of files and which records are in use. The caller holds the store's lock for every call."""

    def __init__(self, data_dir: Path, files: FileLayer = FILES):
        self._data_dir = data_dir
        self._files = files
        self._pinned: list[Sequence[PartitionSnapshot]] = []
        # Replaced files that have a link, as (key, generation).
        self._linked: set[tuple[Key, int]] = set()

    def add(self, snapshots: Sequence[PartitionSnapshot]) -> None:
        """Pins what these snapshots name."""
        self._pinned.append(snapshots)

    def remove(self, snapshots: Sequence[PartitionSnapshot]) -> list[Path]:
        """Gives the same object up; returns the links that nobody needs any more, for the caller to remove."""
        self._pinned = [pinned for pinned in self._pinned if pinned is not snapshots]
        idle = {linked for linked in self._linked if not self._in_use(*linked)}
        self._linked -= idle
        return [self._data_dir / superseded_path(*key, generation) for key, generation in idle]

    def keep_file(self, key: Key, generation: int, path: Path) -> None:
        """Before a file is replaced: gives it a second name if a snapshot needs it. Raises OSError."""
        if generation and self._in_use(key, generation):
            self._files.link(path, self._data_dir / superseded_path(*key, generation))
            self._linked.add((key, generation))

    def oldest_sequences(self) -> list[tuple[int, int]]:
        """The oldest record that each pinned snapshot names, with its partition."""
        return [
            (snapshot.partition, int(snapshot.records.fields[0, 0]))
            for snapshots in self._pinned
            for snapshot in snapshots
            if len(snapshot.records)
        ]

    def uses_table(self, table_id: int) -> bool:
        """Whether any pinned snapshot is of this table."""
        return any(snapshot.schema.id == table_id for snapshots in self._pinned for snapshot in snapshots)

    def keeps_replaced(self, keys: Collection[Key]) -> bool:
        """Whether a replaced file of one of these partitions is still there."""
        return any(key in keys for key, _ in self._linked)

    def _in_use(self, key: Key, generation: int) -> bool:
        return any(
            (snapshot.schema.id, snapshot.partition) == key and snapshot.generation == generation
            for snapshots in self._pinned
            for snapshot in snapshots
        )
