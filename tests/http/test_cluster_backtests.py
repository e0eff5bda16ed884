"""Backtests over the partitions of several nodes answer as one node does that has everything."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.cluster import Cluster, is_settled, started
from support.daemon import Daemon, Response

STAMP = 1_700_000_000_000
DAY = 86_400_000
THIRD = """def on_insert():
    bought = 0
    match where action is "buy":
        bought = bought + 1
    if bought >= 3:
        emit("regular", {"units": bought, "list": [1, 2.5, "x", None]})
"""
LATER = """def on_insert():
    match where is_new and action is "look":
        schedule(86400000, "silent")

def silent():
    emit("silent", to_days(now - last_event))
"""
EACH = 'def on_insert():\n    match where is_new:\n        emit("seen", action)\n'
FAILS = "def on_insert():\n    emit(1 + action)\n"
# Fails in some runs, so that rows of errors are those of all nodes together.
SOMETIMES = """def on_insert():
    match where is_new and units > 0:
        x = "units " + units
    match where is_new:
        emit("fine", units)
"""
# After so many errors in a row the trigger would be disabled, unless the daemon is told otherwise.
ROW = 10
SEGMENT = '@segment buyers:\n    match where action is "buy":\n        tally\n'


def events() -> list[dict[str, Any]]:
    rng = random.Random(3)
    return [
        {
            "person": f"person-{rng.randrange(40):02}" if rng.random() < 0.8 else rng.randrange(1, 20),
            "action": rng.choice(["buy", "look", "look"]),
            "stamp": STAMP + number * DAY // 50,
            "attr": {"product": rng.choice(["tent", "rug"]), "units": rng.randrange(5)},
        }
        for number in range(600)
    ]


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def fill(daemon: Daemon) -> None:
    columns = [{"name": "product", "type": "text"}, {"name": "units", "type": "int"}]
    done(daemon.request("POST", "/v1/table/shop", json.dumps({"columns": columns})))
    done(daemon.request("POST", "/v1/insert/shop", json.dumps(events())))
    done(daemon.request("POST", "/v1/query/shop/counts", SEGMENT))
    done(daemon.request("POST", "/v1/table/shop/revent/saved", THIRD, once="false", filter="buyers"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with started(tmp_path_factory.mktemp("cluster"), 3, partitions=6) as cluster:
        cluster.wait_for("all copies are there", is_settled)
        fill(cluster[0].running)
        yield cluster


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("alone") / "data", init=6) as daemon:
        fill(daemon)
        yield daemon


def asked(daemon: Daemon, name: str, script: str, lines: bool = False, **options: Any) -> tuple[Any, Any]:
    headers = {"Accept": "application/x-ndjson"} if lines else {}
    answer = daemon.request("POST", f"/v1/table/shop/revent/{name}/backtest", script, headers=headers, **options)
    assert answer.status == 200, answer.body
    facts = json.loads(answer.headers["openset-info"]) if lines else answer.json
    return facts, answer.body if lines else b""


@pytest.mark.parametrize(
    ("name", "script", "options"),
    [
        ("new", THIRD, {}),
        ("new", THIRD, {"once": "false"}),
        ("new", THIRD, {"filter": "buyers", "from": STAMP + DAY, "to": STAMP + 7 * DAY}),
        ("new", LATER, {}),
        ("new", EACH, {"once": "false"}),
        ("new", FAILS, {"once": "false"}),
        ("new", SOMETIMES, {"once": "false"}),
        ("saved", "", {}),
        ("saved", EACH, {"filter": "", "to": STAMP + 3 * DAY}),
    ],
)
def test_every_node_answers_as_one_with_everything(
    cluster: Cluster, alone: Daemon, name: str, script: str, options: dict[str, Any]
) -> None:
    options = {"to": STAMP + 300 * DAY, **options}
    wanted = asked(alone, name, script, **options)
    lines = asked(alone, name, script, lines=True, **options)
    assert wanted[0]["runs"] and (wanted[0]["emissions"] or wanted[0]["errors"])
    assert (wanted[0]["disabled_at"] is not None) == (script in (FAILS, SOMETIMES))
    if script == SOMETIMES:
        assert wanted[0]["emissions"] and wanted[0]["errors"] > ROW, "rows of errors were broken before"
    for node in cluster.nodes:
        assert asked(node.running, name, script, **options) == wanted
        assert asked(node.running, name, script, lines=True, **options) == lines


def test_mistakes_are_those_of_one_node(cluster: Cluster) -> None:
    for node in cluster.nodes:
        for script, options, what in (
            ("def on_insert(:\n", {}, "parse"),
            ("", {}, "query"),
            (THIRD, {"filter": "nobody"}, "query"),
            (THIRD, {"from": STAMP, "to": STAMP - 1}, "query"),
        ):
            answer = node.request("POST", "/v1/table/shop/revent/nothing/backtest", script, **options)
            assert (answer.status, answer.error["class"]) == (400, what)


def test_the_next_owner_answers_when_one_is_killed(cluster: Cluster, alone: Daemon) -> None:
    options = {"to": STAMP + 300 * DAY, "once": "false"}
    scripts = (THIRD, LATER, SOMETIMES)
    wanted = [asked(alone, "new", script, lines=True, **options) for script in scripts]
    cluster[2].kill()
    for node in cluster.nodes[:2]:
        assert [asked(node.running, "new", script, lines=True, **options) for script in scripts] == wanted
