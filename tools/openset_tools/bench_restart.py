"""How long after a restart a daemon answers its first query rightly: `python -m openset_tools.bench_restart`.

Measured from the start of the process to the answer of a query over everybody's events, over HTTP: after a clean
shutdown, and after SIGKILL in the middle of inserts. The page cache stays warm, as it does when only the daemon is
restarted. Not a test: a machine's load decides the figures.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from openset.client.connection import Connection, Unreachable
from openset.client.daemon import free_port
from openset.client.query import stored_counts
from openset_tools.bench_insert import insert_events
from openset_tools.sample_events import COLUMNS, Z_ORDER

TABLE = "bench"
_ATTEMPT_SECONDS = 0.01
_MOST_SECONDS = 600.0


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=100_000, show_default=True, type=click.IntRange(min=1))
@click.option("--partitions", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option("--batch", default=5_000, show_default=True, type=click.IntRange(1, 1_000_000), help="Events a request.")
@click.option("--runs", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False, exists=True), help="For the data.")
def main(events: int, people: int, partitions: int, batch: int, runs: int, directory: Path | None) -> None:
    """Measures restarts of a daemon over made-up events."""
    with tempfile.TemporaryDirectory(prefix="openset-", dir=directory) as place:
        data = Path(place) / "data"
        with _serving(data, partitions) as (process, url):
            _until_it_answers(url, None)
            with Connection(url) as connection:
                definition = {"columns": COLUMNS, "z-order": Z_ORDER}
                connection.request("POST", f"/v1/table/{TABLE}", body=msgspec.json.encode(definition))
                stored_counts(connection, TABLE)  # what this process needs for it is loaded before it is measured
            insert_events(url, TABLE, events, people, batch, 2)
            # No compaction has had its time: as much as there can be is in the journal.
            process.kill()
            process.wait()
        _say(data, "after SIGKILL, right behind the inserts")
        for _ in range(runs):
            _measure(data, events, partitions, signal.SIGKILL)
        with _serving(data, partitions) as (_, url):
            _until_it_answers(url, events)
            with Connection(url) as connection:
                connection.request("POST", f"/v1/table/{TABLE}/compact")
        _say(data, "after SIGTERM, compacted")
        for _ in range(runs):
            _measure(data, events, partitions, signal.SIGTERM)


def _measure(data: Path, events: int, partitions: int, end: signal.Signals) -> None:
    started = time.perf_counter()
    with _serving(data, partitions) as (process, url):
        opened = _until_it_answers(url, None) - started
        answered = _until_it_answers(url, events) - started
        process.send_signal(end)
        process.wait()
    click.echo(f"  HTTP {opened:.2f} s, the first right answer {answered:.2f} s")


def _say(data: Path, what: str) -> None:
    journal = sum(path.stat().st_size for path in (data / "journal").iterdir())
    files = sum(path.stat().st_size for path in data.rglob("*.h5"))
    click.echo(f"{what}: journal {journal / 1e6:,.0f} MB, partition files {files / 1e6:,.0f} MB")


@contextmanager
def _serving(data: Path, partitions: int) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A daemon that was just started, whether it answers yet or not; at the end its process is over."""
    port = free_port()
    command = [sys.executable, "-m", "openset.cli", "serve", "--data", str(data), "--port", str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENSET_")}
    with (data.parent / "daemon.log").open("ab") as log:
        process = subprocess.Popen([*command, "--init", str(partitions)], stderr=log, stdout=log, env=environment)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _until_it_answers(url: str, events: int | None) -> float:
    """When (perf_counter) the daemon answered at all, or with so many events. Raises ClickException."""
    deadline = time.monotonic() + _MOST_SECONDS
    while time.monotonic() < deadline:
        try:
            with Connection(url, timeout_seconds=_MOST_SECONDS) as connection:
                if events is None:
                    connection.get("/ping")
                    return time.perf_counter()
                stored, _ = stored_counts(connection, TABLE)
        except Unreachable:
            time.sleep(_ATTEMPT_SECONDS)
            continue
        if stored != events:
            raise click.ClickException(f"{stored:,} events instead of {events:,}")
        return time.perf_counter()
    raise click.ClickException("the daemon does not answer")


if __name__ == "__main__":
    main()
