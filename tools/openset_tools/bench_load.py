"""What compactions cost while events come in: `python -m openset_tools.bench_load`.

A daemon takes events at a fixed rate through HTTP, every request acknowledged when it is on disk, while somebody asks
about one person again and again. Responsible for two figures. First the bytes the daemon wrote besides the journal, for
each byte of the journal and of the bodies, over the whole load. Then how late inserts and answers are on top of that
load: with compactions, and with none beside a plain program that writes and syncs one file as fast as compactions
did on average. Shortcut: what a daemon wrote is what Linux says its processes wrote (`/proc/PID/io`).
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from openset.client.connection import Connection, Refused, Unreachable
from openset.client.daemon import free_port
from openset.client.query import stored_counts
from openset_tools.bench_insert import percentile
from openset_tools.sample_events import COLUMNS, FIRST_STAMP_MS, SPAN_MS, Z_ORDER, event_batches

if TYPE_CHECKING:
    from multiprocessing.queues import Queue
    from multiprocessing.synchronize import Event

TABLE = "bench"
_SERVE = """
import json, sys
from openset.http.server import serve
from openset.store.compaction import Policy
options = json.loads(sys.argv[1])
never = Policy(floor_events=10**12, age_s=1e12, journal_bytes=10**15)
sys.exit(serve(**options, policy=None if sys.argv[2] == "compact" else never))
"""
_ASK_EVERY_S = 0.02
_LOOK_EVERY_S = 0.2
_START_S = 60.0
_SYNC_BYTES = 64 << 20
_WRITE_BYTES = 1 << 20
_MOST_FILE_BYTES = 1 << 30


@dataclass
class Load:
    """What a run was like. Latencies in seconds, ascending. seconds: from the first request to the last answer."""

    inserts: list[float]
    answers: list[float]
    seconds: float
    body_bytes: int
    journal_bytes: int
    written_bytes: int

    @property
    def rewritten_bytes(self) -> int:
        return self.written_bytes - self.journal_bytes


@dataclass(frozen=True)
class _Place:
    """directory: of all data. rate: events a second. batch: events a request."""

    directory: Path
    partitions: int
    people: int
    rate: int
    batch: int


@click.command()
@click.option("--events", default=10_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", type=click.IntRange(min=1), help="Default: one for ten events.")
@click.option("--rate", default=20_000, show_default=True, type=click.IntRange(min=1), help="Events a second.")
@click.option("--batch", default=1_000, show_default=True, type=click.IntRange(min=1), help="Events a request.")
@click.option("--partitions", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option(
    "--beside",
    default=60,
    show_default=True,
    type=click.IntRange(min=1),
    help="Seconds of each compared run.",
)
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(events: int, people: int | None, rate: int, batch: int, partitions: int, beside: int, directory: Path) -> None:
    """Measure write amplification, and what compactions do to inserts and answers."""
    people = people or max(1, events // 10)
    with tempfile.TemporaryDirectory(prefix="bench-load-", dir=directory) as name:
        place = _Place(Path(name), partitions, people, rate, batch)
        load = _run(place, "compact", events, FIRST_STAMP_MS)
        click.echo(
            f"{events:,} events in {load.seconds:.0f} s ({events / load.seconds:,.0f}/s): bodies "
            f"{_mb(load.body_bytes)}, journal {_mb(load.journal_bytes)}, rewritten {_mb(load.rewritten_bytes)}: "
            f"{load.rewritten_bytes / load.journal_bytes:.2f} bytes for each of the journal, "
            f"{load.rewritten_bytes / load.body_bytes:.2f} for each of the bodies"
        )
        bytes_per_s = int(load.rewritten_bytes / load.seconds)
        _show("compactions", _run(place, "compact", rate * beside, FIRST_STAMP_MS + SPAN_MS))
        plain = _run(place, "never", rate * beside, FIRST_STAMP_MS + 2 * SPAN_MS, bytes_per_s)
        _show(f"none, beside a plain writer of {bytes_per_s / 1e6:.0f} MB/s", plain)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"


def _show(what: str, load: Load) -> None:
    for name, found in (("insert", load.inserts), ("answer", load.answers)):
        marks = ", ".join(f"p{mark} {percentile(found, mark) * 1e3:.0f}" for mark in (50, 99))
        late = found[min(len(found) - 1, len(found) * 999 // 1000)]
        click.echo(f"{what}: {name} (ms) {marks}, p99.9 {late * 1e3:.0f}, max {found[-1] * 1e3:.0f} of {len(found):,}")


def _run(place: _Place, policy: str, events: int, first_stamp_ms: int, plain_bytes_per_s: int = 0) -> Load:
    """Starts a daemon on the data there are, and puts events on top."""
    context = multiprocessing.get_context("spawn")
    data = place.directory / "data"
    stop = context.Event()
    inserted: Queue[tuple[list[float], int]] = context.Queue()
    asked: Queue[list[float]] = context.Queue()
    with _serving(data, place.partitions, policy) as (process, url), Connection(url) as connection:
        before = _prepared(connection)
        written_before = _written_bytes(process.pid)
        journal = _JournalWatch(data / "journal")
        work = [
            context.Process(target=_insert, args=(url, place, events, first_stamp_ms, inserted), daemon=True),
            context.Process(target=_ask, args=(url, place.people, stop, asked), daemon=True),
        ]
        if plain_bytes_per_s:
            target = (place.directory / "plain", plain_bytes_per_s, stop)
            work.append(context.Process(target=_write_plainly, args=target, daemon=True))
        started = time.perf_counter()
        for one in work:
            one.start()
        inserts, body_bytes = inserted.get()
        seconds = time.perf_counter() - started
        stop.set()
        answers = asked.get()
        _quiet(process.pid)
        written = _written_bytes(process.pid) - written_before
        journal.close()
        stored, _ = stored_counts(connection, TABLE)
        if stored != before + events:
            raise click.ClickException(f"{before + events - stored:,} events are missing")
    return Load(sorted(inserts), sorted(answers), seconds, body_bytes, journal.total_bytes, written)


def _prepared(connection: Connection) -> int:
    """Makes the table where there is none. Returns how many events it has."""
    with suppress(Refused):
        definition = {"columns": COLUMNS, "z-order": Z_ORDER}
        connection.request("POST", f"/v1/table/{TABLE}", body=msgspec.json.encode(definition))
    return stored_counts(connection, TABLE)[0]


@contextmanager
def _serving(data: Path, partitions: int, policy: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    init = None if data.exists() else partitions
    options = {"data": str(data), "host": "127.0.0.1", "port": port, "init": init, "workers": None}
    command = [sys.executable, "-c", _SERVE, msgspec.json.encode(options).decode(), policy]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + _START_S
            while True:
                try:
                    with Connection(url) as connection:
                        connection.request("GET", "/ping")
                    break
                except Unreachable:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise
                    time.sleep(0.05)
            yield process, url
        finally:
            process.terminate()


def _insert(
    url: str, place: _Place, events: int, first_stamp_ms: int, inserted: Queue[tuple[list[float], int]]
) -> None:
    """Paced: a request that is late does not put off the next ones more than it has to."""
    latencies: list[float] = []
    body_bytes = 0
    with Connection(url) as connection:
        bodies = event_batches(events, place.people, place.batch, first_stamp_ms=first_stamp_ms)
        started = time.perf_counter()
        for number, body in enumerate(bodies):
            time.sleep(max(started + number * place.batch / place.rate - time.perf_counter(), 0))
            asked = time.perf_counter()
            connection.request("POST", f"/v1/insert/{TABLE}", body=body)
            latencies.append(time.perf_counter() - asked)
            body_bytes += len(body)
    inserted.put((latencies, body_bytes))


def _ask(url: str, people: int, stop: Event, asked: Queue[list[float]]) -> None:
    latencies: list[float] = []
    with Connection(url) as connection:
        number = 0
        while not stop.wait(_ASK_EVERY_S):
            number = (number + 7_919) % people
            started = time.perf_counter()
            with suppress(Refused):  # somebody who has not come yet
                connection.get(f"/v1/query/{TABLE}/person", {"sid": f"p{number}"})
            latencies.append(time.perf_counter() - started)
    asked.put(latencies)


def _write_plainly(path: Path, bytes_per_s: int, stop: Event) -> None:
    """One file from its start to its end, again and again, synced as a careful program does."""
    piece = os.urandom(_WRITE_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    started, written = time.perf_counter(), 0
    while not stop.wait(max(0.0, started + written / bytes_per_s - time.perf_counter())):
        os.pwrite(descriptor, piece, written % _MOST_FILE_BYTES)
        written += len(piece)
        if written % _SYNC_BYTES == 0:
            os.fsync(descriptor)


class _JournalWatch:
    """How many bytes went through the segments of a journal, which are removed behind compactions."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._sizes: dict[str, int] = {}
        self._before = {path.name: path.stat().st_size for path in directory.glob("*.journal")}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    @property
    def total_bytes(self) -> int:
        return sum(size - self._before.get(name, 0) for name, size in self._sizes.items())

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(_LOOK_EVERY_S)
            for path in self._directory.glob("*.journal"):
                try:
                    self._sizes[path.name] = path.stat().st_size
                except FileNotFoundError:
                    continue


def _quiet(pid: int) -> None:
    """Returns when the daemon has written nothing for two seconds."""
    before = -1
    while before != (now := _written_bytes(pid)):
        before = now
        time.sleep(2)


def _written_bytes(pid: int) -> int:
    """What a process and its children have had written to disk."""
    total = 0
    for one in _family(pid):
        for line in Path(f"/proc/{one}/io").read_text().splitlines():
            if line.startswith("write_bytes"):
                total += int(line.split()[1])
    return total


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from _family(int(child))


if __name__ == "__main__":
    main()
