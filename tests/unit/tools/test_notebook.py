"""openset.open_table: the answers of a daemon without one, and beside one."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.tool_cases import insert, make_data_dir

import openset
from openset.errors import ConfigError, InternalError, ParseError, QueryError, RunTimeError
from openset.store.store import Store
from openset_format.reader import PartitionFile

SCRIPT = "match where action is 'view' and page is not {{page}}:\n    tally(page, n)"


def events(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {
            "person": f"p{number % 7}",
            "stamp": 1_700_000_000_000 + number,
            "action": "view",
            "attr": {"n": number % 5, "page": f"page{number % 3}"},
        }
        for number in range(first, last)
    ]


def test_a_table_answers_as_the_daemon_it_stands_beside(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Daemon(data, init=3, policy={"base_share": 0.1, "floor_events": 20}) as daemon:
        daemon.create("t", {"n": "int", "page": "text"})
        daemon.insert("t", events(0, 100))
        table = openset.open_table(data)
        assert (table.name, table.people, table.columns) == ("t", 7, {"n": "int", "page": "text"})
        before = daemon.events("t", SCRIPT, str_page="page1", sort="key", order="asc")
        assert table.query(SCRIPT, {"page": "page1"}, sort="key", order="asc") == before
        for first in range(100, 400, 50):
            daemon.insert("t", events(first, first + 50))
        # It stays what it was until it is refreshed, whatever is compacted.
        assert table.query(SCRIPT, {"page": "page1"}, sort="key", order="asc") == before
        table.refresh()
        after = daemon.events("t", SCRIPT, str_page="page1", trim=1)
        assert table.query(SCRIPT, {"page": "page1"}, trim=1) == after
        assert table.person("p3") == daemon.request("GET", "/v1/query/t/person", sid="p3").json["events"]
    assert openset.open_table(data, "t").query(SCRIPT, {"page": "page1"}, trim=1) == after
    assert sum(block.rows for block in openset.open_table(data).blocks() if block.include is None) > 0


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a data directory"):
        openset.open_table(tmp_path)
    data = tmp_path / "data"
    with Daemon(data, init=1) as daemon:
        daemon.create("t", {"n": "int", "page": "text"})
        daemon.create("u", {"n": "int"})
        daemon.insert("t", events(0, 10))
    with pytest.raises(ConfigError, match=r"2 tables \(t, u\)"):
        openset.open_table(data)
    with pytest.raises(QueryError, match="there is no table 'v'"):
        openset.open_table(data, "v")
    table = openset.open_table(data, "t")
    with pytest.raises(QueryError, match="the script takes page, not none"):
        table.query(SCRIPT)
    with pytest.raises(QueryError, match="the script takes no parameters, not page"):
        table.query("tally(1)", {"page": "x"})
    with pytest.raises(ParseError):
        table.query("tally(")
    with pytest.raises(QueryError, match="there is no person 'nobody'"):
        table.person("nobody")
    with pytest.raises(RunTimeError):
        table.query("match: tally('a' - 1)")
    (segment,) = (data / "journal").glob("*.journal")
    damaged = bytearray(segment.read_bytes())
    damaged[100] ^= 1
    segment.write_bytes(damaged)
    with pytest.raises(InternalError, match="is damaged"):
        table.refresh()
    assert table.people == 7


def test_columns_as_arrow_and_pandas(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make_data_dir(data)
    table = openset.open_table(data, "shop")
    arrow = table.to_arrow()
    assert arrow.column_names == ["person", "person_id", "event", "stamp", "action", "page", "price", "count", "member"]
    rows = [
        {name: value for name, value in row.items() if value is not None}
        for row in table.to_arrow(["person", "person_id", "event", "page", "count", "member"]).to_pylist()
    ]
    assert rows == [
        {"person": "ann", "event": 0, "page": "home", "count": 1},
        {"person": "ann", "event": 1, "page": "cart", "count": 2, "member": True},
        {"person": "ann", "event": 2, "page": "pen"},
        {"person": "ann", "event": 2, "page": "ink"},
        {"person": "ann", "event": 3, "page": "late"},
        {"person_id": 77, "event": 0, "page": "home", "member": False},
        {"person": "bob", "event": 0, "page": "home", "count": -3},
        {"person": "cid", "event": 0},
    ]
    frame = table.to_pandas()
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "person": "category", "person_id": "Int64", "event": "int32", "stamp": "datetime64[ms, UTC]",
        "action": "category", "page": "category", "price": "float64", "count": "Int64", "member": "boolean",
    }  # fmt: skip
    assert frame["count"].dropna().tolist() == [1, 2, -3]
    assert frame.groupby("page", observed=True).size().to_dict() == {
        "home": 3, "cart": 1, "pen": 1, "ink": 1, "late": 1,
    }  # fmt: skip
    assert len(openset.open_table(data, "empty").to_pandas()) == 0
    with pytest.raises(QueryError, match="has no column 'pages'; there are person, person_id"):
        table.to_arrow(["pages"])


def test_columns_of_files_are_not_copied(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    store.initialise(1)
    store.create_table("t", [("n", "int"), ("page", "text")])
    made = events(0, 1_000)
    made[0]["attr"]["n"] = 2**40  # the column is stored at full width
    insert(store, "t", made)
    store.compact_all()
    store.close()
    table = openset.open_table(tmp_path / "data")
    (view,) = table._views.values()
    file = view.file
    assert file is not None
    arrow = table.to_arrow()
    assert arrow["n"].chunk(0).buffers()[1].address == file.columns[1].values.ctypes.data
    assert arrow["stamp"].chunk(0).buffers()[1].address == file.stamp.ctypes.data
    assert arrow["page"].chunk(0).indices.buffers()[1].address == file.columns[2].values.ctypes.data
    assert (
        arrow["page"].chunk(0).dictionary.buffers()[2].address
        == file.dictionary("/columns/2/dictionary").data.ctypes.data
    )
    assert arrow["n"].to_pylist() == [
        event["attr"]["n"] for event in sorted(made, key=lambda each: (each["person"], each["stamp"]))
    ]


def test_a_table_beside_a_daemon_that_inserts_and_compacts(tmp_path: Path) -> None:
    """Whatever is compacted meanwhile, every look is one moment: whole requests, and never fewer than before."""
    data = tmp_path / "data"
    with Daemon(data, init=3, policy={"base_share": 0.05, "floor_events": 14}) as daemon:
        daemon.create("t", {"n": "int", "page": "text"})
        daemon.insert("t", events(0, 7))
        stop, inserted = threading.Event(), [1]

        def ingest() -> None:
            while not stop.is_set():
                daemon.insert("t", events(7 * inserted[0], 7 * inserted[0] + 7))
                inserted[0] += 1

        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            table, seen = openset.open_table(data), 0
            until = time.monotonic() + 60
            while seen < 60 or generation(data) < 4:
                assert thread.is_alive() and time.monotonic() < until
                known = inserted[0]
                table.refresh()
                (root,) = table.query("match: tally('all', n)", sort="key")["_"]
                total = sum(len(table.person(f"p{number}")) for number in range(7))
                assert len(table.to_pandas(["stamp"])) == total == 7 * (total // 7)
                assert known <= total // 7 <= inserted[0] + 1
                assert root["c"] == [7]
                seen = total // 7
        finally:
            stop.set()
            thread.join()


def generation(data: Path) -> int:
    """The greatest of any file: how often a partition was compacted."""
    return max((PartitionFile.open(path).generation for path in data.glob("tables/1/p*.h5")), default=0)
