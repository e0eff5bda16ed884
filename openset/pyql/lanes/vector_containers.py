"""Lists, dicts and sets in expressions and statements, for all lanes at once, on a ContainerStore.

What an operation cannot do in columns (containers as keys, == of containers, str of a container, positions that are no
whole numbers) is an error for the lanes it happens on, and the interpreter answers for their people.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from openset.pyql import tree
from openset.pyql.lanes.container_store import DICT, LIST, SET, ContainerStore
from openset.pyql.lanes.lane_map import Ints, Kinds
from openset.pyql.lanes.vector_ops import distinct_results
from openset.pyql.lanes.vectors import (
    BOOL,
    CONTAINER,
    DOUBLE,
    ERROR,
    INT,
    NONE,
    Const,
    Mask,
    Value,
    Vec,
    from_payloads,
    payloads,
    spread,
)
from openset.pyql.meaning.containers import CONTAINER_DEPTH_LIMIT, CONTAINERS, DictValue, value_of

if TYPE_CHECKING:
    from openset.pyql.lanes.evaluate import Evaluator

Cells = tuple[Kinds, Ints]


def may_hold(value: Value) -> bool:
    """Whether a value has a container on some lane."""
    if isinstance(value, Const):
        return False
    return value.kind == CONTAINER or (value.kinds is not None and bool((value.kinds == CONTAINER).any()))


def is_fresh(expression: tree.Expression) -> bool:
    """Whether an expression makes a container that no name holds yet."""
    return not isinstance(expression, tree.Variable | tree.Index | tree.UserCall | tree.Parameter) and not (
        isinstance(expression, tree.Binary) and expression.operator in ("and", "or")
    )


class ContainerOps:
    """Container operations over lanes. `cells` are (kinds, payloads) of one value per lane."""

    def __init__(self, evaluator: Evaluator, store: ContainerStore):
        self.store = store
        self.table = evaluator.table

    def cells(self, value: Value, count: int) -> Cells:
        """Kinds and payloads of a value; containers that get a second holder are frozen."""
        kinds, data = payloads(spread(value, count, self.table), self.table)
        self.store.freeze(data[kinds == CONTAINER])
        return kinds, data

    def vector(self, cells: Cells) -> Vec:
        return from_payloads(cells[0], cells[1], self.table)

    def handles(self, handles: Ints) -> Vec:
        return Vec(CONTAINER, handles)

    def as_sizes(self, value: Value) -> Value:
        """A vector with the sizes of containers in their place, for truth."""
        if not may_hold(value):
            return value
        assert isinstance(value, Vec)
        kinds, data = payloads(value, self.table)
        held = kinds == CONTAINER
        sizes = data.copy()
        sizes[held] = self.store.size[data[held]]
        return from_payloads(np.where(held, INT, kinds).astype(np.uint8), sizes, self.table)

    def shared(self, value: Value, expression: tree.Expression) -> Value:
        """A value about to be held by a name: containers that another name holds are frozen."""
        if may_hold(value) and not is_fresh(expression):
            assert isinstance(value, Vec)
            kinds, data = payloads(value, self.table)
            self.store.freeze(data[kinds == CONTAINER])
        return value

    def too_deep(self, value: Value) -> Mask | None:
        """Which of the values are containers that nobody may hold, None for none of them."""
        if not may_hold(value):
            return None
        assert isinstance(value, Vec)
        kinds, data = payloads(value, self.table)
        deep = kinds == CONTAINER
        deep[deep] = self.store.height[data[deep]] > CONTAINER_DEPTH_LIMIT
        return deep if deep.any() else None

    # ------------------------------------------------------------ making

    def empty(self, kind: int, count: int) -> Vec:
        """One empty frozen container for all lanes: whoever adds to it gets a copy."""
        handle = self.store.new(kind, 1, frozen=True)
        return self.handles(np.repeat(handle, count))

    def make_list(self, items: list[Value], count: int) -> Vec:
        if not items:
            return self.empty(LIST, count)
        if all(isinstance(item, Const) for item in items):
            return self._broadcast(self._filled_list(items, 1), count)
        return self._filled_list(items, count)

    def _broadcast(self, one: Vec, count: int) -> Vec:
        self.store.freeze(one.data)
        return self.handles(np.repeat(one.data, count))

    def _filled_list(self, items: list[Value], count: int) -> Vec:
        made = self.store.new(LIST, count)
        for item in items:
            self.store.append(made, self.cells(item, count))
        return self.handles(made)

    def make_set(self, items: list[Value], count: int) -> Vec:
        if not items:
            return self.empty(SET, count)
        made = self.store.new(SET, count)
        wrong = np.zeros(count, np.bool_)
        for item in items:
            wrong |= self.add_into(made, self.cells(item, count))
        return self._with_errors(made, wrong)

    def make_dict(self, pairs: list[tuple[Value, Value]], count: int) -> Vec:
        if not pairs:
            return self.empty(DICT, count)
        made = self.store.new(DICT, count)
        wrong = np.zeros(count, np.bool_)
        for key, value in pairs:
            keys = self.cells(key, count)
            good = keys[0] != CONTAINER
            wrong |= ~good
            chosen = np.flatnonzero(good)
            self.store.put(made[chosen], at(keys, chosen), at(self.cells(value, count), chosen))
        return self._with_errors(made, wrong)

    def _with_errors(self, handles: Ints, wrong: Mask) -> Vec:
        if not wrong.any():
            return self.handles(handles)
        return self.vector((np.where(wrong, ERROR, CONTAINER).astype(np.uint8), handles))

    # ------------------------------------------------------------ reading

    def length(self, value: Value, count: int) -> Vec:
        """len() where some lanes hold containers; the others must be None."""
        kinds, data = self.cells_as_they_are(value, count)
        held = kinds == CONTAINER
        sizes = np.zeros(count, np.int64)
        sizes[held] = self.store.size[data[held]]
        out = np.where(held | (kinds == NONE), INT, ERROR).astype(np.uint8)
        return self.vector((out, sizes))

    def cells_as_they_are(self, value: Value, count: int) -> Cells:
        """Kinds and payloads of a value that stays where it is."""
        return payloads(spread(value, count, self.table), self.table)

    def element(self, container: Value, index: Value, count: int) -> Vec:
        """container[index] where some lanes hold containers; None gives None, other kinds are errors."""
        kinds, data = self.cells_as_they_are(container, count)
        index_kinds, index_data = self.cells_as_they_are(index, count)
        out_kinds = np.where(kinds == NONE, NONE, ERROR).astype(np.uint8)
        out = np.zeros(count, np.int64)
        for lanes, entry in self._entries(kinds, data, index_kinds, index_data):
            out_kinds[lanes], out[lanes] = self.store.values_of(entry)
        return self.vector((out_kinds, out))

    def _entries(self, kinds: Kinds, data: Ints, index_kinds: Kinds, index_data: Ints) -> list[tuple[Ints, Ints]]:
        """Entries by key or position: (lanes, entry) for lanes where the index fits the container."""
        found: list[tuple[Ints, Ints]] = []
        held = kinds == CONTAINER
        container_kind = np.where(held, self.store.kind[np.where(held, data, 0)], 0)
        lanes = np.flatnonzero((container_kind == DICT) & (index_kinds != CONTAINER))
        if len(lanes):
            found.append((lanes, self.store.find(data[lanes], (index_kinds[lanes], index_data[lanes]))))
        lists = container_kind == LIST
        position, good = whole_numbers(index_kinds, index_data)
        lanes = np.flatnonzero(lists & good)
        if len(lanes):
            found.append((lanes, self.store.position(data[lanes], position[lanes])))
        lanes = np.flatnonzero(lists & (index_kinds == NONE))
        if len(lanes):
            found.append((lanes, np.full(len(lanes), -1, np.int64)))
        return found

    def contains(self, item: Value, container: Value, count: int) -> Vec:
        """item in container, where some lanes hold containers; in None nothing is."""
        kinds, data = self.cells_as_they_are(container, count)
        item_kinds, item_data = self.cells_as_they_are(item, count)
        out_kinds = np.where(kinds == NONE, BOOL, ERROR).astype(np.uint8)
        out = np.zeros(count, np.int64)
        held = (kinds == CONTAINER) & (item_kinds != CONTAINER)
        container_kind = np.where(held, self.store.kind[np.where(held, data, 0)], 0)
        for lanes in (np.flatnonzero((container_kind == DICT) | (container_kind == SET)),):
            out[lanes] = self.store.find(data[lanes], (item_kinds[lanes], item_data[lanes])) >= 0
            out_kinds[lanes] = BOOL
        lanes = np.flatnonzero(container_kind == LIST)
        if len(lanes):
            out[lanes] = self.store.list_has(data[lanes], (item_kinds[lanes], item_data[lanes]))
            out_kinds[lanes] = BOOL
        return self.vector((out_kinds, out))

    def slice_of(self, container: Value, start: Value, stop: Value, count: int) -> Vec:
        """container[start:stop] of lists; None gives None."""
        kinds, data = self.cells_as_they_are(container, count)
        out_kinds = np.where(kinds == NONE, NONE, ERROR).astype(np.uint8)
        out = np.zeros(count, np.int64)
        held = np.flatnonzero(kinds == CONTAINER)
        lists = held[self.store.kind[data[held]] == LIST]
        size = self.store.size[data[lists]]
        first, good = self._bound(start, count, lists, size, np.zeros_like(size))
        last, also_good = self._bound(stop, count, lists, size, size)
        good &= also_good
        lists, first, last = lists[good], first[good], last[good]
        made = self.store.new(LIST, len(lists))
        slot, entry = self.store.elements(data[lists])
        _, rank = _ranks(slot, len(lists))
        kept = (rank >= first[slot]) & (rank < last[slot])
        self._fill(made, slot[kept], self.store.values_of(entry[kept]))
        out_kinds[lists], out[lists] = CONTAINER, made
        return self.vector((out_kinds, out))

    def _bound(self, end: Value, count: int, lanes: Ints, size: Ints, default: Ints) -> tuple[Ints, Mask]:
        kinds, data = self.cells_as_they_are(end, count)
        position, good = whole_numbers(kinds[lanes], data[lanes])
        missing = kinds[lanes] == NONE
        position = np.where(position < 0, np.maximum(position + size, 0), np.minimum(position, size))
        return np.where(missing, default, position), good | missing

    def _fill(self, made: Ints, slot: Ints, value: Cells) -> None:
        """Appends values to new lists; containers among them are shared."""
        self.store.freeze(value[1][value[0] == CONTAINER])
        self.store.extend_all(made[slot], value)

    def keys(self, container: Value, count: int) -> Vec:
        """.keys() of dicts; None gives None."""
        kinds, data = self.cells_as_they_are(container, count)
        out_kinds = np.where(kinds == NONE, NONE, ERROR).astype(np.uint8)
        out = np.zeros(count, np.int64)
        held = np.flatnonzero(kinds == CONTAINER)
        dicts = held[self.store.kind[data[held]] == DICT]
        made = self.store.new(LIST, len(dicts))
        slot, entry = self.store.elements(data[dicts])
        self._fill(made, slot, self.store.labels_of(entry))
        out_kinds[dicts], out[dicts] = CONTAINER, made
        return self.vector((out_kinds, out))

    def mapped(self, function: Callable[..., Any], arguments: list[Value], count: int) -> Value:
        """A scalar function whose results may be containers, once per distinct combination of arguments."""
        results, inverse = distinct_results(function, arguments, count, self.table)
        kinds = np.zeros(len(results), np.uint8)
        data = np.zeros(len(results), np.int64)
        for position, result in enumerate(results):
            kinds[position], data[position] = self._from_python(result)
        return self.vector((kinds[inverse], data[inverse]))

    def _from_python(self, value: Any) -> tuple[int, int]:
        """Kind and payload of a Python value; containers become frozen handles (a loop: for distinct values)."""
        if not isinstance(value, CONTAINERS):
            kinds, data = payloads(spread(Const(value), 1, self.table), self.table)
            return int(kinds[0]), int(data[0])
        kind = LIST if isinstance(value, list) else DICT if isinstance(value, DictValue) else SET
        handle = self.store.new(kind, 1, frozen=True)
        if isinstance(value, list):
            self.store.extend_all(np.repeat(handle, len(value)), self._cells_of(value))
            return CONTAINER, int(handle[0])
        keys = self._cells_of([value_of(key) for key in value.entries])
        values = self._cells_of(list(value.entries.values()))
        self.store.put_all(np.repeat(handle, len(value.entries)), keys, values)
        return CONTAINER, int(handle[0])

    def _cells_of(self, values: list[Any]) -> Cells:
        cells = [self._from_python(value) for value in values]
        return np.array([kind for kind, _ in cells], np.uint8), np.array([data for _, data in cells], np.int64)

    # ------------------------------------------------------------ operators

    def arithmetic(self, operator: str, left: Value, right: Value, count: int) -> Vec:
        """left + right and left - right with containers on the left: a changed copy."""
        kinds, data = self.cells_as_they_are(left, count)
        held = np.flatnonzero(kinds == CONTAINER)
        out_kinds = np.full(count, ERROR, np.uint8)
        if len(held) == 0 or operator not in ("+", "-"):
            return self.vector((out_kinds, data))
        right_cells = at(self.cells(right, count), held)
        made = self.store.copies(data[held])
        if operator == "+":
            wrong = self.add_into(made, right_cells, extend=True)
        else:
            wrong = self.subtract(made, right_cells)
        out = data.copy()
        out[held] = made
        out_kinds[held] = np.where(wrong, ERROR, CONTAINER)
        return self.vector((out_kinds, out))

    # ------------------------------------------------------------ changing

    def add_into(self, handles: Ints, value: Cells, *, extend: bool = False) -> Mask:
        """Adds values to containers in place; returns which lanes are errors. Handles belong to one lane each.

        A list nests a value, or with `extend` takes the elements of containers. A set takes scalars and the elements
        of containers, a dict the entries of a dict.
        """
        kind = self.store.kind[handles]
        scalar = value[0] != CONTAINER
        wrong: Mask = (kind == DICT) & scalar
        lanes = np.flatnonzero((kind == LIST) & (scalar if extend else True))
        if len(lanes):
            self.store.append(handles[lanes], at(value, lanes))
        lanes = np.flatnonzero((kind == SET) & scalar)
        if len(lanes):
            self.store.put(handles[lanes], at(value, lanes))
        lanes = np.flatnonzero(~scalar & ((kind != LIST) | extend))
        if len(lanes):
            wrong[lanes] |= self._add_elements(handles[lanes], value[1][lanes])
        return wrong

    def _add_elements(self, handles: Ints, sources: Ints) -> Mask:
        """Adds all elements (keys of a dict) of one container to another, lane by lane."""
        kind, source_kind = self.store.kind[handles], self.store.kind[sources]
        wrong: Mask = (kind == DICT) & (source_kind != DICT)
        slot, entry = self.store.elements(sources)
        labels, values = self.store.labels_of(entry), self.store.values_of(entry)
        _, kinds, data = self.members(sources)
        element: Cells = (kinds, data)
        into_list = kind[slot] == LIST
        chosen = np.flatnonzero(into_list)
        self._fill(handles, slot[chosen], at(element, chosen))
        into_dict = np.flatnonzero((kind[slot] == DICT) & ~wrong[slot])
        nested = values[0][into_dict] == CONTAINER
        self.store.freeze(values[1][into_dict][nested])
        self.store.put_all(handles[slot[into_dict]], at(labels, into_dict), at(values, into_dict))
        into_set = np.flatnonzero(kind[slot] == SET)
        unfit = slot[into_set[element[0][into_set] == CONTAINER]]
        wrong[unfit] = True
        into_set = into_set[~wrong[slot[into_set]]]
        nothing = (np.zeros(len(into_set), np.uint8), np.zeros(len(into_set), np.int64))
        self.store.put_all(handles[slot[into_set]], at(element, into_set), nothing)
        return wrong

    def subtract(self, handles: Ints, value: Cells) -> Mask:
        """Drops elements or keys from containers in place; returns which lanes are errors."""
        lanes = np.flatnonzero(value[0] != CONTAINER)
        unwanted = at(value, lanes)
        sources = np.flatnonzero(value[0] == CONTAINER)
        wrong = np.zeros(len(handles), np.bool_)
        if len(sources):
            slot, kinds, data = self.members(value[1][sources])
            wrong[sources[slot[kinds == CONTAINER]]] = True
            lanes = np.concatenate([lanes, sources[slot]])
            unwanted = (np.concatenate([unwanted[0], kinds]), np.concatenate([unwanted[1], data]))
        gone = self.store.new(SET, len(handles))
        nothing = (np.zeros(len(lanes), np.uint8), np.zeros(len(lanes), np.int64))
        self.store.put_all(gone[lanes], unwanted, nothing)
        slot, entry = self.store.elements(handles)
        _, kinds, data = self.members(handles)
        self.drop(handles, slot, entry, self.store.find(gone[slot], (kinds, data)) >= 0)
        return wrong

    def members(self, handles: Ints) -> tuple[Ints, Kinds, Ints]:
        """What iterating over containers gives: (position in `handles`, kinds, payloads): elements or keys."""
        slot, entry = self.store.elements(handles)
        lists = self.store.kind[handles][slot] == LIST
        labels, values = self.store.labels_of(entry), self.store.values_of(entry)
        return slot, np.where(lists, values[0], labels[0]).astype(np.uint8), np.where(lists, values[1], labels[1])

    def drop(self, handles: Ints, slot: Ints, entry: Ints, dropped: Mask) -> None:
        """Takes elements out of containers, given all of them; the elements of lists move up."""
        lists = self.store.kind[handles] == LIST
        keyed = np.flatnonzero(dropped & ~lists[slot])
        self.store.alive[entry[keyed]] = False
        np.subtract.at(self.store.size, handles[slot[keyed]], 1)
        changed = np.zeros(len(handles), np.bool_)
        changed[slot[dropped & lists[slot]]] = True
        if changed.any():
            rest = np.flatnonzero(changed[slot])
            kept = rest[~dropped[rest]]
            values = self.store.values_of(entry[kept])
            self.store.empty_lists(handles[changed], entry[rest])
            self.store.extend_all(handles[slot[kept]], values)


def whole_numbers(kinds: Kinds, data: Ints) -> tuple[Ints, Mask]:
    """Positions from values: ints, bools, doubles without a fraction; and which lanes have one."""
    good = (kinds == INT) | (kinds == BOOL)
    doubles = np.flatnonzero(kinds == DOUBLE)
    if len(doubles):
        data = data.copy()
        values = data[doubles].view(np.float64)
        whole = (values == np.floor(values)) & (np.abs(values) < 1e15)
        data[doubles] = np.where(whole, values, 0).astype(np.int64)
        good[doubles] = whole
    return data, good


def at(cells: Cells, lanes: Ints) -> Cells:
    """The cells of some lanes."""
    return cells[0][lanes], cells[1][lanes]


def _ranks(slot: Ints, count: int) -> tuple[Ints, Ints]:
    """Sizes of runs of equal slots, and the rank of each element in its run."""
    sizes = np.bincount(slot, minlength=count)
    starts = np.cumsum(sizes) - sizes
    return sizes, np.arange(len(slot)) - starts[slot]
