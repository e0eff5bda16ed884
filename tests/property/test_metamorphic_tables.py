"""What must not change an answer over a table: how many partitions it has, in which requests and in which
order its events came, what has been compacted, how many rows a Block may have, and whether one worker or several ran
the script.

Answers are compared with the interpreter's over one Block that no store has made.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from support import store_model
from support.arrival import ordered_by_themselves
from support.choices import Choices
from support.comparing import (
    Answer,
    Skipped,
    difference,
    engine_answer,
    magnitudes_of,
    merged_answer,
    oracle_answer,
    parsed,
)
from support.event_maker import COLUMNS, Z_ORDER, Event, make_events, make_people, whole
from support.expression_maker import Features
from support.found_cases import people_of
from support.script_maker import make_script

from openset.pyql.lanes.engine import Plan, compile_plan
from openset.store.store import Store
from openset.store.views import ViewCache

TABLES = 24
SCRIPTS_PER_TABLE = 5


@dataclass(frozen=True)
class Way:
    """How a table comes about and is read. batch: events per request. compacted: after which requests.
    max_rows: of a Block, None: as many as the plan says. several: a run per Block, merged as those of workers are."""

    partitions: int = 1
    batch: int = 1_000
    compacted: str = "never"
    max_rows: int | None = None
    several: bool = False


WAYS = (
    Way(),
    Way(partitions=3, several=True),
    Way(partitions=16, batch=7, several=True),
    Way(batch=1, max_rows=3),
    Way(partitions=2, batch=5, compacted="at the end"),
    Way(partitions=2, batch=3, compacted="half way", max_rows=5, several=True),
    Way(partitions=5, batch=4, compacted="after each", max_rows=1),
)


@contextmanager
def table(way: Way, events: list[Event]) -> Iterator[tuple[Store, ViewCache]]:
    """A store whose table `t` has the events."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as directory:
        store = Store.open(Path(directory))
        store.initialise(way.partitions)
        store.create_table("t", list(COLUMNS.items()), list(Z_ORDER))
        batches = [events[first : first + way.batch] for first in range(0, len(events), way.batch)]
        for number, batch in enumerate(batches, 1):
            store.submit("t", store.prepare_insert("t", json.dumps(batch).encode())).result()
            if way.compacted == "after each" or (way.compacted == "half way" and number == len(batches) // 2):
                store.compact_all()
        if way.compacted == "at the end":
            store.compact_all()
        yield store, ViewCache(Path(directory))
        store.close()


def answer(way: Way, plan: Plan, store: Store, cache: ViewCache) -> Answer:
    max_rows = way.max_rows or plan.block_rows
    with store.pinned_snapshot("t") as snapshots:
        blocks = [block for snapshot in snapshots for block in cache.view(snapshot).blocks(max_rows)]
        return (merged_answer if way.several else engine_answer)(plan, blocks)


@pytest.mark.parametrize("number", range(TABLES))
def test_tables_that_came_about_differently_answer_alike(number: int) -> None:
    choices = Choices.seeded(f"tables {number}")
    people = make_people(choices)
    events = make_events(choices, people)
    any_order = bool(number % 2)
    if any_order:
        events = ordered_by_themselves(events)
    flat = [{**event, "attr": {"_": store_model.expanded(event["attr"])}} for event in events]
    block = whole(flat, people_of(events))
    expected: list[tuple[str, Answer]] = []
    while len(expected) < SCRIPTS_PER_TABLE:
        text = make_script(choices, Features.chosen(choices))
        try:
            expected.append((text, oracle_answer(parsed(text), [block])))
        except Skipped:
            continue
    for way in WAYS:
        with table(way, choices.shuffled(events) if any_order else events) as (store, cache):
            for text, oracle in expected:
                try:
                    found = answer(way, compile_plan(parsed(text)), store, cache)
                except Skipped:
                    continue
                problem = difference(oracle, found, partial(magnitudes_of, parsed(text), [block]))
                assert problem is None, f"{way}: {problem}\n{text}\n{json.dumps(events)}"
