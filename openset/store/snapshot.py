"""The description of a partition at one moment: small, immutable, sent to the worker that answers for it.

It names the generation of the file and the journal records on top of it. Names are relative to the data directory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openset.errors import InternalError
from openset.store.schema import TableSchema
from openset_format.segment import RecordRef

JOURNAL_DIRECTORY = "journal"
TABLES_DIRECTORY = "tables"
# What the node is in a cluster; of it alone, so neither backups nor copies have it.
CLUSTER_DIRECTORY = "cluster"
SUPERSEDED_SUFFIX = ".old"
# Sequence, number of the segment in a list of names, offset, size.
_FIELDS = 4


class StaleSnapshotError(InternalError):
    """A snapshot that was superseded before it was opened: take a new one and try again."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordList:
    """References to journal records in order, packed: thousands of them go through a pipe in no time.

    segments: names of segment files. fields: int64[records, 4]: sequence, index into segments, offset, size in bytes.
    """

    segments: tuple[str, ...]
    fields: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.fields)

    def __iter__(self) -> Iterator[RecordRef]:
        return self.since(0)

    def since(self, first: int) -> Iterator[RecordRef]:
        """The references from position `first` on."""
        for sequence, segment, offset, size_bytes in self.fields[first:].tolist():
            yield RecordRef(sequence, self.segments[segment], offset, size_bytes)

    def before(self, sequence: int) -> RecordList:
        """Those below a sequence."""
        return RecordList(self.segments, self.fields[: int(np.searchsorted(self.fields[:, 0], sequence))])

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record, 0 when there is none."""
        return int(self.fields[-1, 0]) if len(self.fields) else 0

    @property
    def size_bytes(self) -> int:
        """What the records take in the journal, with those of other partitions in them."""
        return int(self.fields[:, 3].sum())


class RecordLog:
    """The growing side of a RecordList. Lists handed out before stay as they were."""

    def __init__(self) -> None:
        self._segments: tuple[str, ...] = ()
        self._fields = np.zeros((16, _FIELDS), np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, ref: RecordRef) -> None:
        """Adds a record; its sequence is above all others."""
        if not self._segments or self._segments[-1] != ref.segment:
            self._segments += (ref.segment,)
        if self._count == len(self._fields):
            self._fields = np.concatenate([self._fields, np.zeros_like(self._fields)])
        self._fields[self._count] = (ref.sequence, len(self._segments) - 1, ref.offset, ref.size_bytes)
        self._count += 1

    def view(self) -> RecordList:
        """The records so far, sharing memory: rows once written do not change."""
        return RecordList(self._segments, self._fields[: self._count])

    def drop(self, up_to_sequence: int) -> None:
        """Forgets the records up to a sequence."""
        fields = self._fields[: self._count]
        rest = fields[fields[:, 0] > up_to_sequence].copy()
        used = rest[:, 1].min() if len(rest) else len(self._segments)
        rest[:, 1] -= used
        self._segments = self._segments[int(used) :]
        self._fields = np.concatenate([rest, np.zeros((16, _FIELDS), np.int64)])
        self._count = len(rest)


@dataclass(frozen=True, slots=True, eq=False)
class PartitionSnapshot:
    """One partition of one table at one moment.

    generation: of the file, 0 when there is none. records: what is newer than the file, in journal order.
    expired_before: ms; events of earlier stamps are beyond the table's retention. lineage: grows when everything is
    put in place anew, from another copy; generations and records of two lineages have nothing to do with each other.
    """

    schema: TableSchema
    partition: int
    generation: int
    journal_id: str
    applied_sequence: int
    records: RecordList
    expired_before: int = 0
    lineage: int = 0

    @property
    def file(self) -> Path:
        """The partition file, relative to the data directory."""
        return partition_path(self.schema.id, self.partition)


def partition_path(table_id: int, partition: int) -> Path:
    """Where the file of a partition is, relative to the data directory."""
    return Path(TABLES_DIRECTORY) / str(table_id) / f"p{partition:04d}.h5"


def superseded_path(table_id: int, partition: int, generation: int) -> Path:
    """Where a generation that was replaced stays while pinned snapshots need it, relative to the data directory."""
    path = partition_path(table_id, partition)
    return path.with_name(f"{path.name}.{generation}{SUPERSEDED_SUFFIX}")
