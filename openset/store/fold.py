"""The rows of a person back to events in the form in which they are inserted.

What is the same in all rows of an event stands once, the rest in lists or in "_" groups. It expands to the same rows in
the same order, but need not be what was once sent. Lists and groups never stand side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any

from openset.store.expand import GROUPS, Row
from openset_format.block import Block

# Deeper groups are written out row by row, so that what is folded can be inserted again.
_DEPTH_LIMIT = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def fold_events(block: Block) -> list[dict[str, Any]]:
    """The events of the one person of a Block: {"stamp", "stamp_iso", "action", "attr"} each, in order."""
    assert block.people == 1, "a Block of one person"
    rows = _rows(block)
    bounds = block.event_first_row.tolist()
    stamps = block.stamp.tolist()
    action = block.columns["action"]
    return [
        {
            "stamp": stamps[first],
            "stamp_iso": iso_text(stamps[first]),
            "action": action.value(first),
            "attr": fold(rows[first:last]),
        }
        for first, last in pairwise(bounds)
    ]


def iso_text(stamp: int) -> str:
    """A stamp in ms as ISO 8601 in UTC, with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=stamp)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def fold(rows: Sequence[Row]) -> Row:
    """Attributes that expand to these rows (column → value, None is the same as missing), at least one."""
    columns = list(dict.fromkeys(name for row in rows for name, value in row.items() if value is not None))
    return _fold(rows, columns, 0)


def _rows(block: Block) -> list[Row]:
    """All rows of a Block, with the columns that have a value."""
    rows: list[Row] = [{} for _ in range(block.rows)]
    for name, column in block.columns.items():
        if name == "action":
            continue
        for number, row in enumerate(rows):
            value = column.value(number)
            if value is not None:
                row[name] = value
    return rows


def _fold(rows: Sequence[Row], columns: Sequence[str], depth: int) -> Row:
    folded: Row = {}
    varying: list[str] = []
    for name in columns:
        values = [row.get(name) for row in rows]
        if values.count(values[0]) < len(values):
            varying.append(name)
        elif values[0] is not None:
            folded[name] = values[0]
    if not varying and len(rows) == 1:
        return folded
    lists = _as_lists(rows, varying)
    if lists is not None:
        return folded | lists
    folded[GROUPS] = [_fold(part, varying, depth + 1) for part in _parts(rows, varying, depth)]
    return folded


def _as_lists(rows: Sequence[Row], columns: Sequence[str]) -> Row | None:
    """Lists whose cross product, the leftmost slowest, gives the rows; None when there are none such."""
    if not columns or any(row.get(name) is None for row in rows for name in columns):
        return None
    if len(columns) == 1:
        return {columns[0]: [row[columns[0]] for row in rows]}
    # How long the first value of a column stays is how many rows one step of its list takes.
    steps = {name: _first_change(rows, name) for name in columns}
    lists: Row = {}
    longer = len(rows)
    for name in sorted(columns, key=lambda name: -steps[name]):
        step = steps[name]
        if longer % step or longer == step:
            return None
        lists[name] = [rows[position][name] for position in range(0, longer, step)]
        longer = step
    combined = product(*lists.values())
    if longer == 1 and all(tuple(row[name] for name in lists) == one for row, one in zip(rows, combined, strict=True)):
        return lists
    return None


def _first_change(rows: Sequence[Row], name: str) -> int:
    first = rows[0].get(name)
    return next((number for number, row in enumerate(rows) if row.get(name) != first), len(rows))


def _parts(rows: Sequence[Row], columns: Sequence[str], depth: int) -> list[Sequence[Row]]:
    """Consecutive rows that belong in one group: those with one value in the column that changes least often."""
    single = [rows[number : number + 1] for number in range(len(rows))]
    if not columns or depth >= _DEPTH_LIMIT:
        return single
    changes = min((_changes(rows, name) for name in columns), key=len)
    bounds = [0, *changes, len(rows)]
    return [rows[first:last] for first, last in pairwise(bounds)]


def _changes(rows: Sequence[Row], name: str) -> list[int]:
    """The positions of the rows that differ from the one before."""
    return [number for number in range(1, len(rows)) if rows[number].get(name) != rows[number - 1].get(name)]
