"""SIGKILL while inserts come in and triggers run: every emission is there exactly once, under an id that stays."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon

from openset.store.store import Store

EVERY = 'def on_insert():\n    match where is_new:\n        emit("every", product)\n'
THIRD = "def on_insert():\n    n = 0\n    match:\n        n = n + 1\n    if n >= 3:\n        emit('third')\n"
LATER = "def on_insert():\n    if event_count is 1:\n        schedule(80, 'later')\n\ndef later():\n    emit('later')\n"
PEOPLE = 25
ROUNDS = 5
POLICY = {"floor_events": 40, "base_share": 0.0, "age_s": 0.2}


def emitted(data: Path) -> dict[str, tuple[str, int | str, Any]]:
    """Everything that was emitted, by id: trigger, person and value."""
    store = Store.open(data)
    try:
        table = store.table("t").id
        found = {}
        for trigger in store.triggers.of_table(table):
            with store.triggers.states(table) as states:
                for partition, state in states.items():
                    for one in state.after(trigger.id, 0, 1_000_000):
                        assert one.person is not None
                        found[f"{table}-{partition}-{one.number}"] = (trigger.name, one.person, one.value)
        return found
    finally:
        store.close()


def insert(daemon: Daemon, rows: list[tuple[int, str, int]]) -> None:
    events = [
        {"person": person, "action": "do", "stamp": 1_700_000_000_000 + stamp, "attr": {"product": product}}
        for person, product, stamp in rows
    ]
    daemon.insert("t", events)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_emission_is_lost_or_doubled(tmp_path: Path, seed: int) -> None:
    choose = random.Random(seed)
    data = tmp_path / "data"
    with Daemon(data, init=3) as daemon:
        daemon.create("t", {"product": "text"})
        for name, script, once in (("every", EVERY, "false"), ("third", THIRD, "true"), ("later", LATER, "true")):
            answer = daemon.request("POST", f"/v1/table/t/revent/{name}", script, once=once)
            assert answer.status == 200, answer.body
        daemon.kill()
    sent = 0
    seen: dict[str, Any] = {}
    for _ in range(ROUNDS):
        with Daemon(data, policy=POLICY) as daemon:
            threading.Timer(choose.uniform(0.05, 0.8), daemon.process.kill).start()
            while daemon.process.poll() is None:
                people = choose.sample(range(PEOPLE), choose.randint(1, 6))
                rows = [(person, f"p{sent + at}", sent + at) for at, person in enumerate(people)]
                sent += len(rows)
                try:
                    insert(daemon, rows)
                except (OSError, http.client.HTTPException):
                    break  # whether it is stored is seen at the end
            daemon.process.wait(60)
        now = emitted(data)
        assert all(now[id_] == one for id_, one in seen.items()), "an id stands for the same emission for good"
        seen = now
    with Daemon(data, policy=POLICY) as daemon:
        _wait_for_triggers(daemon)
        script = "agg:\n    count stamp as n\nmatch:\n    tally(person, product)\n"
        tree = daemon.events("t", script, trim=100_000)["_"]
        stored = {node["g"]: [below["g"] for below in node["_"]] for node in tree}
        daemon.kill()
    found = Counter((name, person, json.dumps(value)) for name, person, value in emitted(data).values())
    wanted = Counter(("every", person, json.dumps(one)) for person, products in stored.items() for one in products)
    wanted += Counter(("third", person, "null") for person, products in stored.items() if len(products) >= 3)
    wanted += Counter(("later", person, "null") for person in stored)
    assert found == wanted
    assert sum(len(products) for products in stored.values()) > 50, "the daemon was killed too early to tell anything"


def _wait_for_triggers(daemon: Daemon) -> None:
    """Until nothing waits and nothing is scheduled."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        triggers = daemon.request("GET", "/v1/table/t/revents").json["triggers"]
        if not any(one["backlog"]["records"] or one["counts"]["schedules"] for one in triggers):
            return
        time.sleep(0.05)
    raise AssertionError(f"triggers do not come to an end: {triggers}")
