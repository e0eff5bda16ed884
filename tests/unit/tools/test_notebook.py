"""openset.open_table: the answers of a daemon without one, and beside one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon

import openset
from openset.errors import ConfigError, InternalError, ParseError, QueryError, RunTimeError

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
