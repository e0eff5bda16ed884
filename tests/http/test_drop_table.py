"""A dropped table: gone at once and for good, with its files, its journal records and its name free for another."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from support.daemon import Daemon, Response
from support.segment_daemon import count, wait_until

STAMP = 1_700_000_000_000
EAGER = {"base_share": 0.0, "floor_events": 1, "age_s": 0.1}
BY_COLOUR = "match:\n    tally(colour)\n"
SEGMENT = "@segment reds refresh=1s:\n    match where colour is 'red':\n        tally\n"
SECRET = "vermilion_nobody_else_says"


def create(daemon: Daemon, table: str) -> None:
    daemon.create(table, {"colour": "text"})


def insert(daemon: Daemon, table: str, people: range, colour: str) -> None:
    daemon.insert(table, [_event(person, colour) for person in people])


def _event(person: int, colour: str) -> dict[str, Any]:
    return {"person": person, "stamp": STAMP, "action": "buy", "attr": {"colour": colour}}


def drop(daemon: Daemon, table: str) -> Response:
    return daemon.request("DELETE", f"/v1/table/{table}")


def colours(daemon: Daemon, table: str) -> dict[Any, int]:
    return {entry["g"]: entry["c"][0] for entry in daemon.events(table, BY_COLOUR)["_"]}


def mentions(data: Path, text: str) -> list[Path]:
    return [path for path in data.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def assert_gone(daemon: Daemon, table: str) -> None:
    for method, address, body in (
        ("GET", f"table/{table}", None),
        ("DELETE", f"table/{table}", None),
        ("GET", f"table/{table}/segments", None),
        ("PUT", f"table/{table}/column/x:int", None),
        ("POST", f"insert/{table}", "[]"),
        ("POST", f"query/{table}/events", "match:\n    tally(1)\n"),
        ("GET", f"query/{table}/person?id=1", None),
    ):
        answer = daemon.raw(method, f"/v1/{address}", body)
        assert answer.status == 400, (address, answer.body)
        assert table in answer.error["message"]
    assert table not in daemon.request("GET", "/v1/table").json["tables"]


def test_gone_at_once_and_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Daemon(data, init=2, policy=EAGER) as daemon:
        create(daemon, "other")
        create(daemon, "shop")
        insert(daemon, "shop", range(50), SECRET)
        count(daemon, "shop", SEGMENT)
        wait_until(lambda: len(list((data / "tables" / "2").glob("*.h5"))) == 2)
        insert(daemon, "shop", range(40, 60), SECRET)
        insert(daemon, "other", range(5), "blue")
        assert mentions(data, SECRET)
        answer = drop(daemon, "shop")
        assert (answer.status, answer.json) == (200, {"deleted": "shop"})
        assert_gone(daemon, "shop")
        wait_until(lambda: not mentions(data, SECRET))
        assert not (data / "tables" / "2").exists()
        time.sleep(1.5)  # the refresh of its segment would be due
        assert colours(daemon, "other") == {"blue": 5}
        assert not [line for line in daemon.log() if line.get("level") in ("error", "warning")]
        daemon.kill()
    with Daemon(data) as daemon:
        assert_gone(daemon, "shop")
        assert colours(daemon, "other") == {"blue": 5}


def test_the_name_stands_for_another_table_afterwards(tmp_path: Path) -> None:
    """Without compaction: the records of both tables are in the journal."""
    data = tmp_path / "data"
    with Daemon(data, init=2) as daemon:
        create(daemon, "other")
        insert(daemon, "other", range(5), "blue")  # keeps the journal
        for round_number in range(3):
            create(daemon, "shop")
            assert colours(daemon, "shop") == {}
            assert daemon.request("GET", "/v1/table/shop/segments").json == {"segments": []}
            insert(daemon, "shop", range(round_number + 1), "red")
            assert colours(daemon, "shop") == {"red": round_number + 1}
            count(daemon, "shop", SEGMENT)
            assert drop(daemon, "shop").status == 200
        daemon.create("shop", {"units": "int", "colour": "int"})
        daemon.insert("shop", [{"person": 9, "action": "x", "attr": {"colour": 7}}])
        daemon.kill()
    with Daemon(data) as daemon:
        assert colours(daemon, "shop") == {7: 1}
        assert colours(daemon, "other") == {"blue": 5}


def test_requests_beside_it_end_cleanly(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=4, policy=EAGER) as daemon:
        stop = threading.Event()
        problems: list[bytes] = []
        done = {"events": 0, "person": 0, "insert": 0, "counts": 0}

        def repeat(name: str, method: str, address: str, body: str | None) -> None:
            while not stop.is_set():
                answer = daemon.raw(method, address, body)
                if answer.status == 200:
                    done[name] += 1
                elif answer.status != 400 or not any(
                    says in answer.error["message"] for says in ("no table", "no person", "was dropped")
                ):
                    problems.append(answer.body)

        events = "[" + ", ".join(str(_event(person, "red")).replace("'", '"') for person in range(100)) + "]"
        threads = [
            threading.Thread(target=repeat, args=arguments)
            for arguments in (
                ("events", "POST", "/v1/query/shop/events", BY_COLOUR),
                ("person", "GET", "/v1/query/shop/person?id=3", None),
                ("insert", "POST", "/v1/insert/shop", events),
                ("counts", "POST", "/v1/query/shop/counts", SEGMENT),
            )
        ]
        for thread in threads:
            thread.start()
        for _ in range(12):
            create(daemon, "shop")
            time.sleep(0.25)
            assert drop(daemon, "shop").status == 200
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems
        assert all(done.values()), done
        wait_until(lambda: not list((daemon.data / "tables").glob("*")))
        create(daemon, "shop")
        assert colours(daemon, "shop") == {}
        assert not [line for line in daemon.log() if line.get("level") == "error"]


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=1) as daemon:
        create(daemon, "shop")
        answer = drop(daemon, "shoop")
        assert (answer.status, answer.error["class"]) == (400, "query")
        assert daemon.raw("DELETE", "/v1/table/shop?force=1").status == 400
        assert colours(daemon, "shop") == {}
