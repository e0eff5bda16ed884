"""How many events per second a daemon takes in: `python -m openset_tools.bench_insert`.

Responsible for an honest figure: events go through HTTP as JSON, in batches, from several client processes, and each
is counted when the daemon has acknowledged it, which is after it is on disk. Bodies are made before the clock starts,
so that on a small machine the clients take little from the daemon.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from openset.client.connection import Connection
from openset.client.daemon import TemporaryDaemon
from openset.client.query import stored_counts
from openset.errors import OpenSetError
from openset_tools.sample_events import COLUMNS, Z_ORDER, event_batches

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

TABLE = "bench"


@click.command()
@click.option("--events", default=400_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=20_000, show_default=True, type=click.IntRange(min=1))
@click.option("--clients", default=2, show_default=True, type=click.IntRange(min=1), help="Client processes.")
@click.option("--batch", default=1_000, show_default=True, type=click.IntRange(min=1), help="Events a request.")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option("--url", help="A daemon that runs already; the table `bench` is made there. Default: start one.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path(),
    help="Where the started daemon's data goes; default: here, because /tmp may not be a disk.",
)
def main(events: int, people: int, clients: int, batch: int, partitions: int, url: str | None, directory: Path) -> None:
    """Measure events per second, durable, through HTTP."""
    if url:
        _measure(url, events, people, clients, batch)
        return
    with TemporaryDaemon(partitions=partitions, parent=directory) as daemon:
        _measure(daemon.url, events, people, clients, batch)


def _measure(url: str, events: int, people: int, clients: int, batch: int) -> None:
    with Connection(url) as connection:
        connection.request(
            "POST", f"/v1/table/{TABLE}", body=msgspec.json.encode({"columns": COLUMNS, "z-order": Z_ORDER})
        )
    seconds, latencies = insert_events(url, TABLE, events, people, batch, clients)
    ordered = sorted(latencies)
    click.echo(
        f"{events:,} events, {clients} clients, batches of {batch:,}: {seconds:.2f} s, {events / seconds:,.0f} events/s"
    )
    click.echo(
        f"acknowledged after (ms): median {statistics.median(ordered) * 1000:.1f}, "
        + ", ".join(f"p{percent} {percentile(ordered, percent) * 1000:.1f}" for percent in (90, 99))
        + f", max {ordered[-1] * 1000:.1f}"
    )
    with Connection(url) as connection:
        stored, _ = stored_counts(connection, TABLE)
    click.echo(f"a query counts {stored:,} events")
    if stored != events:
        raise click.ClickException(f"{events - stored:,} events are missing")


def insert_events(
    url: str, table: str, events: int, people: int, batch: int, clients: int
) -> tuple[float, list[float]]:
    """Inserts made-up events from client processes. Returns the seconds from first to last and every request's.

    Raises what a client raised: Refused, Unreachable.
    """
    context = multiprocessing.get_context("spawn")
    barrier: Barrier = context.Barrier(clients + 1)
    results: Queue[list[float] | OpenSetError] = context.Queue()
    shares = [events // clients + (1 if part < events % clients else 0) for part in range(clients)]
    processes = [
        context.Process(
            target=_client,
            args=(url, table, shares[part], people, batch, part, clients, barrier, results),
            daemon=True,
        )
        for part in range(clients)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    latencies: list[float] = []
    for _ in processes:
        result = results.get()
        if isinstance(result, OpenSetError):
            raise result
        latencies += result
    seconds = time.perf_counter() - started
    for process in processes:
        process.join()
    return seconds, latencies


def _client(
    url: str,
    table: str,
    events: int,
    people: int,
    batch: int,
    part: int,
    parts: int,
    barrier: Barrier,
    results: Queue[list[float] | OpenSetError],
) -> None:
    bodies = list(event_batches(events, people, batch, part=part, parts=parts))
    latencies: list[float] = []
    with Connection(url) as connection:
        barrier.wait()
        try:
            for body in bodies:
                started = time.perf_counter()
                connection.request("POST", f"/v1/insert/{table}", body=body)
                latencies.append(time.perf_counter() - started)
        except OpenSetError as error:
            results.put(error)
            return
    results.put(latencies)


def percentile(ordered: list[float], percent: int) -> float:
    """Of values in ascending order."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


if __name__ == "__main__":
    main()
