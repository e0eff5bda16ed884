"""What an insert costs the next questions: `python -m openset_tools.bench_overlay --directory build`.

One partition without a daemon, most of whose people have been touched since its file was written. After every insert
somebody asks for one person, somebody asks everyone, and a trigger runs for whom the insert touched. Responsible for
the processor times of these three, which other work on the machine hardly changes, and for what asking everyone takes
when nothing came in between. Shortcut: real inserts are split over partitions.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from openset.pyql.lanes.engine import EngineRun, compile_plan
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script
from openset.revent.evaluation import trigger_plan
from openset.store.fold import fold_events
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset.store.touched import TouchedPeople
from openset.store.views import ViewCache
from openset_tools.bench_insert import percentile
from openset_tools.sample_events import COLUMNS, FIRST_STAMP_MS, SPAN_MS, Z_ORDER, event_batches

TABLE = "bench"
SETTINGS = RunSettings(now_ms=1_700_000_000_000)
PIVOT = "match where action is 'purchase':\n    tally(country, device)\n"
TRIGGER = """\
def on_insert():
    n = 0
    match where action is 'purchase' and kind is 'toys':
        n = n + 1
    if n >= 5:
        emit('five')
"""
_LOADED = 20_000


@click.command()
@click.option("--events", default=1_200_000, show_default=True, type=click.IntRange(min=1), help="In the file.")
@click.option("--people", default=120_000, show_default=True, type=click.IntRange(min=1))
@click.option("--later", default=250_000, show_default=True, type=click.IntRange(min=1), help="Events above the file.")
@click.option("--batch", default=1_000, show_default=True, type=click.IntRange(min=1), help="Events of each insert.")
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(events: int, people: int, later: int, batch: int, rounds: int, directory: Path) -> None:
    """Measure one person, everyone and a trigger, each after an insert."""
    data_dir = Path(tempfile.mkdtemp(dir=directory, prefix="bench-overlay-"))
    store = Store.open(data_dir)
    try:
        store.initialise(1)
        store.create_table(TABLE, [(column["name"], column["type"]) for column in COLUMNS], Z_ORDER)
        for body in event_batches(events, people, _LOADED):
            _insert(store, body)
        store.compact_all()
        for body in event_batches(later, people, _LOADED, first_stamp_ms=FIRST_STAMP_MS + SPAN_MS):
            _insert(store, body)
        bodies = event_batches(batch * rounds, people, batch, first_stamp_ms=FIRST_STAMP_MS + 2 * SPAN_MS)
        asked = _Asked(store, people)
        click.echo(
            f"{events:,} events of {people:,} people in the file, {later:,} events above it; ms of the processor"
        )
        for name, times in asked.after_each(list(bodies)).items():
            marks = ", ".join(f"p{mark} {percentile(times, mark):.1f}" for mark in (50, 90, 99))
            click.echo(f"{name}: {marks}, max {times[-1]:.1f}")
    finally:
        store.close()
        shutil.rmtree(data_dir)


def _insert(store: Store, body: bytes) -> None:
    store.submit(TABLE, store.prepare_insert(TABLE, body)).result()


class _Asked:
    """Questions to a store, each to views of its own, so that none finds what another has put together."""

    def __init__(self, store: Store, people: int):
        self._store = store
        self._people = people
        types = store.table(TABLE).column_types
        self._pivot = compile_plan(parse_script(PIVOT, types))
        self._trigger = trigger_plan(TRIGGER, store.table(TABLE))
        self._person_views = ViewCache(store.data_dir)
        self._pivot_views = ViewCache(store.data_dir)
        self._touched = TouchedPeople(ViewCache(store.data_dir).reader, store.data_dir)
        self._number = 0
        self._run_to = self._snapshot.records.last_sequence
        self._one_person(self._snapshot)
        self._everyone(self._snapshot)
        self._wave(self._snapshot)

    @property
    def _snapshot(self) -> PartitionSnapshot:
        (snapshot,) = self._store.snapshot(TABLE)
        return snapshot

    def after_each(self, bodies: list[bytes]) -> dict[str, list[float]]:
        """The times of each question in ms, ascending."""
        found: dict[str, list[float]] = {}
        for body in bodies:
            _insert(self._store, body)
            snapshot = self._snapshot
            for name, question in (
                ("one person", self._one_person),
                ("everyone", self._everyone),
                ("everyone again", self._everyone),
                ("a trigger", self._wave),
            ):
                found.setdefault(name, []).append(_timed_ms(question, snapshot))
        return {name: sorted(times) for name, times in found.items()}

    def _one_person(self, snapshot: PartitionSnapshot) -> None:
        self._number = (self._number + 7_919) % self._people
        block = self._person_views.person_rows(snapshot, f"p{self._number}")
        if block is not None:
            fold_events(block)

    def _everyone(self, snapshot: PartitionSnapshot) -> None:
        EngineRun(self._pivot, SETTINGS).add(self._pivot_views.view(snapshot).blocks(self._pivot.block_rows))

    def _wave(self, snapshot: PartitionSnapshot) -> None:
        for wave in self._touched.waves(snapshot, self._run_to, {}):
            block = wave.touched.block(wave.people, snapshot.schema)
            if block is not None:
                trigger_actions(self._trigger, block, SETTINGS, "on_insert")
        self._run_to = snapshot.records.last_sequence


def _timed_ms(question: Callable[[PartitionSnapshot], None], snapshot: PartitionSnapshot) -> float:
    started = time.process_time()
    question(snapshot)
    return 1_000 * (time.process_time() - started)


if __name__ == "__main__":
    main()
