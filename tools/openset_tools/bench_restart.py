"""How long after a restart a daemon answers its first query rightly: `python -m openset_tools.bench_restart`.

Measured from the start of the process to the answer of a query over everybody's events, over HTTP: after a clean
shutdown, and after SIGKILL in the middle of inserts. The page cache stays warm, as it does when only the daemon is
restarted, and Python's modules are compiled, as they are where pip installed them. Not a test: a machine's load decides
the figures.
"""

from __future__ import annotations

import compileall
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import msgspec

import openset
import openset_format
import openset_tools
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
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Leave the data in this directory and take those that are there, whatever --directory says.",
)
def main(
    events: int, people: int, partitions: int, batch: int, runs: int, directory: Path | None, keep: Path | None
) -> None:
    """Measures restarts of a daemon over made-up events."""
    _compile()
    with ExitStack() as stack:
        if keep is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openset-", dir=directory)))
        else:
            place = keep / f"restart-{events}-{people}-{partitions}"
        killed, compacted = place / "killed", place / "compacted"
        if not compacted.exists():
            shutil.rmtree(place, ignore_errors=True)
            _make(killed, events, people, partitions, batch)
            shutil.copytree(killed, place / "copy")
            with _serving(place / "copy", partitions) as (_, url):
                _until_it_answers(url, events)
                with Connection(url) as connection:
                    connection.request("POST", f"/v1/table/{TABLE}/compact")
            (place / "copy").rename(compacted)
        _say(killed, "after SIGKILL, right behind the inserts")
        _measure(killed, events, partitions, signal.SIGKILL, runs)
        _say(compacted, "after SIGTERM, compacted")
        _measure(compacted, events, partitions, signal.SIGTERM, runs)


def _compile() -> None:
    """Has Python keep the modules compiled, as pip does where it installs them. Of a source tree it may not have."""
    for package in (openset, openset_format, openset_tools):
        for directory in package.__path__:
            compileall.compile_dir(directory, quiet=1)


def _make(data: Path, events: int, people: int, partitions: int, batch: int) -> None:
    """A data directory as it is after SIGKILL behind the inserts."""
    data.parent.mkdir(parents=True)
    with _serving(data, partitions) as (process, url):
        _until_it_answers(url, None)
        with Connection(url) as connection:
            definition = {"columns": COLUMNS, "z-order": Z_ORDER}
            connection.request("POST", f"/v1/table/{TABLE}", body=msgspec.json.encode(definition))
        insert_events(url, TABLE, events, people, batch, 2)
        # No compaction has had its time: as much as there can be is in the journal.
        process.kill()
        process.wait()


def _measure(data: Path, events: int, partitions: int, end: signal.Signals, runs: int) -> None:
    """Restarts; each daemon is ended by this signal. The first only warms up what all of them read."""
    opened, answered = [], []
    for _ in range(runs + 1):
        started = time.perf_counter()
        with _serving(data, partitions) as (process, url):
            opened.append(_until_it_answers(url, None) - started)
            answered.append(_until_it_answers(url, events) - started)
            process.send_signal(end)
            process.wait()
    for http, answer in zip(opened[1:], answered[1:], strict=True):
        click.echo(f"  HTTP {http:.2f} s, the first right answer {answer:.2f} s")
    http, answer = statistics.median(opened[1:]), statistics.median(answered[1:])
    worst = f"at best {min(answered[1:]):.2f} s, at worst {max(answered[1:]):.2f} s"
    click.echo(f"  median: HTTP {http:.2f} s, the first right answer {answer:.2f} s, {worst}")


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
