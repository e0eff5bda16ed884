"""What the people index costs and gives: `python -m openset_tools.bench_index --directory build`.

Responsible for figures without a daemon: the share of a compaction that building takes, the bytes of the files, and
times of queries that read everyone against those that ask the index. Not a test: a machine's load decides the figures.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from openset.pyql.lanes.engine import EngineRun, compile_plan, outcomes
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script
from openset.query.index_only import candidates, membership
from openset.query.pruning import few_candidates
from openset.store.store import Store
from openset.store.views import PartitionView, ViewCache
from openset_format.block import ColumnType
from openset_format.person_index import build_index
from openset_format.reader import ACTION_GROUP, PartitionFile
from openset_tools.sample_events import COLUMNS, Z_ORDER, event_batches

TABLE = "bench"
SETTINGS = RunSettings(now_ms=1_700_000_000_000)
CONDITIONS = (
    "kind is 'home'",
    "product is 'home-3'",
    "product is 'home-3' and action is 'purchase'",
    "campaign is 'c3' and page is 7",
    "product is 'home-3' and page is 7",
)
_QUERY = """\
agg:
    people
    count product as bought
match where {}:
    tally(kind, product)
    match 1 where action is 'purchase':
        tally(country)
"""


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=200_000, show_default=True, type=click.IntRange(min=1))
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(events: int, people: int, partitions: int, directory: Path) -> None:
    """Measure the people index."""
    data_dir = Path(tempfile.mkdtemp(dir=directory, prefix="bench-index-"))
    try:
        store = Store.open(data_dir)
        store.initialise(partitions)
        store.create_table(TABLE, [(column["name"], column["type"]) for column in COLUMNS], Z_ORDER)
        for body in event_batches(events, people, 20_000):
            store.submit(TABLE, store.prepare_insert(TABLE, body)).result()
        started = time.process_time()
        store.compact_all()
        compaction_s = time.process_time() - started
        click.echo(f"{events:,} events of {people:,} people, {partitions} partitions")
        _show_cost([PartitionFile.open(path) for path in data_dir.glob("tables/*/p*.h5")], compaction_s)
        cache = ViewCache(data_dir)
        views = [cache.view(snapshot) for snapshot in store.snapshot(TABLE)]
        for condition in CONDITIONS:
            _show_gain(condition, views, store.table(TABLE).column_types)
        store.close()
    finally:
        shutil.rmtree(data_dir)


def _show_cost(files: list[PartitionFile], compaction_s: float) -> None:
    index_bytes = file_bytes = 0
    building_s = 0.0
    for file in files:
        file_bytes += file.size_bytes
        index_bytes += sum(place.size_bytes for name, place in file.manifest.datasets.items() if "/index/" in name)
        person_of_row = np.repeat(np.arange(file.people, dtype=np.uint32), np.diff(file.row_start))
        started = time.process_time()
        for column in (file.column(ACTION_GROUP, "text"), *file.columns.values()):
            build_index(column, person_of_row)
        building_s += time.process_time() - started
    click.echo(
        f"compaction {compaction_s:.2f} s of processor time, building indexes {building_s:.2f} s of it "
        f"({building_s / compaction_s:.0%}); files {file_bytes:,} bytes, indexes {index_bytes / file_bytes:.1%} of them"
    )


def _show_gain(condition: str, views: list[PartitionView], types: dict[str, ColumnType]) -> None:
    script = parse_script(_QUERY.format(condition), types)
    plan, possible = compile_plan(script), candidates(script)
    assert possible is not None
    found = [possible.people(view, {}) for view in views]
    share = sum(len(people) for people in found if people is not None) / sum(len(view.present) for view in views)

    def run(pruned: bool) -> None:
        whole = EngineRun(plan, SETTINGS)
        for view in views:
            few = few_candidates(view, possible, SETTINGS) if pruned else None
            whole.add(view.blocks(plan.block_rows) if few is None else view.blocks_of(few, plan.block_rows))

    line = f"{condition}: {share:.2%} are candidates, events query {_best_ms(lambda: run(False)):.1f} ms"
    line += f", with the index {_best_ms(lambda: run(True)):.1f} ms"
    segment = parse_script(f"match where {condition}:\n    tally", types, segment=True)
    fact, segment_plan = membership(segment), compile_plan(segment)
    if fact is not None:

        def members() -> None:
            for view in views:
                for block in view.blocks(segment_plan.block_rows):
                    outcomes(segment_plan, block, SETTINGS)

        asked = _best_ms(lambda: [fact.people(view, {}) for view in views])
        line += f"; segment {_best_ms(members):.1f} ms, from the index {asked:.2f} ms"
    click.echo(line)


def _best_ms(action: Callable[[], Any], runs: int = 7) -> float:
    """The fastest of several runs after a warm one."""
    action()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
