"""How long segments take over a million people: `python -m openset_tools.bench_segments`.

Responsible for warm times as a client sees them, HTTP, JSON and the sync of what is stored included: segments from
scripts, set algebra over three stored segments, a query that compares them. Not a test: a machine's load decides the
figures.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from openset.client.connection import Connection
from openset.client.daemon import TemporaryDaemon
from openset.client.query import Answer, run_query

TABLE = "bench"
_WARM_RUNS = 3
_BATCH = 20_000
_FIRST_STAMP_MS = 1_700_000_000_000
_COLUMNS = [{"name": "product", "type": "text"}, {"name": "units", "type": "int"}]

STORED = """\
@segment buyers:
    match where action is 'purchase':
        tally
@segment many_units:
    match where units > 60:
        tally
@segment mugs:
    match where product is 'p3' and units < 50:
        tally
"""
ALGEBRA = """\
@segment answer:
    union(intersection(buyers, many_units), difference(mugs, buyers), complement(many_units))
"""
COMPARE = """\
agg:
    people
match:
    tally(action)
"""


@click.command()
@click.option("--people", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=40, show_default=True, type=click.IntRange(min=1))
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option("--settle", default=10.0, show_default=True, help="Seconds between loading and asking, for compaction.")
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(people: int, runs: int, partitions: int, settle: float, directory: Path) -> None:
    """Measure segments: from scripts, by set algebra, compared."""
    with TemporaryDaemon(partitions=partitions, parent=directory) as daemon, Connection(daemon.url) as connection:
        connection.request("POST", f"/v1/table/{TABLE}", body=msgspec.json.encode({"columns": _COLUMNS}))
        started = time.perf_counter()
        for body in event_batches(people):
            connection.request("POST", f"/v1/insert/{TABLE}", body=body)
        click.echo(f"{people:,} people with an event each, loaded in {time.perf_counter() - started:.1f} s")
        time.sleep(settle)
        _measure("three segments from scripts", runs, lambda: run_query(connection, TABLE, STORED, None, "counts"))
        _measure("set algebra over them", runs, lambda: run_query(connection, TABLE, ALGEBRA, None, "counts"))
        compared = {"segments": "*,buyers,many_units,mugs"}
        _measure("query, everyone", runs, lambda: run_query(connection, TABLE, COMPARE))
        _measure("query, everyone and them compared", runs, lambda: run_query(connection, TABLE, COMPARE, compared))


def event_batches(people: int) -> Iterator[bytes]:
    """JSON arrays of one event a person, the same for the same number."""
    chance = random.Random(2_017)
    for first in range(0, people, _BATCH):
        yield msgspec.json.encode([_event(chance, person) for person in range(first, min(first + _BATCH, people))])


def _event(chance: random.Random, person: int) -> dict[str, object]:
    return {
        "person": person,
        "stamp": _FIRST_STAMP_MS + person,
        "action": chance.choice(("view", "cart", "purchase")),
        "attr": {"product": f"p{chance.randrange(7)}", "units": chance.randrange(100)},
    }


def _measure(name: str, runs: int, ask: Callable[[], Answer]) -> None:
    answers = [ask() for _ in range(_WARM_RUNS + runs)]
    times_ms = [answer.seconds * 1000 for answer in answers]
    warm = times_ms[_WARM_RUNS:]
    click.echo(
        f"{name}: min {min(warm):.1f} ms, median {statistics.median(warm):.1f} ms, first {times_ms[0]:.1f} ms"
    )  # fmt: skip


if __name__ == "__main__":
    main()
