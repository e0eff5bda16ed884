"""Erasing people over HTTP: gone from every answer at once, from the data directory after a forced compaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.segment_daemon import count, listed

STAMP = 1_700_000_000_000
PEOPLE = 60


def events() -> list[dict[str, Any]]:
    return [
        {"person": f"person-{n:02}", "stamp": STAMP + n, "action": "view", "attr": {"word": f"word-{n:02}", "n": n}}
        for n in range(PEOPLE)
    ]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", init=3) as daemon:
        daemon.create("shop", {"word": "text", "n": "int"})
        daemon.insert("shop", events())
        yield daemon


def erase(daemon: Daemon, who: str) -> Any:
    return daemon.raw("DELETE", f"/v1/table/shop/person?{who}")


def people(daemon: Daemon) -> int:
    answer = daemon.raw("POST", "/v1/query/shop/events", b"match: tally('all')").json
    return int(answer["_"][0]["c"][0]) if answer["_"] else 0


def found_in(data: Path, text: bytes) -> list[str]:
    return [path.name for path in data.rglob("*") if path.is_file() and text in path.read_bytes()]


def test_gone_from_every_answer_at_once(shop: Daemon) -> None:
    assert count(shop, "shop", "@segment every:\n    match: tally\n@segment low:\n    match where n < 10: tally\n") == {
        "every": PEOPLE,
        "low": 10,
    }
    answer = erase(shop, "sid=person-05")
    assert (answer.status, answer.json) == (200, {"deleted": "person-05"})
    assert people(shop) == PEOPLE - 1
    assert shop.raw("GET", "/v1/query/shop/person?sid=person-05").error["class"] == "query"
    column = shop.raw("GET", "/v1/query/shop/column/word?eq=word-05").json
    assert column["_"][0]["c"] == [0]
    assert shop.raw("GET", "/v1/query/shop/column/person?trim=1").json["_"][0]["c"] == [PEOPLE - 1]
    assert {name: one["people"] for name, one in listed(shop, "shop").items()} == {"every": PEOPLE - 1, "low": 9}
    algebra = "@segment other:\n    difference(every, low)\n@segment not_low:\n    complement(low)\n"
    assert count(shop, "shop", algebra) == {"other": 50, "not_low": 50}
    histogram = shop.raw("POST", "/v1/query/shop/histogram/n?bucket=10&max=10", b"return SUM n").json
    assert histogram["_"][0]["_"][0] == {"g": 0, "c": [9]}


def test_mistakes(shop: Daemon) -> None:
    for who, message in (
        ("sid=nobody", "no person 'nobody'"),
        ("id=7", "no person 7"),
        ("", "sid="),
        ("sid=a&id=7", "sid="),
        ("sid=", "empty"),
        ("id=x", "id"),
        ("sid=person-01&all=true", "all"),
    ):
        error = erase(shop, who).error
        assert error["class"] == "query" and message in error["message"], error
    assert shop.raw("DELETE", "/v1/table/none/person?sid=a").error["class"] == "query"
    assert shop.raw("POST", "/v1/table/none/compact").error["class"] == "query"
    assert people(shop) == PEOPLE


def test_a_forced_compaction_leaves_nothing(shop: Daemon) -> None:
    count(shop, "shop", "@segment every:\n    match: tally\n")
    assert shop.raw("POST", "/v1/table/shop/compact").json == {"compacted": 3}
    assert erase(shop, "sid=person-07").status == 200
    assert found_in(shop.data, b"word-07")
    assert shop.raw("POST", "/v1/table/shop/compact").json == {"compacted": 1}
    assert found_in(shop.data, b"person-07") == [] and found_in(shop.data, b"word-07") == []
    assert found_in(shop.data, b"word-08")
    assert people(shop) == PEOPLE - 1
    shop.insert("shop", [{"person": "person-07", "stamp": STAMP + 500, "action": "back"}])
    again = shop.raw("GET", "/v1/query/shop/person?sid=person-07").json
    assert [event["action"] for event in again["events"]] == ["back"]


def test_other_tables_do_not_keep_the_journal(shop: Daemon) -> None:
    shop.create("other", {"n": "int"})
    shop.insert("other", [{"person": "x", "stamp": STAMP, "action": "view"}])
    assert erase(shop, "sid=person-09").status == 200
    assert shop.raw("POST", "/v1/table/shop/compact").status == 200
    assert found_in(shop.data, b"person-09") == []
    assert shop.raw("GET", "/v1/query/other/person?sid=x").status == 200


def test_a_damaged_file_that_keeps_the_journal_is_named_at_once(shop: Daemon) -> None:
    shop.create("other", {"n": "int"})
    shop.insert("other", [{"person": "x", "stamp": STAMP, "action": "view"}])
    assert shop.raw("POST", "/v1/table/other/compact").status == 200
    shop.insert("other", [{"person": "x", "stamp": STAMP + 1, "action": "view"}])
    shop.insert("shop", [{"person": "person-09", "stamp": STAMP + 1, "action": "view"}])
    shop.stop()
    (path,) = shop.data.glob("tables/2/p*.h5")
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-8])
    with Daemon(shop.data) as again:
        for table in ("shop", "other"):
            started = time.monotonic()
            error = again.raw("POST", f"/v1/table/{table}/compact").error
            assert path.name in error["message"] and "tables/2" in error["message"], error
            assert time.monotonic() - started < 20, "nobody waits for what cannot come"


def test_inserts_go_on_while_a_compaction_is_forced(shop: Daemon) -> None:
    stop = threading.Event()
    sent: list[int] = []

    def insert() -> None:
        while not stop.is_set():
            shop.insert("shop", [{"person": "busy", "stamp": STAMP + len(sent), "action": "view"}])
            sent.append(1)

    thread = threading.Thread(target=insert)
    thread.start()
    try:
        for number in (11, 12, 13):
            assert erase(shop, f"sid=person-{number}").status == 200
            assert shop.raw("POST", "/v1/table/shop/compact").status == 200
            assert found_in(shop.data, b"person-%d" % number) == []
    finally:
        stop.set()
        thread.join()
    assert people(shop) == PEOPLE - 3 + 1
    busy = shop.raw("GET", "/v1/query/shop/person?sid=busy").json
    assert len(busy["events"]) == len(sent)


def test_an_acknowledged_erasure_outlasts_a_kill(shop: Daemon) -> None:
    count(shop, "shop", "@segment every:\n    match: tally\n")
    assert erase(shop, "sid=person-01").status == 200
    shop.kill()
    with Daemon(shop.data) as again:
        assert people(again) == PEOPLE - 1
        assert listed(again, "shop")["every"]["people"] == PEOPLE - 1
        assert again.raw("GET", "/v1/query/shop/person?sid=person-01").status == 400
        assert again.raw("POST", "/v1/table/shop/compact").status == 200
        assert found_in(again.data, b"person-01") == []
