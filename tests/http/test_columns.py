"""Columns added and dropped while the daemon runs: at once, for good, and never with values of an earlier column."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.segment_daemon import count, listed

STAMP = 1_700_000_000_000
EAGER = {"base_share": 0.0, "floor_events": 1, "age_s": 0.1}
SEGMENT = "@segment {}:\n    match where colour is 'red':\n        tally\n"
BY_COLOUR = "match:\n    tally(colour)\n"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", init=3) as daemon:
        daemon.create("shop", {"colour": "text", "units": "int"})
        yield daemon


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("columns") / "data", init=1) as daemon:
        daemon.create("shop", {"colour": "text", "units": "int"})
        yield daemon


def put(daemon: Daemon, column: str) -> Any:
    answer = daemon.raw("PUT", f"/v1/table/shop/column/{column}")
    assert answer.status == 200, answer.body
    return answer.json


def drop(daemon: Daemon, column: str) -> Any:
    answer = daemon.raw("DELETE", f"/v1/table/shop/column/{column}")
    assert answer.status == 200, answer.body
    return answer.json


def columns(daemon: Daemon) -> dict[str, str]:
    described = daemon.raw("GET", "/v1/table/shop").json
    return {column["name"]: column["type"] for column in described["columns"]}


def insert(daemon: Daemon, people: range, **attr: Any) -> None:
    daemon.insert("shop", [{"person": p, "stamp": STAMP, "action": "buy", "attr": attr} for p in people])


def by_colour(daemon: Daemon) -> dict[Any, int]:
    return {entry["g"]: entry["c"][0] for entry in daemon.events("shop", BY_COLOUR)["_"]}


def test_a_column_is_there_as_soon_as_the_answer_is(shop: Daemon) -> None:
    insert(shop, range(5), colour="red")
    refused = shop.request("POST", "/v1/query/shop/events", "match where gift is True:\n    tally('gift')\n")
    assert refused.error["class"] == "parse"
    assert put(shop, "gift:bool")["columns"][-1] == {"name": "gift", "type": "bool"}
    assert columns(shop) == {"colour": "text", "units": "int", "gift": "bool"}
    assert shop.events("shop", "match where gift is True:\n    tally('gift')\n") == {"_": []}
    insert(shop, range(3, 8), gift=True)
    assert shop.events("shop", "match where gift is True:\n    tally('gift')\n") == {"_": [{"g": "gift", "c": [5]}]}


def test_a_dropped_column_is_gone_as_soon_as_the_answer_is(shop: Daemon) -> None:
    insert(shop, range(5), colour="red", units=1)
    assert by_colour(shop) == {"red": 5}
    assert [column["name"] for column in drop(shop, "colour")["columns"]] == ["units"]
    assert shop.request("POST", "/v1/query/shop/events", BY_COLOUR).error["class"] == "parse"
    event = {"person": 1, "stamp": STAMP, "action": "buy", "attr": {"colour": "red"}}
    refused = shop.request("POST", "/v1/insert/shop", f"[{event}]".replace("'", '"'))
    assert refused.error["class"] == "insert" and "colour" in str(refused.error["detail"])
    assert shop.request("GET", "/v1/query/shop/person", id=1).json["events"][0]["attr"] == {"units": 1}


@pytest.mark.parametrize(
    ("policy", "column_type", "value"),
    [(None, "text", "rood"), (EAGER, "text", "rood"), (None, "int", 7), (EAGER, "double", 1.5), (None, "bool", True)],
)
def test_a_name_that_comes_back_never_shows_what_it_held(
    tmp_path: Path, policy: Any, column_type: str, value: Any
) -> None:
    """Values of before are in files and in the journal, of people whom later requests touch and of others."""
    data = tmp_path / "data"
    with Daemon(data, init=2, policy=EAGER) as daemon:
        daemon.create("shop", {"colour": "text", "units": "int"})
        insert(daemon, range(20), colour="red")
        assert count(daemon, "shop", SEGMENT.format("reds")) == {"reds": 20}
        assert by_colour(daemon) == {"red": 20}
        daemon.stop()
    with Daemon(data, policy=policy) as daemon:
        insert(daemon, range(10, 30), units=4, colour="blue")
        drop(daemon, "colour")
        put(daemon, f"colour:{column_type}")
        insert(daemon, range(25, 40), colour=value)
        check_only_new_values(daemon, value)
        daemon.kill()
    with Daemon(data, policy=EAGER) as daemon:
        check_only_new_values(daemon, value)


def check_only_new_values(daemon: Daemon, value: Any) -> None:
    assert by_colour(daemon) == {value: 15}
    colourless = "match where colour is None:\n    tally('none')\n"
    assert daemon.events("shop", colourless) == {"_": [{"g": "none", "c": [25]}]}
    if isinstance(value, str):
        assert count(daemon, "shop", SEGMENT.format("again")) == {"again": 0}
    assert "dropped" in listed(daemon, "shop")["reds"]["error"]
    person = daemon.request("GET", "/v1/query/shop/person", id=12).json
    assert person["events"][0]["attr"] == {"units": 4}


@pytest.mark.parametrize(
    ("method", "address", "kind", "says"),
    [
        ("PUT", "shop/column/colour:text", "config", "already"),
        ("PUT", "shop/column/colour:int", "config", "already"),
        ("PUT", "shop/column/x:integer", "config", "column type"),
        ("PUT", "shop/column/X:int", "config", "column name"),
        ("PUT", "shop/column/1x:int", "config", "column name"),
        ("PUT", "shop/column/stamp:int", "config", "reserved"),
        ("PUT", "shop/column/tally:int", "config", "reserved"),
        ("PUT", "shop/column/x", "config", "what type"),
        ("PUT", "shop/column/x:", "config", "what type"),
        ("PUT", "shop/column/x:int?fast=1", "config", "fast"),
        ("PUT", "shoop/column/x:int", "query", "shoop"),
        ("DELETE", "shop/column/colours", "config", "no column 'colours'"),
        ("DELETE", "shop/column/colour:text", "config", "no column 'colour:text'"),
        ("DELETE", "shop/column/action", "config", "no column"),
        ("DELETE", "shoop/column/colour", "query", "shoop"),
    ],
)
def test_what_cannot_be_is_refused(unchanged: Daemon, method: str, address: str, kind: str, says: str) -> None:
    answer = unchanged.raw(method, f"/v1/table/{address}")
    assert (answer.status, answer.error["class"]) == (400, kind)
    assert says in answer.error["message"]
    assert columns(unchanged) == {"colour": "text", "units": "int"}


def test_an_escaped_colon_is_a_colon(shop: Daemon) -> None:
    put(shop, "gift%3Abool")
    assert columns(shop)["gift"] == "bool"


def test_inserts_and_queries_beside_changes_are_before_or_after(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=3, policy=EAGER) as daemon:
        daemon.create("shop", {"colour": "text", "units": "int"})
        stop = threading.Event()
        problems: list[Any] = []
        inserted = [0]

        def inserting() -> None:
            body = f"[{', '.join(_event(person) for person in range(30))}]"
            while not stop.is_set():
                answer = daemon.request("POST", "/v1/insert/shop", body)
                inserted[0] += answer.status == 200
                if answer.status != 200 and (answer.error["class"] != "insert" or "colour" not in answer.body.decode()):
                    problems.append(answer.body)

        def querying() -> None:
            while not stop.is_set():
                answer = daemon.request("POST", "/v1/query/shop/events", BY_COLOUR)
                if answer.status != 200:
                    if answer.error["class"] != "parse":
                        problems.append(answer.body)
                elif len(answer.json["_"]) > 1 or any(entry["c"] != [30] for entry in answer.json["_"]):
                    problems.append(answer.json)  # all rows of one moment have a colour, or none has

        threads = [threading.Thread(target=inserting), threading.Thread(target=querying)]
        for thread in threads:
            thread.start()
        for _ in range(25):
            drop(daemon, "colour")
            put(daemon, "colour:text")
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems
        assert inserted[0]
        daemon.insert("shop", [{"person": 1, "stamp": STAMP, "action": "buy", "attr": {"colour": "last"}}])
        assert by_colour(daemon)["last"] == 1
        assert not [line for line in daemon.log() if line.get("level") == "error"]


def _event(person: int) -> str:
    return f'{{"person": {person}, "stamp": {STAMP}, "action": "buy", "attr": {{"colour": "red"}}}}'
