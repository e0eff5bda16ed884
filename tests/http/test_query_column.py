"""Column queries beyond the rows of the REST page: built-in columns, filters together, what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
HOUR_MS = 3_600_000


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Daemon]:
    daemon.create("columns", {"city": "text", "price": "double", "units": "int", "gift": "bool", "empty": "text"})
    events: list[dict[str, Any]] = []
    for person in range(40):
        for step in range(3):
            attributes = {
                "city": ["Aachen", "Zürich", "", "a" * 40 + "!"][(person + step) % 4],
                "price": (person * 7 + step) % 11 - 5.5,
                "units": (1 << 62) + person % 2 if step == 0 else person % 5,
                "gift": None if step else person % 3 == 0,
            }
            stamp = STAMP + step * HOUR_MS
            identity: str | int = person if person % 2 else f"p{person}"
            events.append({"person": identity, "stamp": stamp, "action": "view", "attr": attributes})
    daemon.insert("columns", events)
    daemon.insert("columns", [{"person": 1, "stamp": STAMP, "action": "tags", "attr": {"city": ["x", "y", "x"]}}])
    yield daemon


def ask(shop: Daemon, name: str, **parameters: Any) -> dict[str, Any]:
    answer = shop.request("GET", f"/v1/query/columns/column/{name}", **parameters)
    assert answer.status == 200, answer.body
    (root,) = answer.json["_"]
    return dict(root)


def values(root: dict[str, Any]) -> list[tuple[Any, int]]:
    return [(node["g"], node["c"][0]) for node in root["_"]]


def test_people_are_counted_once_per_value(shop: Daemon) -> None:
    root = ask(shop, "city")
    assert root["c"] == [40]
    assert values(root) == [("", 30), ("Aachen", 30), ("Zürich", 30), ("a" * 40 + "!", 30), ("x", 1), ("y", 1)]


def test_bools(shop: Daemon) -> None:
    root = ask(shop, "gift")
    assert (root["c"], values(root)) == ([40], [(False, 26), (True, 14)])
    assert root["_"][0]["g"] is False


def test_a_column_nobody_has(shop: Daemon) -> None:
    assert ask(shop, "empty") == {"g": "empty", "c": [0], "_": []}


def test_built_in_columns(shop: Daemon) -> None:
    assert values(ask(shop, "action")) == [("view", 40), ("tags", 1)]
    assert values(ask(shop, "session")) == [(1, 40), (2, 40), (3, 40)]
    assert values(ask(shop, "session", session_time=HOUR_MS)) == [(1, 40)]
    assert values(ask(shop, "stamp", bucket=HOUR_MS, order="asc", trim=1))[0][1] == 40
    people = values(ask(shop, "person"))
    assert people[:2] == [(1, 1), (3, 1)] and len(people) == 40
    assert [name for name, _ in people[20:22]] == ["p0", "p10"]
    assert ask(shop, "people") == ask(shop, "person")
    assert values(ask(shop, "person", gte=37)) == [(37, 1), (39, 1)]
    assert values(ask(shop, "person", rx="^p3")) == [("p30", 1), ("p32", 1), ("p34", 1), ("p36", 1), ("p38", 1)]
    assert values(ask(shop, "person", bucket=20)) == [(0, 10), (20, 10), *((f"p{n}", 1) for n in sorted(
        range(0, 40, 2), key=str))]  # fmt: skip


def test_integers_are_compared_exactly(shop: Daemon) -> None:
    big = 1 << 62
    assert values(ask(shop, "units", gt=big)) == [(big + 1, 20)]
    assert values(ask(shop, "units", eq=big)) == [(big, 20)]
    assert values(ask(shop, "units", between=big, **{"and": big + 1})) == [(big, 20)]
    assert ask(shop, "units", gt="1e30")["c"] == [0]
    assert len(ask(shop, "units", gte="-1e30", lt="1e30")["_"]) == 7


def test_filters_combine_with_and(shop: Daemon) -> None:
    assert [name for name, _ in values(ask(shop, "city", sub="a", rx="n$"))] == ["Aachen"]
    assert set(dict(values(ask(shop, "price", gt=-2, lte="1.5")))) == {-1.5, -0.5, 0.5, 1.5}
    assert ask(shop, "city", eq="Aachen", sub="Z")["c"] == [0]


def test_buckets_floor_and_filters_look_at_values(shop: Daemon) -> None:
    buckets = dict(values(ask(shop, "price", bucket=2)))
    assert set(buckets) == {-6, -4, -2, 0, 2, 4}
    assert set(dict(values(ask(shop, "price", bucket=2, lt="-4.5")))) == {-6}
    assert set(dict(values(ask(shop, "price", bucket="0.5", gt=4)))) == {4.5}


def test_a_pattern_cannot_hang_the_daemon(shop: Daemon) -> None:
    started = time.monotonic()
    assert ask(shop, "city", rx="^(a+)+$")["c"] == [0]
    assert time.monotonic() - started < 5
    error = shop.request("GET", "/v1/query/columns/column/city", rx=r"^(?=a)((a|aa)+)+\1$").error
    assert error["class"] == "run_time" and "rx=" in error["message"]


@pytest.mark.parametrize(
    "name, parameters, says",
    [
        ("cty", {}, "did you mean 'city'"),
        ("price", {"rx": "a"}, "rx= is for texts"),
        ("units", {"sub": "a"}, "sub= is for texts"),
        ("gift", {"rx": "t"}, "rx= is for texts"),
        ("city", {"gt": "1"}, "gt= is for numbers"),
        ("city", {"between": "1", "and": "2"}, "between= is for numbers"),
        ("gift", {"lt": "1"}, "lt= is for numbers"),
        ("city", {"bucket": "1"}, "bucket= is for numbers"),
        ("gift", {"bucket": "1"}, "bucket= is for numbers"),
        ("action", {"gte": "1"}, "gte= is for numbers"),
        ("session", {"rx": "1"}, "rx= is for texts"),
        ("price", {"eq": "cheap"}, "eq=cheap is not a number"),
        ("price", {"gt": "nan"}, "gt=nan is not a number"),
        ("gift", {"eq": "1"}, "true or false"),
        ("price", {"bucket": "0"}, "above zero"),
        ("price", {"bucket": "-1"}, "above zero"),
        ("price", {"bucket": "wide"}, "not a number"),
        ("price", {"between": "1"}, "needs and="),
        ("price", {"and": "1"}, "needs between="),
        ("city", {"rx": "(a"}, "the group is not closed"),
        ("person", {"rx": "a", "gt": "1"}, "no id can pass both"),
        ("city", {"order": "up"}, "asc or desc"),
        ("city", {"trim": "-1"}, "trim"),
        ("city", {"segments": "nobody"}, "nobody"),
        ("city", {"sort": "g"}, "unknown parameter 'sort'"),
        ("city", {"tz": "UTC"}, "unknown parameter 'tz'"),
    ],
)
def test_what_is_refused(shop: Daemon, name: str, parameters: dict[str, str], says: str) -> None:
    answer = shop.request("GET", f"/v1/query/columns/column/{name}", **parameters)
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert says in answer.error["message"]


def test_an_unknown_table(shop: Daemon) -> None:
    answer = shop.request("GET", "/v1/query/colums/column/city")
    assert (answer.status, answer.error["class"]) == (400, "query")


def test_facts(shop: Daemon) -> None:
    answer = shop.request("GET", "/v1/query/columns/column/city", info="true", trim=0).json
    info = answer["info"]
    assert (info["people"], info["events"], info["rows"], info["partitions"]) == (40, 121, 123, 3)
    assert info["ms"] > 0 and info["snapshot_time"] > STAMP


def test_an_explanation_runs_nothing(shop: Daemon) -> None:
    explained = shop.request("GET", "/v1/query/columns/column/units", explain="true").json["explain"]
    assert (explained["people"], explained["rows"], explained["partitions"]) == (40, 123, 3)
    assert explained["columns"]["units"] == explained["bytes"] >= 8 * 123
    assert any("units" in line for line in explained["plan"])
