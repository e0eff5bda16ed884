"""Levels of an overlay say what a dictionary says, whatever is put, erased and merged; those kept go on saying it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from openset.store.merge import Events, Layer, layer_of, layer_without_rows
from openset.store.overlay import GROWTH, Levels

PEOPLE = 12
# (stamp, action, number of the first row, rows) of a person's events.
Rows = tuple[tuple[int, int, int, int], ...]
Contents = dict[int, Rows]

chosen = st.sets(st.integers(0, PEOPLE - 1), max_size=PEOPLE)


def layer(contents: Contents) -> Layer:
    rows = [(person, *event) for person in sorted(contents) for event in contents[person]]
    columns = np.array(rows, np.int64).reshape(-1, 5).T
    return layer_of(Events(columns[0], columns[1], columns[2].astype(np.uint8), columns[3], columns[4]))


def said(events: Events) -> Contents:
    found: Contents = {}
    columns = (events.person, events.stamp, events.action, events.first_row, events.rows)
    for person, *event in zip(*(column.tolist() for column in columns), strict=True):
        found[person] = (*found.get(person, ()), (event[0], event[1], event[2], event[3]))
    return found


def of_layer(whole: Layer) -> Contents:
    """Everybody in a layer, those without rows too."""
    events, missing = whole.find(whole.people)
    assert not len(missing)
    return dict.fromkeys(whole.people.tolist(), ()) | said(events)


class OverlayMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.levels, self.model = Levels(), Contents()
        self.base: Contents = {}
        self.kept: list[tuple[Levels, Contents]] = []
        self.next_row = 0

    def events(self, people: set[int], counts: list[int]) -> Contents:
        made = {}
        for number, person in enumerate(sorted(people)):
            events = []
            for stamp in range(counts[number % len(counts)]):
                rows = 1 + (person + stamp) % 3
                events.append((stamp, person % 5, self.next_row, rows))
                self.next_row += rows
            made[person] = tuple(events)
        return made

    @initialize(people=st.integers(0, PEOPLE // 2))
    def file(self, people: int) -> None:
        self.base = self.events(set(range(people)), [2])

    @rule(people=chosen, counts=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def put(self, people: set[int], counts: list[int]) -> None:
        new = self.events(people, counts)
        self.levels = self.levels.put(layer(new))
        self.model = self.model | new

    @rule(people=chosen)
    def erase(self, people: set[int]) -> None:
        self.levels = self.levels.put(layer_without_rows(np.array(sorted(people), np.int64)))
        self.model = self.model | dict.fromkeys(people, ())

    @rule(people=chosen)
    def find(self, people: set[int]) -> None:
        events, missing = self.levels.find(np.array(sorted(people), np.int64))
        expected = self.expected(self.levels, self.model)
        assert said(events) == {person: expected[person] for person in people if expected.get(person)}
        assert missing.tolist() == sorted(people - expected.keys())

    @rule(person=st.integers(0, PEOPLE))
    def person(self, person: int) -> None:
        found = self.levels.person(person)
        expected = self.expected(self.levels, self.model)
        assert (None if found is None else of_layer(found)) == (
            {person: expected[person]} if person in expected else None
        )

    @rule()
    def whole(self) -> None:
        assert of_layer(self.levels.whole()) == self.expected(self.levels, self.model)
        assert len(self.levels.layers) <= 1

    @rule(rows=st.integers(0, 60))
    def settle(self, rows: int) -> None:
        layers = self.levels.settled(rows)
        assert sum(one.rows < rows for one in layers) <= 1

    @rule()
    def take_in(self) -> None:
        file = layer(self.base)
        self.levels.take_in(file)
        assert self.levels.has_everyone

    @rule()
    def keep(self) -> None:
        self.kept = [*self.kept[-3:], (self.levels, self.model)]

    def expected(self, levels: Levels, model: Contents) -> Contents:
        return self.base | model if levels.has_everyone else model

    @invariant()
    def kept_ones_say_what_they_said(self) -> None:
        everyone = np.arange(PEOPLE)
        for levels, model in [*self.kept, (self.levels, self.model)]:
            events, missing = levels.find(everyone)
            expected = self.expected(levels, model)
            assert said(events) == {person: rows for person, rows in expected.items() if rows}
            assert missing.tolist() == [person for person in range(PEOPLE) if person not in expected]

    @invariant()
    def levels_grow(self) -> None:
        sizes = [one.rows + len(one.people) for one in self.levels.layers]
        assert all(lower >= GROWTH * upper for lower, upper in pairwise(sizes))
        for one in self.levels.layers:
            assert (np.diff(one.people) > 0).all() and one.row_start[-1] == one.rows


OverlayMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestOverlay = OverlayMachine.TestCase
