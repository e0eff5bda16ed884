"""Values of lanes as the interpreter has them, containers included: for the few that leave the engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from openset.pyql.lanes.container_store import DICT, LIST, ContainerStore
from openset.pyql.lanes.lane_map import Ints
from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vector_containers import may_hold
from openset.pyql.lanes.vectors import CONTAINER, Value, from_payloads, payloads, scalars, spread
from openset.pyql.meaning.containers import Container, DictValue, SetValue, key_of


def python_values(value: Value, count: int, store: ContainerStore, table: TextTable) -> list[Any]:
    """`count` values of a vector without errors. Lanes that share a container get the same object."""
    values: list[Any] = scalars(value, count, table)
    if not may_hold(value):
        return values
    kinds, data = payloads(spread(value, count, table), table)
    held = np.flatnonzero(kinds == CONTAINER)
    made = _containers(np.unique(data[held]), store, table)
    for position, handle in zip(held.tolist(), data[held].tolist(), strict=True):
        values[position] = made[handle]
    return values


def _containers(handles: Ints, store: ContainerStore, table: TextTable) -> dict[int, Container]:
    """Containers by handle, those in them included, filled one level of nesting after the other."""
    made: dict[int, Container] = {handle: _empty(store.kind[handle]) for handle in handles.tolist()}
    while len(handles):
        slot, entry = store.elements(handles)
        labels: list[Any] = scalars(from_payloads(*store.labels_of(entry), table), len(entry), table)
        kinds, data = store.values_of(entry)
        values: list[Any] = scalars(from_payloads(kinds, data, table), len(entry), table)
        inner = np.unique(data[kinds == CONTAINER])
        next_handles = np.array([handle for handle in inner.tolist() if handle not in made], np.int64)
        made |= {handle: _empty(store.kind[handle]) for handle in next_handles.tolist()}
        owners = handles[slot].tolist()
        nested = (kinds == CONTAINER).tolist()
        for owner, label, value, is_handle in zip(owners, labels, values, nested, strict=True):
            _put(made[owner], label, made[value] if is_handle else value)
        handles = next_handles
    return made


def _empty(kind: int) -> Container:
    return [] if kind == LIST else DictValue() if kind == DICT else SetValue()


def _put(container: Container, label: Any, value: Any) -> None:
    if isinstance(container, list):
        container.append(value)
    elif isinstance(container, DictValue):
        container.entries[key_of(label)] = value
    else:
        container.entries[key_of(label)] = None
