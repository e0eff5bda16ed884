"""What is exported is what was inserted: inserted again it gives the same people, events and rows."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.ipc
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from support.daemon import Daemon

from openset.cli import main
from openset.store.fold import fold_events
from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.reader import PartitionFile

COLUMNS = [("page", "text"), ("price", "double"), ("count", "int"), ("member", "bool"), ("event", "text")]
EVENTS: list[dict[str, Any]] = [
    {"person": "ann", "stamp": 1_700_000_000_000, "action": "view", "attr": {"page": 'ho"me,\nü', "count": 1}},
    {"person": "ann", "stamp": 1_700_000_000_000, "action": "buy", "attr": {"_": [{"page": "a"}, {"count": 5}]}},
    {"person": "ann", "stamp": 1_700_000_000_001, "action": "buy", "attr": {"page": ["x", "y"], "price": [1.5, 2.0]}},
    {"person": "7", "stamp": 1_700_000_000_002, "action": "view", "attr": {"member": True, "event": ""}},
    {"person": 7, "stamp": 1_700_000_000_002, "action": "view", "attr": {"member": False}},
    {"person": 7, "stamp": "1970-01-02T00:00:00.005Z", "action": "old"},
]
LATER: list[dict[str, Any]] = [
    {"person": f"p{number}", "stamp": 1_700_000_000_003 + number, "action": "view", "attr": {"count": number}}
    for number in range(40)
] + [{"person": "ann", "stamp": 1_700_000_100_000, "action": "late"}]


def make(data: Path, *batches: bytes) -> Path:
    """A data directory with the batches, all but the last of them in files."""
    store = Store.open(data)
    store.initialise(3)
    store.create_table("shop", COLUMNS, ["view", "buy"])
    for number, batch in enumerate(batches):
        store.submit("shop", store.prepare_insert("shop", batch, newline_delimited=batch[:1] == b"{")).result()
        if number + 1 < len(batches):
            store.compact_all()
    store.close()
    return data


def people_of(data: Path) -> dict[Any, Any]:
    """Every person's events."""
    store, cache, found = Store.open(data), ViewCache(data), {}
    for snapshot in store.snapshot("shop"):
        for block in cache.blocks(snapshot):
            for person in block.runnable.tolist():
                found[block.person_id(person)] = fold_events(block.part(person, person + 1))
    store.close()
    return found


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return make(tmp_path / "data", json.dumps(EVENTS).encode(), json.dumps(LATER).encode())


def test_ndjson_inserted_again_gives_the_same(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ndjson"
    assert run("export", data_dir, "shop", "--output", output).exit_code == 0
    assert len(output.read_bytes().splitlines()) == len(EVENTS) + len(LATER)
    again = make(tmp_path / "again", output.read_bytes())
    assert people_of(again) == people_of(data_dir)
    assert len(people_of(again)) == 43
    # Again from a directory whose events are all in the journal.
    assert sorted(run("export", again, "shop").stdout_bytes.splitlines()) == sorted(output.read_bytes().splitlines())
    assert list(tmp_path.glob("*.partial")) == []


def test_csv_has_a_line_per_row(data_dir: Path) -> None:
    text = run("export", data_dir, "shop", "--format", "csv", "--person", "ann").stdout_bytes.decode()
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == ["person", "person_id", "event_", "stamp", "action", *(name for name, _ in COLUMNS)]
    assert lines[1] == ["ann", "", "0", "2023-11-14T22:13:20.000Z", "view", 'ho"me,\nü', "", "1", "", ""]
    assert [line[2] for line in lines[1:]] == ["0", "1", "1", "2", "2", "2", "2", "3"]
    numbers = run("export", data_dir, "shop", "--format", "csv", "--person", "7", "--id").stdout.splitlines()
    assert numbers[1:] == [",7,0,1970-01-02T00:00:00.005Z,old,,,,,", ",7,1,2023-11-14T22:13:20.002Z,view,,,,false,"]


def test_parquet_and_arrow_have_the_same_rows_as_csv(data_dir: Path, tmp_path: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(run("export", data_dir, "shop", "--format", "csv").stdout_bytes.decode())))
    outputs = {name: tmp_path / name for name in ("parquet", "arrow")}
    for name, path in outputs.items():
        assert run("export", data_dir, "shop", "--format", name, "--output", path).exit_code == 0
    parquet = pyarrow.parquet.read_table(outputs["parquet"])
    arrow = pyarrow.ipc.open_stream(outputs["arrow"].read_bytes()).read_all()
    assert parquet.equals(arrow)
    # One event has two rows, one has four.
    assert parquet.num_rows == len(lines) == len(EVENTS) + len(LATER) + 1 + 3
    for row, line in zip(parquet.to_pylist(), lines, strict=True):
        assert (row["person"] or "", str(row["person_id"] or "")) == (line["person"], line["person_id"])
        assert row["stamp"].strftime("%Y-%m-%dT%H:%M:%S") == line["stamp"][:19]
        assert (row["page"] or "", "" if row["count"] is None else str(row["count"])) == (line["page"], line["count"])
        assert ("" if row["member"] is None else str(row["member"]).lower()) == line["member"]


