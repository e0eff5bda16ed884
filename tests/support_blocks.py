"""Blocks from plain events, for tests that need no store: expansion, order and replacement in the simplest way."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset_format.block import Block, Column, ColumnType, PersonIds, TextDictionary

Event = Mapping[str, Any]


def block_of(
    events: Iterable[Event],
    columns: Mapping[str, ColumnType],
    z_order: Sequence[str] = (),
    *,
    people: Sequence[str | int] = (),
) -> Block:
    """A Block of some people, with events or without, and then of the people of the events as they first appear."""
    events_of: dict[str | int, dict[tuple[int, str], Event]] = {person: {} for person in people}
    for event in events:
        known = events_of.setdefault(event["person"], {})
        # A dict keeps the first place of a key and the last value: how an event is replaced.
        known[(stamp_ms(event["stamp"]), event["action"])] = event
    rows: list[tuple[int, str, bool, dict[str, Any]]] = []
    row_start = [0]
    for known in events_of.values():
        for (stamp, action), event in sorted(known.items(), key=lambda entry: _place(entry[0], z_order)):
            for position, row in enumerate(expanded(event.get("attr") or {})):
                rows.append((stamp, action, position == 0, row))
        row_start.append(len(rows))
    starts = np.array([row[2] for row in rows], dtype=np.bool_)
    made = {name: _column(kind, [row[3].get(name) for row in rows]) for name, kind in columns.items()}
    made["action"] = _column("text", [row[1] for row in rows])
    return Block(
        ids=PersonIds.of(list(events_of)),
        row_start=np.array(row_start, dtype=np.int64),
        stamp=np.array([row[0] for row in rows], dtype=np.int64),
        event_start=None if starts.all() else starts,
        columns=made,
    )


def stamp_ms(stamp: int | str) -> int:
    """A stamp of an event in milliseconds."""
    if isinstance(stamp, str):
        moment = datetime.fromisoformat(stamp)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)
    return stamp * 1000 if stamp < 10**11 else stamp


def _place(identity: tuple[int, str], z_order: Sequence[str]) -> tuple[int, int]:
    stamp, action = identity
    return (stamp, z_order.index(action) if action in z_order else len(z_order))


def expanded(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of an event's attributes: lists give cross products, groups under "_" are expanded one by one."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in attributes.items() if name != "_"}
    lists = {name: value or [None] for name, value in lists.items()}
    rows = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    groups = attributes.get("_") or []
    if not groups:
        return rows
    return [inner for row in rows for group in groups for inner in expanded({**row, **group})]


def _column(kind: ColumnType, values: list[Any]) -> Column:
    present = np.array([value is not None for value in values], dtype=np.bool_)
    valid = None if present.all() else present
    if kind == "text":
        codes: dict[str, int] = {}
        coded = [0 if value is None else codes.setdefault(value, len(codes)) for value in values]
        return Column(kind, np.array(coded, dtype=np.uint32), valid, TextDictionary(list(codes)))
    types: dict[str, Any] = {"int": np.int64, "double": np.float64, "bool": np.uint8}
    numbers: NDArray[Any] = np.array([value or 0 for value in values], dtype=types[kind])
    return Column(kind, numbers, valid)
