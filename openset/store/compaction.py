"""Compaction: a partition's file and the journal records on top of it become the next generation of the file.

`compact` runs anywhere, usually in a process of its own, and only writes a file under a staging name; the daemon
publishes it by renaming. A compaction that dies leaves a temporary file, which the next start removes. All checksums of
the old file are verified first: the new one would lend its own to whatever a disk has made of the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import InternalError
from openset.store.delta import Piece
from openset.store.expiry import without_expired
from openset.store.merge import Layer
from openset.store.snapshot import PartitionSnapshot, StaleSnapshotError
from openset.store.state import PartitionState, load_state
from openset_format.block import Column, TextDictionary
from openset_format.errors import FormatError
from openset_format.files import FILES, FileLayer
from openset_format.reader import PartitionFile
from openset_format.seal import SEAL_BYTES, decode_seal

if TYPE_CHECKING:
    from openset_format.writer import PartitionContent

STAGING_SUFFIX = ".next"


@dataclass(frozen=True, slots=True)
class Policy:
    """When a partition is compacted.

    base_share, floor_events: when its delta has more events than this share of the rows of its file, and more than the
    floor. age_s: when its oldest record has waited longer. journal_bytes: when the journal takes more than this, the
    partitions that hold on to its oldest segment.
    """

    base_share: float = 0.25
    floor_events: int = 20_000
    age_s: float = 3_600.0
    journal_bytes: int = 512 * 1024 * 1024

    def is_due(self, base_rows: int, delta_events: int, waited_s: float) -> bool:
        """Whether size or age of the delta call for a compaction."""
        if not delta_events:
            return False
        return delta_events > max(self.floor_events, self.base_share * base_rows) or waited_s > self.age_s


@dataclass(frozen=True, slots=True)
class CompactionTask:
    """What to compact. staging: a name of its own, relative to the data directory, for the file to be written."""

    data_dir: Path
    snapshot: PartitionSnapshot
    staging: Path


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What was written to the staging file."""

    generation: int
    applied_sequence: int
    rows: int


def compact(
    task: CompactionTask, files: FileLayer = FILES, further: Sequence[Piece] = (), now_ms: int = 0
) -> CompactionResult:
    """Writes the next generation to the staging file. Raises InternalError, StaleSnapshotError.

    further: events on top of the snapshot that are in no journal; NOW among their stamps means now_ms.
    """
    from openset_format.writer import write_partition  # here, because it loads HDF5, which nothing else needs

    snapshot = task.snapshot
    try:
        state = load_state(task.data_dir, snapshot)
        if isinstance(state.base, PartitionFile):
            _check_sound(state.base)
        state.add_imported(further, now_ms)
        # The layer is not kept: what is not written of it would be there all the while.
        content = _content(snapshot, state, without_expired(state.whole(), snapshot.expired_before))
        write_partition(task.data_dir / task.staging, content, files)
    except (FormatError, OSError) as error:
        raise InternalError(f"table {snapshot.schema.name}, partition {snapshot.partition}: {error}") from error
    return CompactionResult(content.generation, content.applied_sequence, len(content.stamp))


def _check_sound(file: PartitionFile) -> None:
    """Raises InternalError when it is not what was written, StaleSnapshotError when it was replaced, OSError."""
    from openset_format.verify import damage

    with file.path.open("rb") as handle:
        if decode_seal(handle.read(SEAL_BYTES), file.path) != file.seal:
            raise StaleSnapshotError(f"{file.path} was replaced while it was opened")
        problem = next(damage(file, handle), None)
    if problem is not None:
        raise InternalError(f"not compacted, for the file is damaged: {problem}")


def check_staged(task: CompactionTask, result: CompactionResult, journal_id: str) -> None:
    """The file must be what the task asked for: afterwards the journal may forget what is in it.

    Raises InternalError, FormatError, OSError.
    """
    file = PartitionFile.open(task.data_dir / task.staging)
    wanted = (task.snapshot.schema.id, task.snapshot.partition, task.snapshot.generation + 1, journal_id)
    found = (file.table_id, file.partition, file.generation, file.journal_id)
    if found != wanted or (file.generation, file.applied_sequence) != (result.generation, result.applied_sequence):
        raise InternalError(f"{task.staging} is not the generation that was asked for")


def _content(snapshot: PartitionSnapshot, state: PartitionState, layer: Layer) -> PartitionContent:
    from openset_format.writer import PartitionContent

    schema, delta, base = snapshot.schema, state.delta, state.base
    # Half as wide where row numbers allow, because it is there until the last column is written.
    source: NDArray[Any] = layer.source
    if base.rows + delta.rows <= 1 << 32:
        source = source.astype(np.uint32)
    finished = _without_unused_texts if state.erased else _as_it_is
    columns = {column.id: column.type for column in schema.columns if delta.has_column(column.id)}

    def gathered(column_id: int) -> Column:
        if isinstance(base, PartitionFile):
            base.forget_pages()  # those of the column before
        return finished(delta.gather(column_id, columns[column_id], source))

    return PartitionContent(
        table_id=schema.id,
        partition=snapshot.partition,
        generation=snapshot.generation + 1,
        journal_id=snapshot.journal_id,
        applied_sequence=max(snapshot.applied_sequence, snapshot.records.last_sequence),
        schema={column.id: column.type for column in schema.columns},
        z_order=list(schema.z_order),
        persons=delta.persons.view(),
        row_start=np.asarray(layer.row_start, np.int64),
        stamp=layer.stamp,
        event_start=None if layer.is_flat else layer.event_start,
        action=finished(delta.gather_action(layer.action)),
        columns=_Gathered(columns, gathered),
        names={column.id: column.name for column in schema.columns},
    )


class _Gathered(Mapping[int, Column]):
    """Columns that are put together whenever they are asked for: all at once they would need very much memory."""

    def __init__(self, keys: Collection[int], gather: Callable[[int], Column]):
        self._keys = keys
        self._gather = gather

    def __getitem__(self, key: int) -> Column:
        return self._gather(key)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _as_it_is(column: Column) -> Column:
    return column


def _without_unused_texts(column: Column) -> Column:
    """The same column with a dictionary of the texts that rows use, so that nothing is left of somebody who was erased.

    Codes change with it. Nothing outside a file refers to its codes.
    """
    if column.dictionary is None:
        return column
    values = column.values if column.valid is None else column.values[column.valid]
    used = np.flatnonzero(np.bincount(values, minlength=len(column.dictionary)))
    code = np.zeros(max(len(column.dictionary), 1), np.uint32)
    code[used] = np.arange(len(used), dtype=np.uint32)
    recoded = code[column.values]
    if column.valid is not None:
        recoded[~column.valid] = 0
    dictionary = TextDictionary([column.dictionary.text(at) for at in used.tolist()])
    return Column("text", recoded, column.valid, dictionary)
