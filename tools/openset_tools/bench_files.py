"""What a partition file takes and costs: `python -m openset_tools.bench_files`.

Responsible for figures on one table in one partition, made by `openset import` from made-up events: bytes column by
column beside the same events as Parquet with zstd; opening; a scan of an int column through the map beside numpy's own
map of the same bytes, and a scan of stored and of decoded doubles; a compaction, with the memory it allocates.
Shortcut: the file is in the page cache.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np

from openset.store.store import Store
from openset_format.reader import PartitionFile
from openset_tools.bench_import import allocated_bytes, write_events
from openset_tools.sample_events import COLUMNS, Z_ORDER

TABLE = "bench"
_BLOCK_ROWS = 1 << 16
_RUNS = 15
_COMPACTION = """
import pickle, sys
from openset.store.compaction import compact
compact(pickle.load(open(sys.argv[1], "rb")))
"""


@click.command()
@click.option("--events", default=10_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", type=click.IntRange(min=1), help="Default: one for ten events.")
@click.option(
    "--directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path(), help="For the data."
)
def main(events: int, people: int | None, directory: Path) -> None:
    """Measure size, opening, scans and compaction of a partition file."""
    with tempfile.TemporaryDirectory(prefix="bench-files-", dir=directory) as name:
        place = Path(name)
        source, data = place / "events.parquet", place / "data"
        write_events(source, "parquet", events, people or max(1, events // 10))
        with closing(Store.open(data)) as store:
            store.initialise(1)
            store.create_table(TABLE, [(column["name"], column["type"]) for column in COLUMNS], Z_ORDER)
        started = time.perf_counter()
        command = [sys.executable, "-m", "openset.cli", "import", str(data), TABLE, str(source), "--json"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        click.echo(f"import of {events:,} events: {time.perf_counter() - started:.1f} s")
        path = next(data.glob("tables/*/p0000.h5"))
        _sizes(path, source, place / "zstd.parquet")
        _opening(path)
        _scans(path)
        _compaction(data, place / "task")


def _sizes(path: Path, source: Path, zstd: Path) -> None:
    import pyarrow.parquet as parquet

    parquet.write_table(parquet.read_table(source), zstd, compression="zstd")
    metadata = parquet.ParquetFile(zstd).metadata
    beside: Counter[str] = Counter()
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            beside[chunk.path_in_schema] += chunk.total_compressed_size
    file = PartitionFile.open(path)
    names = {f"/columns/{number + 1}": str(column["name"]) for number, column in enumerate(COLUMNS)}
    names |= {"/events/action": "action", "/events/stamp": "stamp", "/persons": "person"}
    parts: dict[str, Counter[str]] = {name: Counter() for name in names.values()}
    for dataset, dataset_place in file.manifest.datasets.items():
        name = next((names[group] for group in names if dataset.startswith(f"{group}/") or dataset == group), "other")
        parts.setdefault(name, Counter())["/".join(dataset.split("/")[3:]) or "values"] += dataset_place.size_bytes
    click.echo(
        f"partition file {file.size_bytes / 1e6:.1f} MB, Parquet with zstd {zstd.stat().st_size / 1e6:.1f} MB: "
        f"{file.size_bytes / zstd.stat().st_size:.2f} times"
    )
    for name, sizes in parts.items():
        shown = ", ".join(f"{part} {size / 1e6:.1f}" for part, size in sizes.most_common() if size > 50_000)
        click.echo(f"  {name:<9} {sum(sizes.values()) / 1e6:6.1f} MB ({shown}); Parquet {beside[name] / 1e6:.1f}")


def _opening(path: Path) -> None:
    open_ms = _best_ms(lambda: PartitionFile.open(path))
    click.echo(f"open: {open_ms:.2f} ms; with one column and the people {_best_ms(lambda: _touch(path)):.2f} ms")


def _touch(path: Path) -> Any:
    file = PartitionFile.open(path)
    return file.columns[9].values[0], file.persons[0]


def _scans(path: Path) -> None:
    file = PartitionFile.open(path)
    for column_id, name in ((9, "page"), (6, "price")):
        stored = file.columns[column_id]
        place = file.manifest.datasets[f"/columns/{column_id}/values"]
        plain = np.memmap(path, dtype=place.dtype, mode="r", offset=place.offset, shape=(place.count,))
        wide = stored[:].values
        click.echo(
            f"sum of {name} ({place.dtype}): through the map {_best_ms(stored.values.sum):.2f} ms, "
            f"np.memmap {_best_ms(plain.sum):.2f} ms; in blocks of {_BLOCK_ROWS:,} rows: decoded "
            f"{_best_ms(partial(_block_sum, stored.decoded, file.rows)):.2f} ms, "
            f"of full width in memory {_best_ms(partial(_block_sum, wide.__getitem__, file.rows)):.2f} ms"
        )


def _block_sum(values: Callable[[slice], Any], rows: int) -> float:
    return sum(float(values(slice(start, start + _BLOCK_ROWS)).sum()) for start in range(0, rows, _BLOCK_ROWS))


def _best_ms(run: Callable[[], Any]) -> float:
    found = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        run()
        found.append(time.perf_counter() - started)
    return min(found) * 1e3


def _compaction(data: Path, task_path: Path) -> None:
    """A thousand new people make the whole partition be written again."""
    with closing(Store.open(data)) as store:
        new = [{"person": f"new{i}", "action": "view", "stamp": 1_700_000_000_000 + i} for i in range(1_000)]
        store.submit(TABLE, store.prepare_insert(TABLE, json.dumps(new).encode())).result()
        task = store.compactions.next(forced=True)
        assert task is not None
        task_path.write_bytes(pickle.dumps(task))
        allocated = resident = 0
        started = time.perf_counter()
        with subprocess.Popen([sys.executable, "-c", _COMPACTION, str(task_path)]) as process:
            while process.poll() is None:
                allocated = max(allocated, allocated_bytes(process.pid))
                resident = max(resident, _peak_resident_bytes(process.pid))
                time.sleep(0.005)
        seconds = time.perf_counter() - started
        store.compactions.give_up(task)
    if process.returncode:
        raise click.ClickException("the compaction failed")
    click.echo(
        f"compaction: {seconds:.1f} s, at most {allocated / 1e6:,.0f} MB allocated (RssAnon), "
        f"{resident / 1e6:,.0f} MB resident (VmHWM: with the mapped file and the libraries)"
    )


def _peak_resident_bytes(pid: int) -> int:
    """The most a process has had in memory so far, mapped files included."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0  # it has just ended


if __name__ == "__main__":
    main()
