"""Compaction in the background: the same answers before, during and after it, and after a restart."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from support.daemon import Daemon

STAMP = 1_700_000_000_000
EAGER = {"base_share": 0.05, "floor_events": 50, "age_s": 3_600.0}
SCRIPT = """
agg:
    people
    count stamp as events
    sum price
    sum price as each with product
match:
    tally('all')
    tally(product, action)
"""


def compactions(daemon: Daemon) -> list[dict[str, Any]]:
    return [line for line in daemon.log() if line.get("event") == "compacted"]


def wait_for_compaction(daemon: Daemon, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(compactions(daemon)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(compactions(daemon)) >= count


def random_events(seed: int, count: int) -> list[dict[str, Any]]:
    """Events of which many replace another one."""
    choose = random.Random(seed)
    return [
        {
            "person": choose.choice([choose.randrange(30), f"p{choose.randrange(30)}"]),
            "stamp": STAMP + choose.randrange(40) * 60_000,
            "action": choose.choice(["view", "buy", "other"]),
            "attr": {"product": choose.sample(["mug", "rug", "tüte"], 2), "price": choose.randrange(100) / 4},
        }
        for _ in range(count)
    ]


def test_answers_are_the_same_with_and_without_compaction(tmp_path: Path) -> None:
    columns = {"product": "text", "price": "double"}
    with Daemon(tmp_path / "plain", init=3) as plain, Daemon(tmp_path / "eager", init=2, policy=EAGER) as eager:
        for daemon in (plain, eager):
            daemon.create("cart", columns, ["view", "buy"])
        for round_number in range(6):
            events = random_events(round_number, 300)
            for daemon in (plain, eager):
                daemon.insert("cart", events)
            expected = plain.events("cart", SCRIPT)
            assert eager.events("cart", SCRIPT) == expected
            wait_for_compaction(eager, round_number + 1)
            assert eager.events("cart", SCRIPT) == expected
            assert (
                eager.request("GET", "/v1/query/cart/person", sid="p7").json
                == plain.request("GET", "/v1/query/cart/person", sid="p7").json
            )
        assert not compactions(plain)
        eager.kill()
        with Daemon(tmp_path / "eager") as again:
            assert again.events("cart", SCRIPT) == expected


def test_queries_during_inserts_and_compactions_never_fail_and_never_go_back(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=3, policy=EAGER) as daemon:
        daemon.create("cart", {"product": "text", "price": "double"})
        acknowledged = 0
        stop = threading.Event()

        def insert() -> None:
            nonlocal acknowledged
            while not stop.is_set():
                events = [
                    {"person": number % 97, "stamp": STAMP + number, "action": "x"}
                    for number in range(acknowledged, acknowledged + 200)
                ]
                daemon.insert("cart", events)
                acknowledged += 200

        inserting = threading.Thread(target=insert)
        inserting.start()
        started = time.monotonic()
        # Five seconds, on a busy machine until compaction was part of it.
        while time.monotonic() < started + 5 or (len(compactions(daemon)) <= 2 and time.monotonic() < started + 60):
            before = acknowledged
            tree = daemon.events("cart", "agg:\n    count stamp\nmatch:\n    tally('n')")["_"]
            seen = tree[0]["c"][0] if tree else 0
            assert seen >= before
            assert seen % 200 == 0, "half of a request was seen"
        stop.set()
        inserting.join()
        assert len(compactions(daemon)) > 2
        assert not [line for line in daemon.log() if line.get("level") == "error"]
