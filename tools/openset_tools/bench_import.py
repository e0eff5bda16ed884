"""How many events per second `openset import` takes in: `python -m openset_tools.bench_import`.

Responsible for an honest figure: the command itself in a process of its own, start and last sync included, into an
empty directory with a table that is there, and the memory of all its processes together (what they allocated; mapped
files not counted), looked at every 50 ms. Sources are made before the clock starts.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from openset.store.store import Store
from openset_tools.sample_events import COLUMNS, Z_ORDER, event_batches

TABLE = "bench"
FORMATS = ("ndjson", "csv", "parquet")
_BATCH = 20_000


@click.command()
@click.option("--events", default=2_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", type=click.IntRange(min=1), help="Default: one for ten events.")
@click.option("--partitions", default=8, show_default=True, type=click.IntRange(1, 1000))
@click.option("--format", "formats", multiple=True, type=click.Choice(FORMATS), help="Default: all.")
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(events: int, people: int | None, partitions: int, formats: Sequence[str], directory: Path) -> None:
    """Measure events per second and memory of an import, by format."""
    for kind in formats or FORMATS:
        with tempfile.TemporaryDirectory(prefix="bench-import-", dir=directory) as place:
            source = Path(place) / f"events.{kind}"
            write_events(source, kind, events, people or max(1, events // 10))
            data = Path(place) / "data"
            store = Store.open(data)
            store.initialise(partitions)
            store.create_table(TABLE, [(column["name"], column["type"]) for column in COLUMNS], Z_ORDER)
            store.close()
            seconds, peak_bytes = _measure([str(data), TABLE, str(source)], events)
            click.echo(
                f"{kind}: {events:,} events, {source.stat().st_size / 1e6:,.0f} MB: {seconds:.2f} s, "
                f"{events / seconds:,.0f} events/s, at most {peak_bytes / 1e6:,.0f} MB of memory"
            )
            shutil.rmtree(data)


def _measure(arguments: Sequence[str], events: int) -> tuple[float, int]:
    """Seconds from start to end of the command, and the most bytes that its processes had together."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "openset.cli", "import", *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, allocated_bytes(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - started
        assert process.stdout is not None
        answer = process.stdout.read()
    if process.returncode or json.loads(answer)["accepted"] != events:
        raise click.ClickException(f"the import failed: {answer}")
    return seconds, peak_bytes


def allocated_bytes(pid: int) -> int:
    """What a process and its children have allocated now."""
    total_bytes = 0
    try:
        pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        for one in pids:
            for line in Path(f"/proc/{one}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    total_bytes += int(line.split()[1]) * 1024
    except OSError:
        pass  # It has just ended.
    return total_bytes


def write_events(path: Path, kind: str, events: int, people: int) -> None:
    """A file of made-up events."""
    if kind == "ndjson":
        with path.open("wb") as file:
            for batch in event_batches(events, people, _BATCH):
                file.write(batch[1:-1].replace(b'}},{"person"', b'}}\n{"person"') + b"\n")
    elif kind == "csv":
        with path.open("w", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(["person", "stamp", "action", *(column["name"] for column in COLUMNS)])
            for rows in _rows(events, people):
                writer.writerows(row.values() for row in rows)
    else:
        import pyarrow
        import pyarrow.parquet

        writer_of_groups = None
        for rows in _rows(events, people):
            table = pyarrow.Table.from_pylist(rows)
            writer_of_groups = writer_of_groups or pyarrow.parquet.ParquetWriter(path, table.schema)
            writer_of_groups.write_table(table)
        if writer_of_groups is not None:
            writer_of_groups.close()


def _rows(events: int, people: int) -> Iterator[list[dict[str, Any]]]:
    for batch in event_batches(events, people, 10 * _BATCH):
        yield [
            {name: event[name] for name in ("person", "stamp", "action")} | event["attr"]
            for event in msgspec.json.decode(batch)
        ]


if __name__ == "__main__":
    main()
