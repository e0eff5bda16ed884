"""How long column queries over many people take: `python -m openset_tools.bench_column`.

Responsible for warm times as a client sees them, HTTP and JSON included, over one event per person and a bit, in a text
column of a few hundred values, and in columns of numbers. Not a test: a machine's load decides the figures.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from openset.client.connection import Connection
from openset.client.daemon import TemporaryDaemon

TABLE = "bench"
COLUMNS = [
    {"name": "city", "type": "text"},
    {"name": "page", "type": "text"},
    {"name": "age", "type": "int"},
    {"name": "spent", "type": "double"},
]
_WARM_RUNS = 3
_BATCH = 20_000
_FIRST_STAMP_MS = 1_700_000_000_000
_PAGES = 20_000

QUERIES: dict[str, tuple[str, dict[str, str]]] = {
    "text of few hundred values": ("city", {}),
    "the same, the ten most frequent": ("city", {"trim": "10"}),
    "the same, a pattern": ("city", {"rx": "^city-1.*5$"}),
    "text of 20,000 values, the ten most frequent": ("page", {"trim": "10"}),
    "integers": ("age", {}),
    "doubles in buckets": ("spent", {"bucket": "10"}),
    "action": ("action", {}),
    "session": ("session", {}),
}


def batches(people: int, events: int, values: int) -> Iterator[bytes]:
    """JSON arrays of events; every person has one, the others are spread over them by chance."""
    source = random.Random(7)
    for first in range(0, events, _BATCH):
        texts = []
        for number in range(first, min(first + _BATCH, events)):
            person = number if number < people else source.randrange(people)
            texts.append(
                f'{{"person":{person},"stamp":{_FIRST_STAMP_MS + number * 1_000},"action":"a{number % 5}",'
                f'"attr":{{"city":"city-{source.randrange(values)}","page":"page-{source.randrange(_PAGES)}",'
                f'"age":{source.randrange(100)},"spent":{source.randrange(100_000) / 100}}}}}'
            )
        yield ("[" + ",".join(texts) + "]").encode()


@click.command()
@click.option("--people", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--events", default=2_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--values", default=500, show_default=True, type=click.IntRange(min=1), help="Of the text column.")
@click.option("--runs", default=20, show_default=True, type=click.IntRange(min=1))
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option("--settle", default=20.0, show_default=True, help="Seconds between loading and asking, for compaction.")
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(people: int, events: int, values: int, runs: int, partitions: int, settle: float, directory: Path) -> None:
    """Measure warm column queries."""
    with TemporaryDaemon(partitions=partitions, parent=directory) as daemon, Connection(daemon.url) as connection:
        connection.request("POST", f"/v1/table/{TABLE}", body=msgspec.json.encode({"columns": COLUMNS}))
        started = time.perf_counter()
        for body in batches(people, events, values):
            connection.request("POST", f"/v1/insert/{TABLE}", body=body)
        seconds = time.perf_counter() - started
        click.echo(f"{events:,} events of {people:,} people, loaded in {seconds:.1f} s, {partitions} partitions")
        time.sleep(settle)
        for name, (column, parameters) in QUERIES.items():
            times_ms: list[float] = []
            for _ in range(_WARM_RUNS + runs):
                started = time.perf_counter()
                answer = connection.get(f"/v1/query/{TABLE}/column/{column}", parameters)
                times_ms.append(1_000 * (time.perf_counter() - started))
            root = answer["_"][0]
            warm = times_ms[_WARM_RUNS:]
            click.echo(
                f"{name}: min {min(warm):.1f} ms, median {statistics.median(warm):.1f} ms, first {times_ms[0]:.1f} ms "
                f"({root['c'][0]:,} people, {len(root['_']):,} values)"
            )


if __name__ == "__main__":
    main()
