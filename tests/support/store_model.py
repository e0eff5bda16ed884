"""A plain Python model of a table, and the way to read everything a store holds, for the tests of the store.

The model is what the language page says of events, written down with lists and dictionaries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hypothesis import strategies as st

from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset.store.views import BLOCK_ROWS, ViewCache
from openset_format.block import Block, PersonId

COLUMNS = [("colour", "text"), ("size", "text"), ("units", "int"), ("price", "double"), ("gift", "bool")]
TYPES: dict[str, Any] = dict(COLUMNS)
Z_ORDER = ["view", "cart"]

Row = dict[str, Any]
# (stamp, action, rows) of a person, in order.
Events = list[tuple[int, str, list[Row]]]

_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "colour": st.sampled_from(["red", "green", "blue", "", "grün"]),
    "size": st.sampled_from(["s", "m"]),
    "units": st.sampled_from([0, 1, 7, 2**63 - 1, -(2**63)]),
    "price": st.sampled_from([0.0, 1.5, -2.25, 3]),
    "gift": st.booleans(),
}
PERSONS: list[PersonId] = ["ann", "bob", "7", 7, 8, -1, "zoë"]
persons = st.sampled_from(PERSONS)
actions = st.sampled_from(["view", "cart", "login", "logout"])


def attributes(depth: int = 2) -> st.SearchStrategy[Row]:
    """Attributes with single values, lists and groups."""
    fields = {
        name: st.one_of(values, st.none(), st.lists(st.one_of(values, st.none()), max_size=3))
        for name, values in _VALUES.items()
    }
    level = st.fixed_dictionaries({}, optional=fields).flatmap(lambda row: st.permutations(list(row.items())).map(dict))
    if not depth:
        return level
    groups = st.lists(attributes(depth - 1), max_size=3)
    return st.builds(
        lambda row, inner: row if inner is None else {**row, "_": inner}, level, st.one_of(st.none(), groups)
    )


def events() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Requests whose events collide often."""
    flat = st.fixed_dictionaries({}, optional=_VALUES)
    event = st.fixed_dictionaries(
        {
            "person": persons,
            "stamp": st.integers(10**12, 10**12 + 3),
            "action": actions,
            "attr": st.one_of(flat, flat, attributes(1)),
        }
    )
    return st.lists(event, min_size=1, max_size=12)


def expanded(attr: Mapping[str, Any]) -> list[Row]:
    """The rows of attributes: every path through the groups is a cross product of its own, then all are sorted."""
    rows: list[tuple[list[int], Row]] = []
    for path in _paths(attr):
        _add_path(path, rows)
    rows.sort(key=lambda entry: entry[0])
    return [{name: value for name, value in row.items() if value is not None} for _, row in rows]


def _paths(level: Mapping[str, Any]) -> list[list[tuple[int, Mapping[str, Any]]]]:
    """Every way from the outermost level to a group without groups, as (position among its siblings, level)."""
    groups = level.get("_") or []
    if not groups:
        return [[(0, level)]]
    return [
        [(0, level), (number, group), *rest] for number, group in enumerate(groups) for (_, _), *rest in _paths(group)
    ]


def _add_path(path: Sequence[tuple[int, Mapping[str, Any]]], rows: list[tuple[list[int], Row]]) -> None:
    """Rows with what orders them: per level its place, then the element taken from each of its lists."""
    last_level = {name: number for number, (_, level) in enumerate(path) for name in level if name != "_"}
    slots: list[list[tuple[int, str | None, Any]]] = []
    for number, (place, level) in enumerate(path):
        slots.append([(place, None, None)])
        for name, value in level.items():
            if name == "_" or not isinstance(value, list):
                continue
            used = (value or [None]) if last_level[name] == number else [None]
            slots.append(
                [(position, name if last_level[name] == number else None, v) for position, v in enumerate(used)]
            )
    fixed = {
        name: value
        for number, (_, level) in enumerate(path)
        for name, value in level.items()
        if name != "_" and not isinstance(value, list) and last_level[name] == number
    }
    for choice in product(*slots):
        row = {**fixed, **{name: value for _, name, value in choice if name is not None}}
        rows.append(([position for position, _, _ in choice], row))


class Model:
    """A table as a dictionary of people."""

    def __init__(self, z_order: Sequence[str] = Z_ORDER):
        self._ranks = {action: rank for rank, action in enumerate(z_order)}
        self._people: dict[tuple[type, PersonId], dict[tuple[int, str], list[Row]]] = {}

    def insert(self, request: Sequence[Mapping[str, Any]]) -> None:
        """Events in order; one that is there already keeps its place."""
        for event in request:
            person = self._people.setdefault((type(event["person"]), event["person"]), {})
            person[event["stamp"], event["action"]] = expanded(event.get("attr") or {})

    def erase(self, person: PersonId) -> None:
        """Nothing of them is left, whether or not there was anything."""
        self._people.pop((type(person), person), None)

    def contents(self) -> dict[PersonId, Events]:
        """Everybody's events in order."""
        last = len(self._ranks)
        found = {}
        for (_, person_id), person in self._people.items():
            ordered = sorted(person.items(), key=lambda entry: (entry[0][0], self._ranks.get(entry[0][1], last)))
            found[person_id] = [(stamp, action, rows) for (stamp, action), rows in ordered]
        return found


def new_store(data_dir: Any, partitions: int = 3, **settings: Any) -> Store:
    """An open store with the table "t"."""
    store = Store.open(data_dir, **settings)
    store.initialise(partitions)
    store.create_table("t", COLUMNS, Z_ORDER)
    return store


def insert(store: Store, request: Sequence[Mapping[str, Any]], table: str = "t") -> int:
    """Commits events and returns how many were accepted."""
    prepared = store.prepare_insert(table, json.dumps(request).encode())
    store.submit(table, prepared).result(timeout=30)
    return prepared.accepted


def erase(store: Store, person: PersonId, table: str = "t") -> None:
    """Commits the erasure of somebody, known or not."""
    store.submit_erasure(table, person).result(timeout=30)


def read_block(block: Block) -> dict[PersonId, Events]:
    """The people a Block answers for."""
    found: dict[PersonId, Events] = {}
    firsts = block.event_first_row
    event_of_row = block.event_of_row
    for person in block.runnable.tolist():
        events: Events = []
        start, end = int(block.row_start[person]), int(block.row_start[person + 1])
        for event in range(int(event_of_row[start]), int(event_of_row[end - 1]) + 1):
            rows = [_row(block, row) for row in range(int(firsts[event]), int(firsts[event + 1]))]
            action = block.columns["action"].value(int(firsts[event]))
            events.append((int(block.stamp[firsts[event]]), str(action), rows))
        person_id = block.person_id(person)
        assert person_id not in found
        found[person_id] = events
    return found


def _row(block: Block, row: int) -> Row:
    values = {name: column.value(row) for name, column in block.columns.items() if name != "action"}
    return {name: value for name, value in values.items() if value is not None}


def read_snapshots(
    cache: ViewCache, snapshots: Sequence[PartitionSnapshot], max_rows: int = BLOCK_ROWS
) -> dict[PersonId, Events]:
    """Everybody's events, each person from exactly one Block."""
    found: dict[PersonId, Events] = {}
    for snapshot in snapshots:
        for block in cache.blocks(snapshot, max_rows):
            part = read_block(block)
            assert not part.keys() & found.keys()
            found |= part
    return found
