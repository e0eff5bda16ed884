"""Explaining a query instead of running it: its plan, the columns it would read and their bytes, the people it asks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openset.pyql.settings import RunSettings
from openset.query.fan_out import Portion
from openset.query.work import WorkerState
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import Block


@dataclass(frozen=True, slots=True, eq=False)
class Extent:
    """What a query would go through. column_bytes: by column, what its values and their validity take."""

    people: int
    rows: int
    column_bytes: Counter[str]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainWork:
    """Measures what a query that reads these columns would go through."""

    columns: frozenset[str]
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings

    def run(self, state: WorkerState) -> Portion[Extent]:
        """Looks at sizes; values in files are not read."""
        people = rows = 0
        sizes = Counter(dict.fromkeys(self.columns, 0))
        for snapshot in self.snapshots:
            for block in state.views.view(snapshot).blocks():
                asked = block.runnable
                people += len(asked)
                rows += int((block.row_start[asked + 1] - block.row_start[asked]).sum())
                for name in self.columns:
                    sizes[name] += column_bytes(block, name)
        return Portion(Extent(people, rows, sizes), len(self.snapshots))


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


def explanation(plan: str, extents: Sequence[Extent], partitions: int) -> dict[str, Any]:
    """The answer of `explain=true`. columns: bytes by column, in order; bytes: of all of them."""
    shown: dict[str, int] = {}
    for extent in extents:
        for name, size_bytes in sorted(extent.column_bytes.items()):
            shown[name] = shown.get(name, 0) + size_bytes
    return {
        "explain": {
            "plan": plan.splitlines(),
            "columns": shown,
            "bytes": sum(shown.values()),
            "people": sum(extent.people for extent in extents),
            "rows": sum(extent.rows for extent in extents),
            "partitions": partitions,
        }
    }
