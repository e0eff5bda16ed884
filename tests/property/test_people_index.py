"""Who ever had a value: the index, the overlay and the rows say the same, whatever was inserted and compacted.

The rows are the truth: sets in plain Python, and the engine for whole scripts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap
from support import store_model as model

from openset.pyql.lanes.engine import compile_plan, outcomes, run
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script
from openset.query.index_only import candidates, membership
from openset.query.result import Order, result_tree
from openset.query.value_counts import ValueCounter
from openset.query.value_filter import value_filter
from openset.store import tiers
from openset.store.store import Store
from openset.store.views import PartitionView, ViewCache
from openset_format.block import Block

PEOPLE = 24
VALUES: dict[str, Sequence[Any]] = {
    "colour": ["red", "green", "7", "7.0", "", None],
    "size": ["s", "m", "l", None],
    "units": [0, 1, 7, -3, None],
    "price": [0.0, 1.5, 7.0, None],
    "gift": [True, False, None],
}
ACTIONS = ["view", "cart", "buy"]
PARAMETERS = {"text": "red", "number": 7, "double": 7.0, "yes": True}

literals = st.sampled_from(
    ["'red'", "'green'", "'7'", "'7.0'", "''", "'unseen'", "'s'", "0", "1", "7", "-3", "99", "7.0", "1.5", "True",
     "False", "None", "{{text}}", "{{number}}", "{{double}}", "{{yes}}"]
)  # fmt: skip
columns = st.sampled_from([*VALUES, "colour", "units", "gift"])
facts = st.one_of(
    st.builds("{} is {}".format, columns, literals),
    st.builds("{1} == {0}".format, columns, literals),
    st.builds("{} in [{}, {}]".format, columns, literals, literals),
    st.builds("action is '{}'".format, st.sampled_from([*ACTIONS, "never"])),
    st.just("gift"),
)
any_of_facts = st.lists(facts, min_size=1, max_size=3).map(" or ".join)
others = st.one_of(facts, st.just("price > 1"), st.just("colour != 'red'"), st.just("event_time > 0"), st.just("x"))
conditions = st.one_of(
    any_of_facts,
    st.builds("({}) and {}".format, any_of_facts, others),
    st.builds("{} and ({})".format, others, any_of_facts),
    st.builds("not ({})".format, any_of_facts),
)
member_bodies = st.sampled_from(["tally", "tally()", "return True", "tally\n    exit", "pass\n    tally\n    break"])
limits = st.sampled_from(["", "1 ", "2 "])


def events_of(random: np.random.Generator, people: Sequence[int], events: int, often: int) -> list[dict[str, Any]]:
    """Events whose stamps collide with earlier ones, so that many are replaced; `often` values per column."""
    chosen = []
    for _ in range(events):
        attr = {
            name: values[int(random.integers(0, min(often, len(values))))]
            for name, values in VALUES.items()
            if random.random() < 0.8
        }
        chosen.append(
            {
                "person": int(random.choice(people)),
                "stamp": 10**12 + int(random.integers(0, 60)),
                "action": ACTIONS[int(random.integers(0, 3))],
                "attr": attr,
            }
        )
    return chosen


def every_row(view: PartitionView, column: str, value: Any) -> BitMap:
    """The people with a value, by looking at each row."""
    found = BitMap()
    for block in view.blocks(500):
        if column not in block.columns:
            continue
        for person in block.runnable.tolist():
            rows = range(int(block.row_start[person]), int(block.row_start[person + 1]))
            if any(block.columns[column].value(row) == value for row in rows):
                found.add(ordinal(block, person))
    return found


def ordinal(block: Block, person: int) -> int:
    return block.first_person + person if block.ordinals is None else int(block.ordinals[person])


def views_of(store: Store, cache: ViewCache) -> list[PartitionView]:
    return [cache.view(snapshot) for snapshot in store.snapshot("t")]


@pytest.fixture(scope="module")
def tables() -> Iterator[list[list[PartitionView]]]:
    """Partitions in many states: no file, file alone, small overlay, overlay with new people, everything merged."""
    states: list[list[PartitionView]] = []
    random = np.random.default_rng(11)
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as data_dir:
        store = model.new_store(Path(data_dir), 2)
        people = list(range(PEOPLE))

        def insert(chosen: Sequence[int], events: int, often: int) -> None:
            model.insert(store, events_of(random, chosen, events, often))
            states.append(views_of(store, ViewCache(Path(data_dir))))

        def compact() -> None:
            store.compact_all()
            states.append(views_of(store, ViewCache(Path(data_dir))))

        states.append(views_of(store, ViewCache(Path(data_dir))))
        insert(people[:4], 30, 4)
        insert(people[4:20], 2_500, 4)
        compact()
        insert(people[:2], 40, 6)
        insert([3, *people[20:]], 60, 6)
        compact()
        insert(people[5:9], 200, 6)
        cache = ViewCache(Path(data_dir))
        views_of(store, cache)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiers, "SETTLED_ROWS", 0)
            patch.setattr(tiers, "WHOLE_ABOVE", 100.0)
            for chosen, events in ((people[:9], 300), (people[2:7], 40), ([4, *people[30:]], 8)):
                insert(chosen, events, 6)
                states.append(views_of(store, cache))
                assert max(len(view.blocks()) for view in states[-1]) > 1
        assert max(len(view.blocks()) for view in states[-1]) > 2, "a file and layers above it"
        insert(people, 3_000, 6)
        store.compact_all()
        compact()
        yield states
        store.close()


def test_states_have_indexes_and_overlays(tables: list[list[PartitionView]]) -> None:
    answered = [view.people_with("colour", "red") is not None for views in tables for view in views]
    assert sum(answered) > len(answered) / 2


def test_people_with_a_value_are_those_whose_rows_have_it(tables: list[list[PartitionView]]) -> None:
    known = 0
    for view in (view for views in tables for view in views):
        for column, values in [("action", [*ACTIONS, "never"]), *VALUES.items()]:
            if column == "price":
                continue
            for value in values:
                found = None if value is None else view.people_with(column, value)
                if found is not None:
                    known += 1
                    assert found == every_row(view, column, value), (column, value)
    assert known > 100


def test_values_that_no_column_can_have(tables: list[list[PartitionView]]) -> None:
    view = tables[3][0]
    assert view.people_with("no_such_column", "red") == BitMap()
    assert view.people_with("colour", 7) is None
    assert view.people_with("units", "7") is None
    assert view.people_with("units", True) is None
    assert view.people_with("gift", 1) is None
    assert view.people_with("price", 7) is None


@pytest.mark.parametrize("column", ["action", "colour", "size"])
@pytest.mark.parametrize("filters", [{}, {"sub": "e"}, {"rx": "^[a-m]"}, {"eq": "red"}, {"eq": "unseen"}])
def test_counting_values_by_the_index_equals_counting_rows(
    tables: list[list[PartitionView]], column: str, filters: dict[str, str]
) -> None:
    indexed = 0
    for view in (view for views in tables for view in views):
        by_rows, by_index = (ValueCounter(value_filter(column, "text", filters), None, 1, None) for _ in range(2))
        found = view.indexed_texts(column)
        if found is None:
            continue
        indexed += 1
        by_index.add_indexed(*found)
        for counter, blocks in ((by_rows, view.blocks(500)), (by_index, view.layer_blocks(500))):
            for block in blocks:
                if column in block.columns:
                    counter.add(block.columns[column], block.person_of_row, [block.include])
        expected, answer = by_rows.result(), by_index.result()
        assert answer.any_value.tolist() == expected.any_value.tolist()
        counted = [
            {text: count for text, count in zip(r.texts, r.text_counts[0].tolist(), strict=True) if count}
            for r in (answer, expected)
        ]
        assert counted[0] == counted[1]
    assert indexed > 5


@settings(max_examples=150, deadline=None)
@given(
    sections=st.lists(st.tuples(limits, any_of_facts, member_bodies), min_size=1, max_size=2),
    state=st.integers(0, 9),
)
def test_membership_equals_the_engine(
    tables: list[list[PartitionView]], sections: list[tuple[str, str, str]], state: int
) -> None:
    text = "\n".join(f"match {limit}where {condition}:\n    {body}" for limit, condition, body in sections)
    script = parse_script(text, model.TYPES, segment=True)
    decided = membership(script)
    if decided is None:
        assert any(word in text for word in ("price", "None", "True", "False", "0", "1", "7", "99", "-3", "{{", " in "))
        return
    run_settings = RunSettings(now_ms=10**12, parameters=PARAMETERS)
    plan = compile_plan(script)
    for view in tables[state % len(tables)]:
        found = decided.people(view, PARAMETERS)
        if found is None:
            continue
        expected = BitMap()
        for block in view.blocks(500):
            outcome = outcomes(plan, block, run_settings)
            expected |= BitMap([ordinal(block, person) for person in outcome.people[outcome.member].tolist()])
        assert found == expected


ANALYSES = """\
agg:
    people
    count stamp as events
    sum price as spent all
    value colour
x = 1
match {}where {}:
    tally(action, size)
    match 1 where action is 'buy':
        tally('bought', colour)
"""


@settings(max_examples=100, deadline=None)
@given(limit=limits, condition=conditions, state=st.integers(0, 9))
def test_candidates_are_enough(tables: list[list[PartitionView]], limit: str, condition: str, state: int) -> None:
    script = parse_script(ANALYSES.format(limit, condition), model.TYPES)
    possible = candidates(script)
    if possible is None:
        return
    plan = compile_plan(script)
    run_settings = RunSettings(now_ms=10**12, parameters=PARAMETERS)
    for view in tables[state % len(tables)]:
        people = possible.people(view, PARAMETERS)
        if people is not None:
            chosen = view.blocks_of(people, 300)
            assert sum(len(block.runnable) for block in chosen) == len(people)
            everyone = run(plan, view.blocks(500), run_settings)
            assert shown(run(plan, chosen, run_settings)) == shown(everyone)


def shown(partial: Partial) -> Any:
    return result_tree(partial, Order(None, True, None))
