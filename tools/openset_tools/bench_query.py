"""How long questions over a million events take: `python -m openset_tools.bench_query`.

Responsible for warm times as a client sees them, HTTP and JSON included: every script runs a few times unmeasured, then
often enough for a minimum and a median. Not a test: a machine's load decides the figures.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import click
import msgspec

from openset.client.connection import Connection
from openset.client.daemon import TemporaryDaemon
from openset.client.query import run_query
from openset_tools.bench_insert import insert_events
from openset_tools.sample_events import COLUMNS, Z_ORDER

TABLE = "bench"
_WARM_RUNS = 3

SCRIPTS = {
    "filter and pivot, distinct people": """\
agg:
    people
    count product as bought
match where action is 'purchase' and country in ['de', 'fr', 'nl']:
    tally(kind, product)
""",
    "next event: what is bought after a view": """\
agg:
    people
match where action is 'view':
    seen = kind
    iter_next()
    match 1 where action is 'purchase':
        tally(seen, kind)
""",
    "funnel: view, cart and purchase, each within a day": """\
agg:
    people
match 1 where action is 'view':
    tally('1 view')
    match 1 where action is 'cart' and iter_within(1 day, prev_match):
        tally('2 cart')
        match 1 where action is 'purchase' and iter_within(1 day, prev_match):
            tally('3 purchase')
""",
}


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=20_000, show_default=True, type=click.IntRange(min=1))
@click.option("--runs", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option("--settle", default=10.0, show_default=True, help="Seconds between loading and asking, for compaction.")
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(events: int, people: int, runs: int, partitions: int, settle: float, directory: Path) -> None:
    """Measure warm query times."""
    with TemporaryDaemon(partitions=partitions, parent=directory) as daemon, Connection(daemon.url) as connection:
        body = msgspec.json.encode({"columns": COLUMNS, "z-order": Z_ORDER})
        connection.request("POST", f"/v1/table/{TABLE}", body=body)
        seconds, _ = insert_events(daemon.url, TABLE, events, people, 5_000, clients=2)
        click.echo(f"{events:,} events of {people:,} people, loaded in {seconds:.1f} s, {partitions} partitions")
        time.sleep(settle)
        for name, script in SCRIPTS.items():
            answers = [run_query(connection, TABLE, script) for _ in range(_WARM_RUNS + runs)]
            times_ms = [answer.seconds * 1000 for answer in answers]
            warm = times_ms[_WARM_RUNS:]
            click.echo(
                f"{name}: min {min(warm):.1f} ms, median {statistics.median(warm):.1f} ms, first {times_ms[0]:.1f} ms "
                f"({len(answers[-1].nodes)} top keys)"
            )


if __name__ == "__main__":
    main()
