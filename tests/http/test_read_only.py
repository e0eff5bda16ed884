"""A daemon whose disk is full or fails says so and goes on answering; damage is reported, and stays where it is."""

from __future__ import annotations

import errno
import json
import resource
import time
from pathlib import Path
from typing import Any

from support.controlled_files import set_faults
from support.daemon import Daemon

from openset_format.membership import MembershipFile

COUNT = "agg:\n    count stamp as n\nmatch:\n    tally(product)\n"
SCRUB = {"bytes_per_second": 1e9, "interval_s": 0.2}


def events(first: int, count: int, size: int = 1) -> list[dict[str, Any]]:
    return [
        {"person": f"p{at % 7}", "stamp": 10**12 + at, "action": "view", "attr": {"product": "x" * (at % 9) * size}}
        for at in range(first, first + count)
    ]


def stored(daemon: Daemon, table: str = "t") -> int:
    """How many events there are."""
    return int(daemon.events(table, "agg:\n    count stamp as n\nmatch:\n    tally('all')\n")["_"][0]["c"][0])


def health(daemon: Daemon) -> dict[str, Any]:
    answer = daemon.request("GET", "/health")
    assert answer.status == 200
    return dict(answer.json)


def wait_for(daemon: Daemon, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 30
    while (found := health(daemon))["status"] != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def started(data: Path, control: Path | None = None, **options: Any) -> Daemon:
    daemon = Daemon(data, init=2, control=control and str(control), **options)
    for table in ("t", "other"):
        daemon.create(table, {"product": "text"})
    daemon.insert("t", events(0, 20))
    return daemon


CHANGES: list[tuple[str, str, str, dict[str, str]]] = [
    ("POST", "/v1/insert/t", json.dumps(events(100, 5)), {}),
    ("POST", "/v1/table/new", '{"columns": []}', {}),
    ("PUT", "/v1/table/t/column/extra:int", "", {}),
    ("DELETE", "/v1/table/t/column/product", "", {}),
    ("PUT", "/v1/table/t", "", {"retention_days": "5"}),
    ("DELETE", "/v1/table/other", "", {}),
    ("DELETE", "/v1/table/t/person", "", {"sid": "p1"}),
    ("POST", "/v1/query/t/counts", "@segment a:\n    match:\n        tally\n", {}),
    ("POST", "/v1/table/t/revent/told", "def on_insert():\n    emit('x')\n", {}),
    ("POST", "/v1/table/t/compact", "", {}),
]


def changes_are_refused(daemon: Daemon, reason: str) -> None:
    """All of them, with a reason; and what was there can be asked as before."""
    for method, path, body, parameters in CHANGES:
        answer = daemon.request(method, path, body, **parameters)
        assert (answer.status, answer.error["class"]) == (503, "limit"), (path, answer.body)
        assert reason in answer.error["message"], (path, answer.error)
    assert stored(daemon) == 20
    assert daemon.request("GET", "/v1/table/t").json["columns"] == [{"name": "product", "type": "text"}]
    assert daemon.request("GET", "/v1/table").json == {"tables": ["t", "other"]}
    assert daemon.request("GET", "/v1/query/t/person", sid="p1").status == 200
    assert daemon.request("GET", "/v1/query/t/column/product").status == 200
    assert (
        daemon.request("POST", "/v1/query/t/counts", "@segment a:\n    match:\n        tally\n", debug="true").status
        == 200
    )
    assert daemon.request("GET", "/v1/table/t/revents").json["triggers"] == []


def test_a_full_disk_refuses_changes_until_there_is_room(tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    with started(tmp_path / "data", control) as daemon:
        assert health(daemon)["status"] == "ok"
        set_faults(control, {"kind": "write", "errno": errno.ENOSPC})
        changes_are_refused(daemon, "its disk is full: No space left on device at a write of ")
        found = health(daemon)
        assert found["status"] == "read_only" and found["until"] == "space"
        assert "No space left on device at a write of " in found["reason"]
        assert abs(found["since"] - 1000 * time.time()) < 60_000
        time.sleep(1.5)
        assert health(daemon)["status"] == "read_only", "there is still no room"
        set_faults(control)
        wait_for(daemon, "ok")
        daemon.insert("t", events(20, 10))
        assert stored(daemon) == 30
        said = [line["event"] for line in daemon.log()]
        assert "request failed" not in said, "the log of a full disk is not filled with refusals"
        assert said.count("the node answers queries only") == 1
        assert said.count("the disk has room again, changes are taken") == 1
        daemon.kill()
    with Daemon(tmp_path / "data") as daemon:
        assert stored(daemon) == 30
        assert not list((tmp_path / "data").rglob("*.tmp"))


def test_after_a_failed_sync_only_a_restart_makes_the_node_write_again(tmp_path: Path) -> None:
    control = tmp_path / "control.json"
    with started(tmp_path / "data", control) as daemon:
        set_faults(
            control, {"kind": "sync", "suffix": ".tmp", "errno": errno.EIO}, {"kind": "sync", "errno": errno.EIO}
        )
        changes_are_refused(daemon, "its disk has failed: Input/output error at a sync of ")
        set_faults(control)
        time.sleep(1.5)
        changes_are_refused(daemon, "after a restart")
        assert health(daemon)["until"] == "restart"
        assert daemon.stop() == 0
    with Daemon(tmp_path / "data") as daemon:
        # The events that were refused were in the page cache: they are there as a whole or not at all.
        assert health(daemon)["status"] == "ok" and stored(daemon) in (20, 25)
        daemon.insert("t", events(20, 10))


def test_an_erasure_whose_record_fits_is_one(tmp_path: Path) -> None:
    """What follows from it does not fit: it is made up for, and the person is gone from answers at once."""
    control = tmp_path / "control.json"
    every = "@segment every:\n    match: tally\n"
    with started(tmp_path / "data", control) as daemon:
        assert daemon.request("POST", "/v1/table/t/compact").status == 200
        assert daemon.request("POST", "/v1/query/t/counts", every).status == 200
        daemon.insert("t", events(0, 1))  # begins a segment of the journal
        set_faults(control, {"kind": "create", "errno": errno.ENOSPC})
        answer = daemon.request("DELETE", "/v1/table/t/person", sid="p1")
        assert (answer.status, answer.json) == (200, {"deleted": "p1"}), answer.body
        assert health(daemon)["until"] == "space"
        assert daemon.request("GET", "/v1/query/t/person", sid="p1").status == 400
        assert daemon.request("GET", "/v1/table/t/segments").json["segments"][0]["people"] == 6
        answer = daemon.request("DELETE", "/v1/table/t/person", sid="p2")
        assert answer.status == 503 and daemon.request("GET", "/v1/query/t/person", sid="p2").status == 200
        assert daemon.request("POST", "/v1/table/t/compact").status == 503
        set_faults(control)
        wait_for(daemon, "ok")
        assert daemon.request("POST", "/v1/table/t/compact").status == 200
        assert daemon.request("POST", "/v1/query/t/counts", "@segment other:\n    complement(every)\n").json == {
            "_": [{"g": "other", "c": [0]}]
        }
        (path,) = [path for path in (tmp_path / "data").rglob("*.segment") if b'"every"' in path.read_bytes()]
        file = MembershipFile.open(path)
        assert sum(len(file.members(number)) for number in file.partitions) == 6
        daemon.kill()
    with Daemon(tmp_path / "data") as daemon:
        assert daemon.request("GET", "/v1/query/t/person", sid="p1").status == 400


def test_a_file_system_that_takes_no_more(tmp_path: Path) -> None:
    """The kernel's own refusal, by a limit on the size of files: of the journal, and of what a compaction writes."""
    with started(tmp_path / "data", policy={"floor_events": 10**6}) as daemon:
        hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)[1]
        journal = sum(path.stat().st_size for path in (tmp_path / "data" / "journal").glob("*.journal"))
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (journal + 3_000, hard))
        answer = daemon.request("POST", "/v1/table/t/compact")
        assert answer.status == 500 and "File too large" in answer.error["message"], answer.body
        assert stored(daemon) == 20 and health(daemon)["status"] == "ok"
        daemon.insert("t", events(20, 1))
        answer = daemon.request("POST", "/v1/insert/t", json.dumps(events(21, 200, 50)))
        assert answer.status == 503 and "File too large at a write of" in answer.error["message"]
        assert health(daemon)["until"] == "space" and stored(daemon) == 21
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        wait_for(daemon, "ok")
        daemon.insert("t", events(21, 200, 50))
        answer = daemon.request("POST", "/v1/table/t/compact")
        assert answer.status == 200 and stored(daemon) == 221


