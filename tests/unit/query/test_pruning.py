"""Queries about few people read only theirs, and answer as if they had read everyone's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pyroaring import BitMap
from support import store_model as model

from openset.pyql.settings import RunSettings
from openset.query import pruning
from openset.query.events import EventsAnswer, EventsWork
from openset.query.membership import script_members
from openset.query.result import Order, compared_tree
from openset.query.work import WorkerState, sections_of
from openset.store.members import Compared, SegmentRef
from openset.store.store import Store
from openset.store.views import PartitionView
from openset_format.membership import write_membership

PEOPLE = 200
SETTINGS = RunSettings(now_ms=10**12, parameters={"wanted": "green"})
SCRIPT = """\
agg:
    people
    count stamp as events
match where {}:
    tally(action)
    match where units is 1:
        tally('one', size)
"""


def events_of(person: int, colour: str) -> list[dict[str, Any]]:
    return [
        {
            "person": person,
            "stamp": 10**12 + step,
            "action": ["view", "cart"][step % 2],
            "attr": {"colour": colour, "size": "s" if step % 3 else "m", "units": (person + step) % 4},
        }
        for step in range(12)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Most are red, people 7, 8 and 9 green, in the file; 9 becomes blue and 10 green in the overlay; 300 is new."""
    store = model.new_store(tmp_path_factory.mktemp("data"), 1)
    for person in range(PEOPLE):
        model.insert(store, events_of(person, "green" if person in (7, 8, 9) else "red"))
    store.compact_all()
    model.insert(store, events_of(9, "blue") + events_of(10, "green")[:1] + events_of(300, "green"))
    yield store
    store.close()


@pytest.fixture
def state(store: Store) -> WorkerState:
    return WorkerState(store.data_dir)


class Reads:
    """Which way Blocks were asked for, and how many people they had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.everyone = 0
        self.few: list[int] = []
        whole, some = PartitionView.blocks, PartitionView.blocks_of

        def blocks(view: PartitionView, *rest: Any) -> Any:
            self.everyone += 1
            return whole(view, *rest)

        def blocks_of(view: PartitionView, people: BitMap, *rest: Any) -> Any:
            self.few.append(len(people))
            return some(view, people, *rest)

        monkeypatch.setattr(PartitionView, "blocks", blocks)
        monkeypatch.setattr(PartitionView, "blocks_of", blocks_of)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


def answer(store: Store, state: WorkerState, where: str, compared: Compared | None, info: bool = False) -> EventsAnswer:
    work = EventsWork(SCRIPT.format(where), store.table("t"), store.snapshot("t"), SETTINGS, info, compared)
    return work.run(state).result


def shown(found: EventsAnswer) -> Any:
    return compared_tree(found.partials, Order(None, True, None))


@pytest.mark.parametrize(
    ("where", "few"),
    [
        ("colour is 'green'", 4),
        ("colour is {{wanted}}", 4),
        ("event_time > 0 and colour is 'green' and action is 'cart'", 4),
        ("colour is 'blue' or colour is 'violet'", 1),
        ("colour is 'violet'", 0),
        ("colour is 'red'", None),
        ("colour is 'green' or action is 'view'", None),
        ("colour != 'red'", None),
    ],
)
def test_events_of_few_people(
    store: Store, state: WorkerState, reads: Reads, monkeypatch: pytest.MonkeyPatch, where: str, few: int | None
) -> None:
    found = shown(answer(store, state, where, None))
    assert (reads.few, reads.everyone) == (([], 1) if few is None else ([few], 0))
    monkeypatch.setattr(pruning, "FEW_PEOPLE", -1)
    assert found == shown(answer(store, state, where, None))
    assert reads.everyone == (2 if few is None else 1)


def test_info_counts_everyone_the_answer_is_about(store: Store, state: WorkerState) -> None:
    found = answer(store, state, "colour is 'green'", None, info=True)
    assert (found.people, found.events, found.rows) == (PEOPLE + 1, 12 * (PEOPLE + 1), 12 * (PEOPLE + 1))


def stored(store: Store, state: WorkerState, name: str, people: list[int]) -> SegmentRef:
    """A segment of these people, among them one who came later than everybody known."""
    ids = state.views.view(store.snapshot("t")[0]).persons
    ordinals = [ordinal for person in people if (ordinal := ids.index(person)) is not None]
    path = store.data_dir / name
    if not path.exists():
        write_membership(path, b"{}", {0: BitMap([*ordinals, 100_000]).serialize()})
    return SegmentRef(name, Path(name))


def test_segments_of_few_people(
    store: Store, state: WorkerState, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = stored(store, state, "one", [3, 9, 10, 300]), stored(store, state, "other", [3, 4])
    everyone = stored(store, state, "all", list(range(PEOPLE)))
    cases: list[tuple[str, Compared, list[int]]] = [
        ("colour is 'red'", [one], [5]),
        ("units > 0", [one, other], [6]),
        ("colour is 'green'", [one, None], [4]),
        ("units > 0", [one, None], []),
        ("units > 0", [one, everyone], []),
    ]
    for where, compared, few in cases:
        reads.few.clear()
        found = answer(store, state, where, compared, info=True)
        assert reads.few == few
        with monkeypatch.context() as patch:
            patch.setattr(pruning, "FEW_PEOPLE", -1)
            read = answer(store, state, where, compared, info=True)
        assert shown(found) == shown(read)
        assert (found.people, found.events, found.rows) == (read.people, read.events, read.rows)


SECTIONS = """\
@segment known:
    match where colour is 'green':
        tally
@segment few:
    match where colour is 'green' and units is 1:
        tally
@segment many:
    match where colour != 'green' and units is 1:
        tally
"""


def test_segment_scripts_read_as_little_as_they_can(
    store: Store, state: WorkerState, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections = sections_of(SECTIONS, store.table("t"))
    view = state.views.view(store.snapshot("t")[0])
    members, scanned = script_members(view, sections, SETTINGS, measure=True)
    assert reads.few == [4] and reads.everyone == 2
    assert scanned.events == 12 * (PEOPLE + 1)
    monkeypatch.setattr(pruning, "FEW_PEOPLE", -1)
    assert members == script_members(view, sections, SETTINGS)[0]
    reads.everyone = 0
    known, scanned = script_members(view, sections[:1], SETTINGS, measure=True)
    assert known == members[:1] and scanned.events == 0
    assert (reads.few, reads.everyone) == ([4], 0)
