"""Budgets: a script that explodes ends with an error that names the budget, and the daemon does not suffer."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
EVENTS_PER_PERSON = 10_000
PEOPLE = 4
THREE_DEEP = "match:\n    match:\n        match:\n            {}\ntally('end')"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    started = Daemon(tmp_path_factory.mktemp("budgets") / "data", init=4)
    started.create("t", {"n": "int"})
    for person in range(PEOPLE):
        for first in range(0, EVENTS_PER_PERSON, 5_000):
            numbers = range(first, first + 5_000)
            started.insert(
                "t",
                [{"person": person, "stamp": STAMP + i * 1_000, "action": "x", "attr": {"n": i % 50}} for i in numbers],
            )
    yield started
    started.stop()


def resident_bytes(daemon: Daemon) -> int:
    """Of the daemon and its workers."""
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    total = 0
    for process in [str(daemon.process.pid), *children]:
        try:
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except FileNotFoundError:
            continue
    return total


@pytest.mark.parametrize(
    ("body", "budget"),
    [
        ("x = n", "time budget of 3000 ms"),
        ("c += 1", "time budget of 3000 ms"),
        # Seconds on a quiet machine; the tallies take a gigabyte.
        ("tally(n)", "memory budget"),
    ],
)
def test_three_unfiltered_matches_over_many_events_end_with_the_budget(daemon: Daemon, body: str, budget: str) -> None:
    before = resident_bytes(daemon)
    slowest_seconds = 0.0
    answered = threading.Event()

    def ping() -> None:
        nonlocal slowest_seconds
        while not answered.wait(0.02):
            started = time.monotonic()
            assert daemon.request("GET", "/ping").json == {"pong": True}
            slowest_seconds = max(slowest_seconds, time.monotonic() - started)

    pinger = threading.Thread(target=ping)
    pinger.start()
    started = time.monotonic()
    answer = daemon.request(
        "POST", "/v1/query/t/events", THREE_DEEP.format(body), timeout="3000" if "time" in budget else "60000"
    )
    answered.set()
    pinger.join()
    assert answer.status == 400
    assert answer.error["class"] == "run_time"
    assert budget in answer.error["message"]
    assert time.monotonic() - started < (15 if "time" in budget else 60)
    assert slowest_seconds < 1.0  # a stalled event loop, not a busy machine
    deadline = time.monotonic() + 20
    while resident_bytes(daemon) > before + (400 << 20) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert resident_bytes(daemon) <= before + (400 << 20)


@pytest.mark.parametrize(
    ("script", "budget"),
    [
        ("s = 'x'\nmatch:\n    s += s\ntally(s)", "64 KB"),
        # Which budget ends it first depends on the machine.
        ("l = [0]\nmatch:\n    match:\n        l += l\ntally(len(l))", "budget"),
        ("def f(a):\n    return f(a + 1)\ntally(f(1))", "64"),
    ],
)
def test_texts_containers_and_recursion_are_bounded(daemon: Daemon, script: str, budget: str) -> None:
    answer = daemon.request("POST", "/v1/query/t/events", script, timeout="15000")
    assert answer.status == 400
    assert answer.error["class"] == "run_time"
    assert budget in answer.error["message"]
    assert "line" in answer.error or "time budget" in answer.error["message"]


def test_the_daemon_answers_after_all_of_that(daemon: Daemon) -> None:
    answer = daemon.request("POST", "/v1/query/t/events", "match:\n    tally(action)")
    assert answer.json == {"_": [{"g": "x", "c": [PEOPLE]}]}