def test_a_damaged_file_is_reported_and_the_rest_is_exported(data_dir: Path) -> None:
    path = sorted(data_dir.glob("tables/1/p*.h5"))[0]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    result = run("export", data_dir, "shop")
    assert result.exit_code == 1 and f"left out: {path}" in result.stderr
    assert 0 < len(result.stdout_bytes.splitlines()) < len(EVENTS) + len(LATER)


def test_an_unknown_table_or_nobody(data_dir: Path) -> None:
    assert "there is no table 'none'" in run("export", data_dir, "none").stderr
    result = run("export", data_dir, "shop", "--person", "nobody")
    assert (result.exit_code, result.stdout_bytes) == (0, b"")


def test_beside_a_daemon_that_inserts_and_compacts(tmp_path: Path) -> None:
    """Every export is of one moment: whole requests, with everything that was acknowledged before it began."""
    data, people = tmp_path / "data", 12
    with Daemon(data, init=3, policy={"base_share": 0.05, "floor_events": 12}) as daemon:
        daemon.create("shop", dict(COLUMNS))
        stop, acknowledged = threading.Event(), [0]

        def ingest() -> None:
            while not stop.is_set():
                stamp, count = 1_700_000_000_000 + acknowledged[0], acknowledged[0]
                daemon.insert(
                    "shop",
                    [
                        {"person": f"p{person}", "stamp": stamp, "action": "view", "attr": {"count": count}}
                        for person in range(people)
                    ],
                )
                acknowledged[0] += 1

        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            until = time.monotonic() + 60
            generation = 0
            while acknowledged[0] < 20 or generation < 3:
                assert thread.is_alive() and time.monotonic() < until
                before = acknowledged[0]
                result = run("export", data, "shop", "--script", "match where action is 'view': tally")
                assert result.exit_code == 0, result.stderr
                counts = Counter(json.loads(line)["attr"]["count"] for line in result.stdout_bytes.splitlines())
                assert sorted(counts) == list(range(len(counts))) and set(counts.values()) <= {people}
                assert before <= len(counts) <= acknowledged[0] + 1
                found = (PartitionFile.open(path).generation for path in data.glob("tables/1/p*.h5"))
                generation = max(found, default=0)
        finally:
            stop.set()
            thread.join()


def test_what_openset_load_takes_again(data_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.ndjson"
    run("export", data_dir, "shop", "--output", output)
    with Daemon(tmp_path / "loaded", init=2) as daemon:
        daemon.create("shop", dict(COLUMNS), ["view", "buy"])
        loaded = run("load", "shop", output, "--url", f"http://127.0.0.1:{daemon.port}")
        assert loaded.exit_code == 0, loaded.stderr
        result = run("diff", data_dir, tmp_path / "loaded")
        assert result.exit_code == 0, result.stdout