def damaged_files(daemon: Daemon) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 30
    while not (found := health(daemon))["damage"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return list(found["damage"])


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.chmod(0o644)
    path.write_bytes(data)


def test_the_scrub_finds_what_queries_do_not_look_at(tmp_path: Path) -> None:
    with started(tmp_path / "data", scrubbing=SCRUB) as daemon:
        assert daemon.request("POST", "/v1/table/t/compact").status == 200
        deadline = time.monotonic() + 30
        while (found := health(daemon))["scrub"] is None or found["scrub"]["files"] < 2:
            assert time.monotonic() < deadline, found
            time.sleep(0.05)
        assert found["damage"] == [] and found["scrub"]["damaged"] == 0
        path = tmp_path / "data" / "tables" / "1" / "p0000.h5"
        flip(path, path.stat().st_size // 2)
        (problem, *_) = damaged_files(daemon)
        assert problem["file"] == str(path) and isinstance(problem["offset"], int | None) and problem["message"]
        assert any(line["event"] == "damage" and line["file"] == str(path) for line in daemon.log())
        daemon.insert("other", events(0, 3))
        assert stored(daemon, "other") == 3


def test_a_damaged_header_fails_the_queries_that_need_it_and_nothing_else(tmp_path: Path) -> None:
    with started(tmp_path / "data") as daemon:
        daemon.insert("other", events(0, 4))
        for table in ("t", "other"):
            assert daemon.request("POST", f"/v1/table/{table}/compact").status == 200
        sound = next(f"p{at}" for at in range(7) if partition_holds(daemon, tmp_path / "data", f"p{at}"))
    path = tmp_path / "data" / "tables" / "1" / "p0000.h5"
    flip(path, 40)
    with Daemon(tmp_path / "data") as daemon:
        answer = daemon.request("POST", "/v1/query/t/events", COUNT)
        assert answer.status == 500 and f"{path}, offset 0: the seal does not match" in answer.error["message"]
        assert stored(daemon, "other") == 4
        assert daemon.request("GET", "/v1/query/t/person", sid=sound).status == 200
        daemon.insert("t", events(100, 5))
        assert daemon.request("POST", "/v1/table/t/compact").status == 500
        (problem,) = health(daemon)["damage"]
        assert (problem["file"], problem["offset"]) == (str(path), 0)
        daemon.kill()
    flip(path, 40)
    with Daemon(tmp_path / "data") as daemon:
        assert stored(daemon) == 25 and health(daemon)["damage"] == []


def partition_holds(daemon: Daemon, data: Path, person: str) -> bool:
    """Whether somebody is in partition 1."""
    from openset_format.reader import PartitionFile

    return PartitionFile.open(data / "tables" / "1" / "p0001.h5").persons.index(person) is not None
