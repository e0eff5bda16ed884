"""Events beyond the retention of their table: in no answer, and out of the files with the next compaction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.segment_daemon import count, wait_until

DAY_MS = 86_400_000
EAGER = {"base_share": 0.0, "floor_events": 1, "age_s": 0.1}
BY_COLOUR = "agg:\n    count stamp\nmatch:\n    tally(colour)\n"
SEGMENT = "@segment reds:\n    match where colour is 'red':\n        tally\n"


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def insert(daemon: Daemon, person: int, days_ago: float, colour: str) -> None:
    stamp = round(now_ms() - days_ago * DAY_MS)
    daemon.insert("shop", [{"person": person, "stamp": stamp, "action": "buy", "attr": {"colour": colour}}])


def colours(daemon: Daemon) -> dict[str, int]:
    return {entry["g"]: entry["c"][0] for entry in daemon.events("shop", BY_COLOUR)["_"]}


def change(daemon: Daemon, days: Any) -> Any:
    answer = daemon.request("PUT", "/v1/table/shop", retention_days=days)
    assert answer.status == 200, answer.body
    return answer.json


@pytest.mark.parametrize("policy", [None, EAGER])
def test_expired_events_are_in_no_answer(tmp_path: Path, policy: Any) -> None:
    data = tmp_path / "data"
    columns = [{"name": "colour", "type": "text"}]
    with Daemon(data, init=2, policy=policy) as daemon:
        body = json.dumps({"columns": columns, "retention_days": 10})
        created = daemon.request("POST", "/v1/table/shop", body)
        assert created.json == {"table": "shop", "columns": columns, "z-order": [], "retention_days": 10}
        for person in range(6):
            insert(daemon, person, 5, "red")
            insert(daemon, person, 10.1, "red")
        insert(daemon, 7, 11, "red")
        insert(daemon, 1, 9, "blue")
        seconds = 4
        insert(daemon, 2, 10 - seconds * 1_000 / DAY_MS, "soon")
        expires = time.monotonic() + seconds
        assert colours(daemon) == {"red": 6, "blue": 1, "soon": 1}
        assert count(daemon, "shop", SEGMENT) == {"reds": 6}
        assert daemon.request("GET", "/v1/query/shop/person", id=7).status == 400
        assert len(daemon.request("GET", "/v1/query/shop/person", id=1).json["events"]) == 2
        time.sleep(max(0, expires - time.monotonic()))
        assert colours(daemon) == {"red": 6, "blue": 1}
        column = daemon.request("GET", "/v1/query/shop/column/colour").json
        assert "soon" not in json.dumps(column)
        daemon.kill()
    with Daemon(data) as daemon:
        assert colours(daemon) == {"red": 6, "blue": 1}
        assert change(daemon, 7)["retention_days"] == 7
        assert colours(daemon) == {"red": 6}
        described = change(daemon, "forever")
        assert "retention_days" not in described
        assert daemon.request("GET", "/v1/table/shop").json == described


def test_compaction_removes_what_has_expired(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Daemon(data, init=1, policy=EAGER) as daemon:
        daemon.create("shop", {"colour": "text"})
        insert(daemon, 1, 20, "red")
        insert(daemon, 2, 5, "blue")
        assert change(daemon, 10.5)["retention_days"] == 10.5
        assert colours(daemon) == {"blue": 1}
        before = len(compactions(daemon))
        for person in range(3, 9):
            insert(daemon, person, 1, "blue")
        wait_until(lambda: len(compactions(daemon)) > before and compactions(daemon)[-1]["rows"] > 1)
        change(daemon, "forever")
        assert colours(daemon) == {"blue": 7}, "what is removed does not come back"


def compactions(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.log() if line.get("event") == "compacted"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("retention") / "data", init=1) as daemon:
        daemon.create("shop", {"colour": "text"})
        yield daemon


@pytest.mark.parametrize("days", ["0", "-1", "", "x", "nan", "inf", "1e9", "none"])
def test_what_is_no_retention_is_refused(shop: Daemon, days: str) -> None:
    answer = shop.request("PUT", "/v1/table/shop", retention_days=days)
    assert (answer.status, answer.error["class"]) == (400, "config")
    assert "retention_days" in answer.error["message"]


@pytest.mark.parametrize("days", ['"1"', "true", "0", "-3", "[1]"])
def test_it_is_checked_when_a_table_is_created(shop: Daemon, days: str) -> None:
    answer = shop.request("POST", "/v1/table/other", f'{{"columns": [], "retention_days": {days}}}')
    assert (answer.status, answer.error["class"]) == (400, "config")
    assert "retention_days" in answer.error["message"]
    assert shop.request("GET", "/v1/table/other").status == 400


def test_something_has_to_change(shop: Daemon) -> None:
    assert "retention_days=" in shop.request("PUT", "/v1/table/shop").error["message"]
    assert shop.request("PUT", "/v1/table/shoop", retention_days=1).error["class"] == "query"
