"""Explaining a person over HTTP and on the command line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import Daemon

SCRIPT = """match where action is "buy" and price > 10 and product in ["rug", "mug"]:
    first = product
    match where action is "view" or flag is True:
        tally(first, product)
return SUM price
"""
TEXT = """ann: 4 events, 4 rows
line 1: match where action == 'buy' and price > 10 and product in ['rug', 'mug'], from row 0
  row 1  2024-01-01T00:01:00.000Z  buy
    line 3: match where action == 'view' or flag == True, from row 1
      row 3  2024-01-01T00:03:00.000Z  view
        line 4: tally("rug", "mug")
    1 row visited
    2 rows left out by: action == 'view' or flag == True
      row 1  2024-01-01T00:01:00.000Z  buy  action = "buy", flag = None
      row 2  2024-01-01T00:02:00.000Z  buy  action = "buy", flag = None
1 row visited
2 rows left out by: action == 'buy'
  row 0  2024-01-01T00:00:00.000Z  view  action = "view"
  row 3  2024-01-01T00:03:00.000Z  view  action = "view"
1 row left out by: price > 10
  row 2  2024-01-01T00:02:00.000Z  buy  price = 4.0
line 5: return 24.0
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("explain") / "data", init=2) as daemon:
        daemon.create("t", {"product": "text", "price": "double", "flag": "bool"})
        rows = [("view", "rug", None), ("buy", "rug", 20.0), ("buy", "mug", 4.0), ("view", "mug", None)]
        daemon.insert(
            "t",
            [
                {"person": "ann", "stamp": f"2024-01-01T00:0{minute}:00Z", "action": action,
                 "attr": {"product": product, "price": price}}
                for minute, (action, product, price) in enumerate(rows)
            ]
            + [{"person": 7, "stamp": "2024-01-01T00:00:00Z", "action": "view"}],
        )  # fmt: skip
        yield daemon


def test_text(shop: Daemon) -> None:
    answer = shop.request("POST", "/v1/query/t/explain", SCRIPT, sid="ann", headers={"Accept": "text/plain"})
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    assert answer.body.decode() == TEXT


def test_json(shop: Daemon) -> None:
    answer = shop.request("POST", "/v1/query/t/explain", SCRIPT, sid="ann").json
    assert (answer["person"], answer["events"], answer["rows"]) == ("ann", 4, 4)
    (run,) = answer["runs"]
    assert run["returned"] == 24.0 and run["tallied"] is True and run["error"] is None
    assert [step["what"] for step in run["steps"]] == [
        "match",
        "visit",
        "match",
        "visit",
        "tally",
        "end",
        "end",
        "return",
    ]
    assert run["steps"][4]["keys"] == ["rug", "mug"]


def test_the_command_line_shows_the_same(shop: Daemon) -> None:
    url = f"http://127.0.0.1:{shop.port}"
    command = [sys.executable, "-m", "openset.cli", "explain", "t", "ann", SCRIPT, "--url", url]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == TEXT
    asked = [*command[:5], "7", 'match where price > {{least}}: tally("x")', "--id", "--param", "least=1", "--url", url]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    assert "1 row left out by: price > {{least}}" in shown and "price = None" in shown


def test_segments(shop: Daemon) -> None:
    sections = "@segment views:\n    match where action is 'view': tally\n@segment dear:\n    return SUM price > 100\n"
    answer = shop.request("POST", "/v1/query/t/explain", sections, sid="ann").json
    assert [(run["segment"], run["tallied"], run["returned"]) for run in answer["runs"]] == [
        ("views", True, None), ("dear", False, False),
    ]  # fmt: skip
    text = shop.request("POST", "/v1/query/t/explain", sections, sid="ann", headers={"Accept": "text/plain"}).body
    assert b"segment views\n" in text and b"does not belong to it" in text
    algebra = "@segment others:\n    complement(views)\n"
    assert "set algebra" in shop.request("POST", "/v1/query/t/explain", algebra, sid="ann").error["message"]


def test_triggers(shop: Daemon) -> None:
    script = """def on_insert():
    schedule(3 days, "later")
    match where is_new:
        emit("seen", {"product": product})

def later():
    emit("late")
"""
    (run,) = shop.request("POST", "/v1/query/t/explain", script, sid="ann").json["runs"]
    assert [step["what"] for step in run["steps"]] == ["schedule", "match", "visit", "emit", "end"]
    assert run["steps"][2]["row"] == 3 and run["steps"][3]["value"] == {"product": "mug"}


def test_errors(shop: Daemon) -> None:
    (run,) = shop.request("POST", "/v1/query/t/explain", "match:\n    x = -product\n", sid="ann").json["runs"]
    assert run["error"]["line"] == 2
    for script, parameters, error_class in (
        ("match where prodct is 1: tally(1)", {"sid": "ann"}, "parse"),
        ("tally(1)", {"sid": "nobody"}, "query"),
        ("tally(1)", {}, "query"),
        ("tally({{x}})", {"sid": "ann"}, "query"),
        ("tally(1)", {"sid": "ann", "trim": "3"}, "query"),
    ):
        assert shop.request("POST", "/v1/query/t/explain", script, **parameters).error["class"] == error_class


def test_long_runs_are_cut(shop: Daemon) -> None:
    script = "match:\n    for i in [1, 2, 3, 4, 5, 6, 7, 8]:\n        for j in [1, 2, 3, 4, 5, 6, 7, 8, 9]:\n"
    script += "            for k in [1, 2, 3, 4, 5, 6, 7, 8, 9]:\n                tally(k)\n"
    (run,) = shop.request("POST", "/v1/query/t/explain", script, sid="ann").json["runs"]
    assert len(run["steps"]) == 2_000 and run["left_out"] == 4 * 8 * 9 * 9 + 4 + 2 - 2_000


def test_watching_changes_nothing(shop: Daemon, tmp_path: Path) -> None:
    script = """def grown():
    n += 1
    return n
n = 0
match where grown() > 1 and grown() > 2: tally(n)
return n
"""
    (run,) = shop.request("POST", "/v1/query/t/explain", script, sid="ann").json["runs"]
    tree = shop.events("t", script)["_"]
    keys = [step["keys"][0] for step in run["steps"] if step["what"] == "tally"]
    assert sorted(keys) == sorted(entry["g"] for entry in tree if entry["g"] in keys) and keys
