"""What must not change an answer of the engine: how people are cut into Blocks, in which order the Blocks come, in
which order events arrived; and counts over disjoint sets of people add up.

Insert order is left out where it does decide: events of one person and stamp whose actions are not in the z-order, and
several events of one identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.arrival import ordered_by_themselves
from support.choices import Choices
from support.comparing import (
    Answer,
    Node,
    Skipped,
    difference,
    engine_answer,
    magnitudes_of,
    merged_answer,
    parsed,
    without_aggregators,
)
from support.event_maker import Event, Person, cut, make_events, make_people, whole
from support.expression_maker import Features
from support.script_maker import make_script
from support.small_limits import small_limits

from openset.pyql.lanes.engine import compile_plan

PAIRS = 120


def pair(seed: str) -> tuple[Choices, str, list[Person], list[Event]]:
    """A script and events; no log, whose lines come in the order of people."""
    choices = Choices.seeded(seed)
    features = Features.chosen(choices)
    text = make_script(choices, features)
    people = make_people(choices)
    return choices, text, people, make_events(choices, people)


def assert_same(text: str, first: Answer, second: Answer, events: Sequence[Event], people: Sequence[Person]) -> None:
    found = difference(first, second, lambda: magnitudes_of(parsed(text), [whole(events, people)]))
    assert found is None, f"{found}\n{text}"


@pytest.mark.parametrize("number", range(PAIRS))
def test_blocks(number: int) -> None:
    choices, text, people, events = pair(f"blocks {number}")
    plan = compile_plan(parsed(text))
    try:
        one = engine_answer(plan, [whole(events, people)])
        for _ in range(2):
            blocks = choices.shuffled(cut(choices, events, people))
            assert_same(text, one, engine_answer(plan, blocks), events, people)
            assert_same(text, one, merged_answer(plan, choices.shuffled(blocks)), events, people)
        with small_limits():
            assert_same(text, one, engine_answer(plan, [whole(events, people)]), events, people)
    except Skipped:
        return


@pytest.mark.parametrize("number", range(PAIRS))
def test_order_of_arrival(number: int) -> None:
    choices, text, people, events = pair(f"arrival {number}")
    events = ordered_by_themselves(events)
    plan = compile_plan(parsed(text))
    try:
        one = engine_answer(plan, [whole(events, people)])
        other = engine_answer(plan, [whole(choices.shuffled(events), choices.shuffled(people))])
    except Skipped:
        return
    assert_same(text, one, other, events, people)


@pytest.mark.parametrize("number", range(PAIRS))
def test_counts_of_disjoint_people_add_up(number: int) -> None:
    choices, text, people, events = pair(f"disjoint {number}")
    text = f"agg:\n    people\n    count action as b all\n    count amount as c\n{without_aggregators(text)}"
    plan = compile_plan(parsed(text))
    some = {(type(person), person) for person in people if choices.chance(50)}
    parts = [[e for e in events if ((type(e["person"]), e["person"]) in some) == inside] for inside in (True, False)]
    try:
        everyone = engine_answer(plan, [whole(events, people)])
        first, second = (engine_answer(plan, [whole(part, [])]) for part in parts)
    except Skipped:
        return
    if everyone.error is None:
        assert counts(everyone.root) == added(counts(first.root), counts(second.root))


Counts = dict[tuple[object, ...], list[int]]


def counts(node: Node, path: tuple[object, ...] = ()) -> Counts:
    """The counts of every node below a node, by path."""
    found: Counts = {}
    for address, child in node.children.items():
        below = (*path, address)
        found[below] = [int(value or 0) for value in child.values]
        found |= counts(child, below)
    return found


def added(first: Counts, second: Counts) -> Counts:
    nothing = [0, 0, 0]
    return {
        path: [a + b for a, b in zip(first.get(path, nothing), second.get(path, nothing), strict=True)]
        for path in first.keys() | second.keys()
    }
