"""A daemon killed while people are erased and compactions forced: nobody is there by half."""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path

from support.daemon import Daemon
from support.segment_daemon import wait_until

ROUNDS = 4
STAMP = 1_700_000_000_000
PEOPLE = 40


def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(11)
    erased: set[str] = set()
    asked: set[str] = set()
    with Daemon(tmp_path / "data", init=2) as daemon:
        daemon.create("t", {"word": "text"})
        for stamp in range(3):
            daemon.insert("t", [_event(f"p{number:03}", stamp) for number in range(PEOPLE * ROUNDS)])
    for round_number in range(ROUNDS):
        with Daemon(tmp_path / "data") as daemon:
            names = [f"p{number:03}" for number in range(round_number * PEOPLE, (round_number + 1) * PEOPLE)]
            threads = [
                threading.Thread(target=_erase_all, args=(daemon, names, asked, erased)),
                threading.Thread(target=_compact_all, args=(daemon,)),
            ]
            for thread in threads:
                thread.start()
            before = len(erased)
            wait_until(lambda before=before: len(erased) > before)  # type: ignore[misc]
            time.sleep(chance.uniform(0.0, 0.4))
            daemon.kill()
            for thread in threads:
                thread.join()
        with Daemon(tmp_path / "data") as daemon:
            answer = daemon.events("t", "agg:\n    count stamp as events\nmatch: tally(person)\n")
            found = {entry["g"]: entry["c"][0] for entry in answer["_"]}
            assert set(found.values()) <= {3}, "nobody is there by half"
            assert not erased & set(found), "an acknowledged erasure stays"
            everyone = {f"p{number:03}" for number in range(PEOPLE * ROUNDS)}
            assert everyone - asked <= set(found), "nobody else is gone"
    assert erased
    with Daemon(tmp_path / "data") as daemon:
        assert daemon.raw("POST", "/v1/table/t/compact").status == 200
        kept = b"".join(path.read_bytes() for path in daemon.data.rglob("*") if path.is_file())
        assert not [name for name in erased if f"word-of-{name}".encode() in kept]


def _event(name: str, stamp: int) -> dict[str, object]:
    return {"person": name, "stamp": STAMP + stamp, "action": "view", "attr": {"word": f"word-of-{name}"}}


def _erase_all(daemon: Daemon, names: list[str], asked: set[str], erased: set[str]) -> None:
    for name in names:
        asked.add(name)
        try:
            answer = daemon.raw("DELETE", f"/v1/table/t/person?sid={name}")
        except (OSError, ValueError):
            return
        assert answer.status == 200, answer.body
        assert json.loads(answer.body) == {"deleted": name}
        erased.add(name)


def _compact_all(daemon: Daemon) -> None:
    while True:
        try:
            answer = daemon.raw("POST", "/v1/table/t/compact")
        except (OSError, ValueError):
            return
        assert answer.status == 200, answer.body
