"""Statements that change containers: element targets, del, += and -=, and the changing methods.

The container to change is looked up from the variable that holds it, element by element; a frozen one on the way is
copied first and the copy put in its place. Arguments are evaluated, and frozen, before the container is looked up.
"""

from __future__ import annotations

import numpy as np

from openset.pyql import tree
from openset.pyql.lanes.container_store import DICT, LIST
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.frames import Frame
from openset.pyql.lanes.lane_map import Ints, Kinds
from openset.pyql.lanes.vector_containers import Cells, at, whole_numbers
from openset.pyql.lanes.vectors import (
    CONTAINER,
    NULL,
    Mask,
    Positions,
    Value,
    Vec,
    payloads,
    spread,
)


class ContainerStatements:
    """Changes containers of lanes. Methods return the lanes that go on."""

    def __init__(self, evaluator: Evaluator):
        self.evaluator = evaluator
        self.table = evaluator.table
        self.ops = evaluator.containers
        self.store = evaluator.containers.store

    # ------------------------------------------------------------ looking up

    def located(self, target: tree.Expression, frame: Frame, lanes: Positions) -> tuple[Positions, Ints]:
        """The containers of a target, ready to be changed: (lanes that have one, handles). The others fail."""
        if isinstance(target, tree.Variable):
            kinds, handles = self._cells(frame.read(target.name, lanes), len(lanes))
            lanes, handles = self._with_container(frame, lanes, kinds, handles)
            copied = np.flatnonzero(self.store.frozen[handles])
            if len(copied):
                handles[copied] = self.store.copies(handles[copied])
                frame.assign(target.name, lanes[copied], Vec(CONTAINER, handles[copied]), self.table)
            return lanes, handles
        assert isinstance(target, tree.Index)
        lanes, parents = self.located(target.container, frame, lanes)
        lanes, parents, entry, _ = self._entry(target.index, frame, lanes, parents)
        kinds, handles = self.store.values_of(entry)
        outer = lanes
        lanes, handles = self._with_container(frame, lanes, kinds, handles)
        chosen = np.searchsorted(outer, lanes)
        parents, entry = parents[chosen], entry[chosen]
        copied = np.flatnonzero(self.store.frozen[handles])
        if len(copied):
            handles[copied] = self.store.copies(handles[copied])
            held = np.full(len(copied), CONTAINER, np.uint8)
            self.store.set_value(parents[copied], entry[copied], (held, handles[copied]))
        return lanes, handles

    def _cells(self, value: Value, count: int) -> Cells:
        kinds, data = payloads(spread(value, count, self.table), self.table)
        return kinds, data.copy()

    def _with_container(self, frame: Frame, lanes: Positions, kinds: Kinds, handles: Ints) -> tuple[Positions, Ints]:
        held = kinds == CONTAINER
        if held.all():
            return lanes, handles
        self.evaluator.fail(frame, lanes[~held])
        return lanes[held], handles[held]

    def _entry(
        self, index: tree.Expression, frame: Frame, lanes: Positions, handles: Ints
    ) -> tuple[Positions, Ints, Ints, Cells]:
        """The entries at an index: (lanes, handles, entries, index); -1 where there is no such key or position."""
        kinds, data = self._cells(self.evaluator.value(index, frame, lanes), len(lanes))
        entry = np.full(len(lanes), -1, np.int64)
        dicts = (self.store.kind[handles] == DICT) & (kinds != CONTAINER)
        at_key = np.flatnonzero(dicts)
        entry[at_key] = self.store.find(handles[at_key], (kinds[at_key], data[at_key]))
        position, whole = whole_numbers(kinds, data)
        at_position = np.flatnonzero((self.store.kind[handles] == LIST) & whole)
        entry[at_position] = self.store.position(handles[at_position], position[at_position])
        good = dicts
        good[at_position] = True
        going_on = self._going_on(frame, lanes, good)
        return lanes[going_on], handles[going_on], entry[going_on], at((kinds, data), going_on)

    def _going_on(self, frame: Frame, lanes: Positions, good: Mask) -> Positions:
        """Fails the lanes that are not good; the positions of those that are and still run."""
        if not good.all():
            self.evaluator.fail(frame, lanes[~good])
        if frame.signal is None:
            return np.flatnonzero(good)
        return np.flatnonzero(good & (frame.signal[lanes] == 0))

    # ------------------------------------------------------------ statements

    def set_element(self, frame: Frame, statement: tree.Assign, lanes: Positions) -> None:
        """container[index] = value, and with an operator."""
        assert isinstance(statement.target, tree.Index)
        value = self.evaluator.value(statement.value, frame, lanes)
        cells = self.ops.cells(value, len(lanes))
        asked = lanes
        lanes, handles = self.located(statement.target.container, frame, lanes)
        lanes, handles, entry, keys = self._entry(statement.target.index, frame, lanes, handles)
        cells = at(cells, np.searchsorted(asked, lanes))
        if statement.operator:
            lanes, kept, cells = self._operated(frame, statement.operator, lanes, handles, entry, cells)
            handles, entry, keys = handles[kept], entry[kept], at(keys, kept)
        dicts = self.store.kind[handles] == DICT
        self.store.put(handles[dicts], at(keys, np.flatnonzero(dicts)), at(cells, np.flatnonzero(dicts)))
        lists = np.flatnonzero(~dicts)
        missing = lists[entry[lists] < 0]
        if len(missing):
            self.evaluator.fail(frame, lanes[missing])
        lists = lists[entry[lists] >= 0]
        self.store.set_value(handles[lists], entry[lists], at(cells, lists))

    def _operated(
        self, frame: Frame, operator: str, lanes: Positions, handles: Ints, entry: Ints, cells: Cells
    ) -> tuple[Positions, Ints, Cells]:
        """The values of elements after `element operator= cells`: (lanes, positions that go on, values)."""
        before = self.ops.vector(self.store.values_of(entry))
        after = self.evaluator.operate(operator, before, self.ops.vector(cells), len(lanes))
        settled = self.evaluator.settled(after, frame, lanes)
        kept = self._going_on(frame, lanes, np.ones(len(lanes), np.bool_))
        return lanes[kept], kept, at(self._cells(settled, len(lanes)), kept)

    def operate_in_place(self, frame: Frame, name: str, operator: str, value: Value, lanes: Positions) -> None:
        """variable += value and -= where the variable holds containers on all lanes."""
        cells = self.ops.cells(value, len(lanes))
        asked = lanes
        lanes, handles = self.located(_variable(name), frame, lanes)
        cells = at(cells, np.searchsorted(asked, lanes))
        if operator == "+":
            wrong = self.ops.add_into(handles, cells, extend=True)
        else:
            wrong = self.ops.subtract(handles, cells)
        if wrong.any():
            self.evaluator.fail(frame, lanes[wrong])

    def delete(self, frame: Frame, statement: tree.Delete, lanes: Positions) -> None:
        """del container[index]"""
        lanes, handles = self.located(statement.target.container, frame, lanes)
        lanes, handles, entry, _ = self._entry(statement.target.index, frame, lanes, handles)
        self._remove(handles, entry)

    def _remove(self, handles: Ints, entry: Ints) -> None:
        """Takes one entry out of each container (-1: none)."""
        present = entry >= 0
        handles, entry = handles[present], entry[present]
        if not len(handles):
            return
        lists = self.store.kind[handles] == LIST
        self.store.discard(handles[~lists], entry[~lists])
        if lists.any():
            slot, entries = self.store.elements(handles[lists])
            self.ops.drop(handles[lists], slot, entries, entries == entry[lists][slot])

    # ------------------------------------------------------------ methods

    def call(self, frame: Frame, call: tree.MethodCall, lanes: Positions | None) -> Value:
        """A changing method: its value per lane (None but for pop)."""
        asked = np.arange(len(frame), dtype=np.int64) if lanes is None else lanes
        arguments = [self.evaluator.value(argument, frame, asked) for argument in call.arguments]
        cells = [self.ops.cells(argument, len(asked)) for argument in arguments]
        going_on = self._going_on(frame, asked, np.ones(len(asked), np.bool_))
        own, handles = self.located(call.target, frame, asked[going_on])
        chosen = np.searchsorted(asked, own)
        cells = [at(argument, chosen) for argument in cells]
        if call.method in ("append", "add", "update"):
            wrong = self.ops.add_into(handles, cells[0])
            if wrong.any():
                self.evaluator.fail(frame, own[wrong])
        elif call.method == "remove":
            self._remove(handles, self._first_equal(frame, own, handles, cells[0]))
        elif call.method == "clear":
            slot, entries = self.store.elements(handles)
            self.ops.drop(handles, slot, entries, np.ones(len(entries), np.bool_))
        else:
            kinds, data = np.zeros(len(asked), np.uint8), np.zeros(len(asked), np.int64)
            kinds[chosen], data[chosen] = self._pop(handles)
            return self.ops.vector((kinds, data))
        return NULL

    def _first_equal(self, frame: Frame, lanes: Positions, handles: Ints, value: Cells) -> Ints:
        """The entry of an element or key in each container, -1 where there is none."""
        entry = np.full(len(handles), -1, np.int64)
        lists = self.store.kind[handles] == LIST
        nested = lists & (value[0] == CONTAINER)
        if nested.any():
            self.evaluator.fail(frame, lanes[nested])
        keyed = np.flatnonzero(~lists & (value[0] != CONTAINER))
        entry[keyed] = self.store.find(handles[keyed], at(value, keyed))
        chosen = np.flatnonzero(lists & ~nested)
        if len(chosen):
            slot, found = self.store.positions_of(handles[chosen], at(value, chosen))
            first = np.append(True, slot[1:] != slot[:-1])[: len(slot)]
            entry[chosen[slot[first]]] = found[first]
        return entry

    def _pop(self, handles: Ints) -> Cells:
        kinds, data = np.zeros(len(handles), np.uint8), np.zeros(len(handles), np.int64)
        lists = np.flatnonzero(self.store.kind[handles] == LIST)
        kinds[lists], data[lists] = self.store.pop_last(handles[lists])
        rest = np.flatnonzero(self.store.kind[handles] != LIST)
        slot, entry = self.store.elements(handles[rest])
        last = np.append(slot[1:] != slot[:-1], True)[: len(slot)]
        rest, entry = rest[slot[last]], entry[last]
        labels = self.store.labels_of(entry)
        kinds[rest], data[rest] = labels
        dicts = np.flatnonzero(self.store.kind[handles[rest]] == DICT)
        pairs = self.store.new(LIST, len(dicts))
        self.store.append(pairs, at(labels, dicts))
        self.store.append(pairs, self.store.values_of(entry[dicts]))
        kinds[rest[dicts]], data[rest[dicts]] = CONTAINER, pairs
        self.store.discard(handles[rest], entry)
        return kinds, data


def _variable(name: str) -> tree.Variable:
    return tree.Variable(at=tree.Position(1, 1), name=name)
