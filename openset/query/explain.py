"""Explaining a query instead of running it: its plan, the columns it would read and their bytes, the people it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyroaring import BitMap

from openset.pyql.settings import RunSettings
from openset.query.compare import compared_blocks, scanned
from openset.query.fan_out import Portion, turn
from openset.query.index_only import Candidates
from openset.query.work import WorkerState
from openset.store.members import Compared
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import Block


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """What a query would go through. column_bytes: by column, what its values and their validity take.

    candidates: the people whom indexes leave, None where they rule nobody out.
    """

    people: int
    events: int
    rows: int
    candidates: int | None
    column_bytes: dict[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainWork:
    """Measures what a query that reads these columns would go through."""

    columns: frozenset[str]
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    compared: Compared | None
    candidates: Candidates | None

    def run(self, state: WorkerState) -> Portion[list[Extent]]:
        """Looks at sizes and indexes; values in files are not read."""
        extents = [self._extent(state, snapshot) for snapshot in turn(self.snapshots)]
        return Portion(extents, len(extents))

    def _extent(self, state: WorkerState, snapshot: PartitionSnapshot) -> Extent:
        compared: Compared = [None] if self.compared is None else self.compared
        view = state.views.view(snapshot)
        blocks, masks = compared_blocks(state.members, compared, snapshot.partition, view.blocks())
        left = None if self.candidates is None else self.candidates.people(view, self.settings.parameters)
        if left is not None:
            left = left & view.present
            if all(segment is not None for segment in compared):
                members = [state.members.bitmap(segment, snapshot.partition) for segment in compared if segment]
                left &= BitMap.union(*members)
        sizes = {name: sum(column_bytes(block, name) for block in blocks) for name in self.columns}
        return Extent(*scanned(blocks, masks), None if left is None else len(left), sizes)


def column_bytes(block: Block, name: str) -> int:
    """What a column of a Block takes. Sessions are found in the stamps, people in where their rows start."""
    if name in ("stamp", "session"):
        return block.stamp.nbytes
    if name == "person":
        return block.row_start.nbytes
    if name not in block.columns:
        return 0
    column = block.columns[name]
    return int(column.values.nbytes + (0 if column.valid is None else column.valid.nbytes))


def explanation(plan: str, portions: Sequence[Sequence[Extent]], partitions: int) -> dict[str, Any]:
    """The answer of `explain=true`. columns: bytes by column; bytes: of all of them; candidates: null without an index
    that knows.
    """
    extents = [extent for portion in portions for extent in portion]
    columns: dict[str, int] = {}
    for extent in extents:
        for name, size_bytes in sorted(extent.column_bytes.items()):
            columns[name] = columns.get(name, 0) + size_bytes
    known = any(extent.candidates is not None for extent in extents)
    left = sum(extent.people if extent.candidates is None else extent.candidates for extent in extents)
    return {
        "explain": {
            "plan": plan.splitlines(),
            "columns": columns,
            "bytes": sum(columns.values()),
            "people": sum(extent.people for extent in extents),
            "candidates": left if known else None,
            "events": sum(extent.events for extent in extents),
            "rows": sum(extent.rows for extent in extents),
            "partitions": partitions,
        }
    }
