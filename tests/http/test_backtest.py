"""Backtests over HTTP and on the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon

SCRIPT = """def on_insert():
    schedule(30 days, "silent")
    match where is_new and units > 1:
        emit("big", {"units": units})

def silent():
    emit("silent", to_days(now - last_event))
"""
DAY = 86_400_000
START = 1_700_000_000_000


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("backtest") / "data", init=2) as daemon:
        daemon.create("t", {"units": "int"})
        rows = [("ann", 0, 2), ("bob", 0, 1), ("ann", 10, 3), ("ann", 60, 1), (7, 70, 5)]
        daemon.insert(
            "t",
            [
                {"person": person, "stamp": START + day * DAY, "action": "buy", "attr": {"units": units}}
                for person, day, units in rows
            ],
        )
        yield daemon


ALL = [
    (0, "ann", "big", {"units": 2}),
    (10, "ann", "big", {"units": 3}),
    (30, "bob", "silent", 30),
    (40, "ann", "silent", 30),
    (70, 7, "big", {"units": 5}),
    (90, "ann", "silent", 30),
    (100, 7, "silent", 30),
]


def lines(shop: Daemon, body: str = SCRIPT, name: str = "mine", **parameters: str) -> list[tuple[object, ...]]:
    headers = {"Accept": "application/x-ndjson"}
    path = f"/v1/table/t/revent/{name}/backtest"
    answer = shop.request("POST", path, body, headers=headers, **parameters)
    assert answer.status == 200, answer.body
    found = [json.loads(line) for line in answer.body.splitlines()]
    return [((one["stamp"] - START) / DAY, one["person"], one["name"], one["value"]) for one in found]


def test_an_unsaved_script(shop: Daemon) -> None:
    assert lines(shop, once="false") == ALL
    # Once ann has emitted from on_insert it does not run again, and nothing puts her silence off.
    assert lines(shop) == [ALL[0], (30, "ann", "silent", 20), ALL[2], ALL[4], ALL[6]]


def test_a_window(shop: Daemon) -> None:
    window = {"from": str(START + 5 * DAY), "to": str(START + 60 * DAY)}
    assert lines(shop, once="false", **window) == [ALL[1], ALL[3]]


def test_counts_days_and_samples(shop: Daemon) -> None:
    answer = shop.request("POST", "/v1/table/t/revent/mine/backtest", SCRIPT, once="false").json
    assert (answer["emissions"], answer["emitting_people"], answer["people"], answer["errors"]) == (7, 3, 3, 0)
    assert answer["days"][0] == {"day": "2023-11-14", "name": "big", "count": 1, "people": 1}
    assert [one["person"] for one in answer["sample"]] == [person for _, person, _, _ in ALL]


def test_a_saved_trigger_and_its_options(shop: Daemon) -> None:
    assert shop.request("POST", "/v1/table/t/revent/saved", SCRIPT, once="false").status == 200
    assert lines(shop, "", "saved") == ALL
    counts = "@segment sevens:\n    match where units is 5: tally\n"
    assert shop.request("POST", "/v1/query/t/counts", counts).status == 200
    assert lines(shop, "", "saved", filter="sevens") == [ALL[4], ALL[6]]
    described = shop.request("GET", "/v1/table/t/revent/saved").json
    assert described["counts"]["emissions"] == 0, "a backtest emits nothing"


def test_mistakes(shop: Daemon) -> None:
    path = "/v1/table/t/revent/none/backtest"
    for body, parameters, error_class in (
        ("", {}, "query"),
        ("def on_insert():\n    emitt('x')\n", {}, "parse"),
        (SCRIPT, {"from": "soon"}, "query"),
        (SCRIPT, {"once": "perhaps"}, "query"),
        (SCRIPT, {"filter": "nobody"}, "query"),
        (SCRIPT, {"until": "1"}, "query"),
    ):
        assert shop.request("POST", path, body, **parameters).error["class"] == error_class
    endless = 'def on_insert():\n    schedule(1, "again")\n\ndef again():\n    schedule(1, "again")\n'
    for window, words in (
        ({"from": "2024-01-02", "to": "2024-01-01"}, "from (2024-01-02T00:00:00.000Z) is later than to (2024-01-01T"),
        ({"from": "2999-01-01"}, "from (2999-01-01T00:00:00.000Z) is later than now ("),
    ):
        answer = shop.request("POST", path, SCRIPT, **window)
        assert answer.status == 400 and words in answer.error["message"]
    same = shop.request("POST", path, SCRIPT, **{"from": str(START), "to": str(START)}).json
    assert same["runs"] == 0, "a window that ends where it begins has nothing in it"
    assert "10,000 scheduled runs" in shop.request("POST", path, endless).error["message"]


def test_the_command_line(shop: Daemon) -> None:
    command = [sys.executable, "-m", "openset.cli", "backtest", "t", "mine", SCRIPT]
    command += ["--always", "--url", f"http://127.0.0.1:{shop.port}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.startswith("7 emissions of 3 people, 3 people replayed, 0 errors\n2023-11-14  big  1\n")
    listed = subprocess.run([*command, "--lines"], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 7


WRONG = """def on_insert():
    match where is_new and units is not 2:
        x = "units " + units
    match where is_new:
        emit("fine")
