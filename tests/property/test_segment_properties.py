"""Segments against Python sets: set algebra, masks of Blocks, and whole counts and compare requests over a store."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from openset.pyql.syntax.parse import parse_sections
from openset.query.counts import CountsRequest
from openset.query.events import EventsRequest
from openset.query.executor import SerialExecutor
from openset.query.frame import Common, Tools, run_query
from openset.query.membership import algebra_members, operand_names
from openset.query.parameters import RequestParameters
from openset.query.work import PlanCache
from openset.store.members import MemberCache
from openset.store.segment import Computed, Segment
from openset.store.segments import Segments
from openset.store.store import Store
from openset_format.block import Block, PersonIds
from openset_format.membership import serialized

NAMES = ("a", "b", "c")
STAMP = 1_700_000_000_000

People = frozenset[int]
Algebra = tuple[str, Callable[[dict[str, People], People], People]]


def _operations(inner: st.SearchStrategy[Algebra]) -> st.SearchStrategy[Algebra]:
    many = st.lists(inner, min_size=2, max_size=4)
    return st.one_of(
        st.builds(_union, many),
        st.builds(_intersection, many),
        st.builds(lambda one: (f"population({one[0]})", one[1]), inner),
        st.builds(_complement, st.sampled_from(["complement", "compliment"]), inner),
        st.builds(_difference, inner, inner),
    )


def _union(parts: list[Algebra]) -> Algebra:
    return f"union({', '.join(text for text, _ in parts)})", lambda sets, present: frozenset().union(
        *(members(sets, present) for _, members in parts)
    )


def _intersection(parts: list[Algebra]) -> Algebra:
    return f"intersection({', '.join(text for text, _ in parts)})", lambda sets, present: frozenset.intersection(
        *(members(sets, present) for _, members in parts)
    )


def _complement(word: str, one: Algebra) -> Algebra:
    return f"{word}({one[0]})", lambda sets, present: present - one[1](sets, present)


def _difference(one: Algebra, other: Algebra) -> Algebra:
    return (
        f"difference({one[0]}, {other[0]})",
        lambda sets, present: one[1](sets, present) - other[1](sets, present),
    )


def _named(name: str) -> Algebra:
    return name, lambda sets, present: sets[name]


leaves = st.sampled_from(NAMES).map(_named)
algebras = _operations(st.recursive(leaves, _operations, max_leaves=8))
some_people = st.frozensets(st.one_of(st.integers(0, 40), st.integers(0, 2**32 - 1)), max_size=30)


@given(algebras, st.fixed_dictionaries(dict.fromkeys(NAMES, some_people)), some_people)
def test_set_algebra_is_that_of_python(algebra: Algebra, sets: dict[str, People], present: People) -> None:
    text, members = algebra
    (section,) = parse_sections(f"@segment x:\n    {text}\n", {})
    assert section.algebra is not None
    assert {name for name, _ in operand_names(section.algebra)} <= set(NAMES)
    bitmaps = {name: BitMap(people) for name, people in sets.items()}
    found = algebra_members(section.algebra, bitmaps.__getitem__, BitMap(present))
    # Who is not there any more is in no result.
    assert set(found) == members({name: people & present for name, people in sets.items()}, present)
    assert bitmaps == {name: BitMap(people) for name, people in sets.items()}, "operands are shared and stay"


def _block(ordinals: list[int], contiguous: bool) -> Block:
    people = len(ordinals)
    return Block(
        ids=PersonIds.of([]),
        row_start=np.zeros(people + 1, np.int64),
        stamp=np.zeros(0, np.int64),
        event_start=None,
        columns={},
        first_person=ordinals[0] if contiguous and ordinals else 0,
        ordinals=None if contiguous else np.array(ordinals, np.int64),
    )


@given(st.frozensets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 40), st.frozensets(st.integers(0, 90)))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_masks_say_who_of_a_block_belongs(members: People, first: int, count: int, sparse: People) -> None:
    with tempfile.TemporaryDirectory() as directory:
        stored = Segments(Path(directory), [1], "", 0)
        stored.put(1, [Computed(_segment("a"), {0: serialized(BitMap(members))})])
        (one,) = stored.all(1, 0)
        cache = MemberCache(Path(directory))
        for ordinals, contiguous in ((list(range(first, first + count)), True), (sorted(sparse), False)):
            mask, everyone = cache.masks([one.ref, None], 0, _block(ordinals, contiguous))
            assert everyone is None and mask is not None
            assert mask.tolist() == [ordinal in members for ordinal in ordinals]


def _segment(name: str) -> Segment:
    return Segment(name, "tally", None, None, 0, 0, {}, 0, 0, (), "", 0)


SECTIONS = (
    "@segment had:\n    match where action is {{what}}:\n        tally\n"
    "@segment busy:\n    return event_count >= {{least}}\n"
    "@segment both:\n    intersection(had, busy)\n"
    "@segment rest:\n    complement(union(had, busy))\n"
)
COMPARE = "agg:\n    people\n    count stamp as events\nmatch:\n    tally(action)\n"


class _Table:
    """A store, and what is in it as Python sees it."""

    def __init__(self, data_dir: Path, partitions: int):
        self.store = Store.open(data_dir)
        self.store.initialise(partitions)
        self.store.create_table("t", [("n", "int")])
        self.tools = Tools(self.store, SerialExecutor(data_dir), PlanCache())
        self.events: dict[int, dict[int, str]] = {}
        self.stored: dict[str, set[int]] = {}

    def insert(self, chance: random.Random, count: int) -> None:
        found = [(chance.randrange(40), STAMP + chance.randrange(10**9), chance.choice("xyz")) for _ in range(count)]
        for person, stamp, action in found:
            self.events.setdefault(person, {})[stamp] = action
        body = [
            {"person": person, "stamp": stamp, "action": action, "attr": {"n": 1}} for person, stamp, action in found
        ]
        self.store.submit("t", self.store.prepare_insert("t", json.dumps(body).encode())).result()

    def ask(self, query: CountsRequest | EventsRequest) -> Any:
        return asyncio.run(run_query(self.tools, query)).body

    def check_counts(self, what: str, least: int) -> None:
        parameters = RequestParameters([("str_what", what), ("int_least", str(least))])
        had = {person for person, events in self.events.items() if what in events.values()}
        busy = {person for person, events in self.events.items() if len(events) >= least}
        self.stored = {"had": had, "busy": busy, "both": had & busy, "rest": set(self.events) - had - busy}
        answer = self.ask(CountsRequest("t", SECTIONS, Common(), parameters))
        assert answer == {"_": [{"g": name, "c": [len(people)]} for name, people in self.stored.items()]}

    def check_comparison(self) -> None:
        names = ("busy", "*", "rest", "both", "had")
        answer = self.ask(EventsRequest("t", COMPARE, Common(), RequestParameters([]), names))
        found = {node["g"]: [node[name] for name in ("c", "c2", "c3", "c4", "c5")] for node in answer["_"]}
        wanted: dict[str, list[list[int]]] = {}
        for action in "xyz":
            groups = [self.stored.get(name, set(self.events)) for name in names]
            counted = [[list(self.events[person].values()).count(action) for person in group] for group in groups]
            wanted[action] = [[sum(map(bool, counts)), sum(counts)] for counts in counted]
        assert found == {action: counts for action, counts in wanted.items() if any(map(any, counts))}


@given(st.integers(0, 2**32), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_counts_and_comparisons_over_files_and_overlays(seed: int, partitions: int) -> None:
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        table = _Table(Path(directory), partitions)
        for _ in range(4):
            table.insert(chance, chance.choice([1, 5, 200]))
            if chance.random() < 0.4:
                table.store.compact_all()
            if chance.random() < 0.7 or not table.stored:
                table.check_counts(chance.choice("xyzw"), chance.randrange(6))
            table.check_comparison()
        table.store.close()
