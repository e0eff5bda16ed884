"""Random scripts over random events: the vectorised engine gives what the scalar interpreter gives.

The engine runs over one Block and over several cut in random ways, in one run and in runs that are merged. A script
with each data set is a pair; a test run makes more than 2,000 of them. `make fuzz` looks for longer.
"""

from __future__ import annotations

import pytest
from fuzz import failure
from hypothesis import HealthCheck, Phase, given, settings
from support.choices import Choices, choices
from support.comparing import Node, Skipped, compare, engine_answer, make_conditions, oracle_answer, parsed, under
from support.event_maker import Event, Person, cut, make_events, make_people, whole
from support.expression_maker import Features
from support.found_cases import people_of
from support.script_maker import make_script

from openset.pyql.lanes import engine
from openset.pyql.lanes.engine import compile_plan

SEEDED_BATCHES = 8
SCRIPTS_PER_BATCH = 130
DATA_SETS = 2


def check(text: str, events: list[Event], people: list[Person], how: Choices) -> None:
    """Fails with a small script and few events where the two sides disagree."""
    conditions = make_conditions(how)
    try:
        with under(conditions):
            found = compare(text, events, people, [cut(how, events, people)])
    except Skipped:
        return
    if found is not None:
        case = failure(text, events, found, conditions, "a test run")
        pytest.fail(f"keep this under tests/golden/found:\n{case.text()}", pytrace=False)


@pytest.mark.parametrize("batch", range(SEEDED_BATCHES))
def test_seeded_pairs(batch: int) -> None:
    """The same pairs in every run."""
    for number in range(SCRIPTS_PER_BATCH):
        seeded = Choices.seeded(f"pair {batch}/{number}")
        text = make_script(seeded)
        for _ in range(DATA_SETS):
            people = make_people(seeded)
            check(text, make_events(seeded, people), people, seeded)


@settings(
    max_examples=120,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # `check` makes failures smaller, lines at a time
    suppress_health_check=list(HealthCheck),
)
@given(choices())
def test_drawn_pairs(drawn: Choices) -> None:
    """Other pairs in every run."""
    text = make_script(drawn)
    people = make_people(drawn)
    check(text, make_events(drawn, people), people, drawn)


def test_what_needs_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts without type errors, log lines and calls in conditions never fall back to the interpreter."""
    left: list[str] = []
    monkeypatch.setattr(engine, "interpret", lambda script, *_: left.append(script.text))
    for number in range(250):
        seeded = Choices.seeded(f"vectorised {number}")
        features = Features.chosen(seeded)
        if not features.vectorised:
            continue
        text = make_script(seeded, features)
        people = make_people(seeded)
        block = whole(make_events(seeded, people), people)
        try:
            if oracle_answer(parsed(text), [block]).error is None:
                engine_answer(compile_plan(parsed(text)), [block])
        except Skipped:
            continue
    assert not left, left[0]


def test_the_generator_reaches_the_language() -> None:
    """The scripts do something: most tally, many several levels deep, some fail."""
    depths: dict[int, int] = {}
    errors = 0
    for number in range(200):
        seeded = Choices.seeded(f"reach {number}")
        text = make_script(seeded)
        people = make_people(seeded)
        events = make_events(seeded, people)
        try:
            answer = oracle_answer(parsed(text), [whole(events, people_of(events))])
        except Skipped:
            continue
        errors += answer.error is not None
        depths[_depth(answer.root)] = depths.get(_depth(answer.root), 0) + 1
    assert depths.get(0, 0) < 50
    assert depths.get(2, 0) + depths.get(3, 0) > 80
    assert 0 < errors < 40


def _depth(node: Node) -> int:
    children = node.children.values()
    return 1 + max(map(_depth, children)) if children else 0