"""


def test_errors_are_told_beside_lines(shop: Daemon) -> None:
    answer = shop.request(
        "POST", "/v1/table/t/revent/wrong/backtest", WRONG, headers={"Accept": "application/x-ndjson"}, once="false"
    )
    assert answer.status == 200 and len(answer.body.splitlines()) == 1
    facts = json.loads(answer.headers["openset-info"])
    assert (facts["emissions"], facts["errors"], facts["disabled_at"]) == (1, 4, None)
    assert facts["last_error"].startswith("text + a number")
    command = [sys.executable, "-m", "openset.cli", "backtest", "t", "wrong", WRONG, "--always", "--lines"]
    ended = subprocess.run(
        [*command, "--url", f"http://127.0.0.1:{shop.port}"], capture_output=True, text=True, check=True
    )
    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr.startswith("4 runs failed, the last with: ")


def test_lines_only_where_they_are_wanted_most(shop: Daemon) -> None:
    path = "/v1/table/t/revent/mine/backtest"
    for accept, lines_come in (
        ("Application/X-NDJSON", True),
        ("application/x-ndjson;q=0.1, text/html", True),
        ("application/x-ndjson;q=0", False),
        ("application/json, application/x-ndjson;q=0.5", False),
        ("text/csv", False),
    ):
        answer = shop.request("POST", path, SCRIPT, headers={"Accept": accept})
        assert answer.headers["content-type"].startswith("application/x-ndjson") == lines_come, accept
        assert ("openset-info" in answer.headers) == lines_come


def test_a_name_that_no_trigger_can_have(shop: Daemon) -> None:
    """A script under it could be tried, but never saved."""
    for name in ("a%2Fb", "a%20b", "-a", "%C3%A9", "a" * 65):
        answer = shop.request("POST", f"/v1/table/t/revent/{name}/backtest", SCRIPT)
        assert answer.status == 400 and "trigger" in answer.error["message"], answer.body


FAILING = """def on_insert():
    match where is_new:
        if units > 2:
            x = -"text"
        x = "text" + units
"""


@pytest.mark.parametrize(("days", "words"), [(1, "text +"), (11, "- needs"), (61, "text +"), (71, "- needs")])
def test_the_last_error_is_that_of_the_latest_run(shop: Daemon, days: int, words: str) -> None:
    """Whoever was replayed first: people are replayed apart from one another."""
    until = str(START + days * DAY)
    answer = shop.request("POST", "/v1/table/t/revent/wrong/backtest", FAILING, to=until, once="false").json
    assert answer["errors"] == answer["runs"] > 0
    assert answer["last_error"].startswith(words), answer["last_error"]


def test_errors_in_a_row_end_a_backtest(tmp_path: Path) -> None:
    """As they disable the trigger: the default is ten."""
    with Daemon(tmp_path / "data", init=2, trigger_errors=3) as daemon:
        daemon.create("t", {"units": "int"})
        events = [
            {"person": f"p{number}", "stamp": START + number, "action": "buy", "attr": {"units": units}}
            for number, units in enumerate((1, 1, 2, 1, 1, 1, 2))
        ]
        daemon.insert("t", events)
        answer = daemon.request("POST", "/v1/table/t/revent/wrong/backtest", WRONG).json
        assert (answer["emissions"], answer["errors"], answer["runs"]) == (1, 5, 6)
        assert answer["disabled_at"] == START + 5 and answer["disabled_at_iso"].startswith("2023-11-14T")
        command = [sys.executable, "-m", "openset.cli", "backtest", "t", "wrong", WRONG]
        ended = subprocess.run(
            [*command, "--url", f"http://127.0.0.1:{daemon.port}"], capture_output=True, text=True, check=True
        )
        assert "would have disabled the trigger at 2023-11-14T" in ended.stdout


def test_a_replay_may_be_given_little_time(shop: Daemon) -> None:
    nested = "".join(f"{'    ' * depth}match:\n" for depth in range(1, 30))
    script = f"def on_insert():\n{nested}{'    ' * 30}schedule(1, 'on_insert')\n"
    command = [sys.executable, "-m", "openset.cli", "backtest", "t", "mine", script]
    command += ["--timeout", "200", "--url", f"http://127.0.0.1:{shop.port}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode != 0 and "time budget of 200 ms" in ended.stderr
