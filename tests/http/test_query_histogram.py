"""Histograms: how numbers become groups, what is filled in, folded, left out and refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
URL = "/v1/query/spending/histogram/spend"
SPEND = "return SUM price where action is 'buy'"
# What each person has spent: 5, 15, 25, … 95, -7.5, and two people nothing at all.
SPENT = [*range(5, 105, 10), -7.5]


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Daemon]:
    daemon.create("spending", {"price": "double", "city": "text"})
    events: list[dict[str, Any]] = [
        {"person": f"p{index}", "stamp": STAMP + part, "action": "buy", "attr": {"price": spent / 2, "city": "x"}}
        for index, spent in enumerate(SPENT)
        for part in range(2)
    ]
    events += [{"person": index, "stamp": STAMP, "action": "view"} for index in range(2)]
    daemon.insert("spending", events)
    segment = "@segment poor:\n    return (SUM price) < 20\n"
    assert daemon.request("POST", "/v1/query/spending/counts", segment).json["_"][0]["c"] == [3]
    yield daemon


def ask(shop: Daemon, script: str = SPEND, **parameters: Any) -> tuple[int, list[tuple[Any, int]]]:
    answer = shop.request("POST", URL, script, **parameters)
    assert answer.status == 200, answer.body
    (root,) = answer.json["_"]
    assert root["g"] == "spend"
    return root["c"][0], [(node["g"], node["c"][0]) for node in root["_"]]


def test_without_buckets_every_number_stands_for_itself(shop: Daemon) -> None:
    assert ask(shop) == (11, [(-7.5, 1), *((number, 1) for number in range(5, 105, 10))])


def test_buckets_are_filled_from_the_least_to_the_greatest(shop: Daemon) -> None:
    assert ask(shop, bucket=4, max=20) == (11, [(-8, 1), (-4, 0), (0, 0), (4, 1), (8, 0), (12, 1), (16, 0), (20, 8)])
    assert ask(shop, bucket=50) == (11, [(-50, 1), (0, 5), (50, 5)])


def test_min_and_max(shop: Daemon) -> None:
    assert ask(shop, bucket=50, min=-100, max=200) == (
        11, [(-100, 0), (-50, 1), (0, 5), (50, 5), (100, 0), (150, 0), (200, 0)],
    )  # fmt: skip
    assert ask(shop, bucket=20, min=0, max=60) == (10, [(0, 2), (20, 2), (40, 2), (60, 4)])
    # A limit inside a bucket: values count, not buckets.
    assert ask(shop, bucket=20, min=10, max=50) == (9, [(0, 1), (20, 2), (40, 6)])
    assert ask(shop, min=80) == (2, [(85, 1), (95, 1)])
    assert ask(shop, max=15) == (11, [(-7.5, 1), (5, 1), (15, 9)])
    assert ask(shop, bucket=20, min=40, max=40) == (6, [(40, 6)])


def test_order_and_trim(shop: Daemon) -> None:
    assert ask(shop, bucket=50, order="desc") == (11, [(50, 5), (0, 5), (-50, 1)])
    assert ask(shop, bucket=50, order="asc", trim=2) == (11, [(-50, 1), (0, 5)])
    assert ask(shop, bucket=50, order="desc", trim=1) == (11, [(50, 5)])
    assert ask(shop, bucket=50, trim=0) == (11, [])


def test_compared_segments_share_their_buckets(shop: Daemon) -> None:
    answer = shop.request("POST", URL, SPEND, bucket=50, segments="poor,*").json
    assert answer["_"] == [
        {
            "g": "spend",
            "c": [3],
            "c2": [11],
            "_": [
                {"g": -50, "c": [1], "c2": [1]},
                {"g": 0, "c": [2], "c2": [5]},
                {"g": 50, "c": [0], "c2": [5]},
            ],
        }
    ]


def test_nobody(shop: Daemon) -> None:
    assert ask(shop, "return SUM price where action is 'never'") == (0, [])
    assert ask(shop, "return SUM price where action is 'never'", bucket=10) == (0, [])
    assert ask(shop, "return SUM price where action is 'never'", bucket=10, min=0, max=20) == (
        0, [(0, 0), (10, 0), (20, 0)],
    )  # fmt: skip
    assert ask(shop, "tally(1)") == (0, [])


def test_kinds_of_numbers(shop: Daemon) -> None:
    assert ask(shop, "return event_count") == (13, [(1, 2), (2, 11)])
    assert ask(shop, "return event_count > 1") == (13, [(0, 2), (1, 11)])
    mixed = "if event_count > 1:\n    return 1.5\nreturn 1"
    assert ask(shop, mixed) == (13, [(1, 2), (1.5, 11)])
    assert ask(shop, "return {{n}}", int_n=7) == (13, [(7, 13)])
    # A container on the way: the interpreter answers for some people.
    assert ask(shop, "d = {}\nd['a'] = event_count\nreturn d['a'] * 2") == (13, [(2, 2), (4, 11)])


def test_what_is_no_number_is_refused(shop: Daemon) -> None:
    for script in ("return 'x'", "match:\n    return city", "return [1]"):
        answer = shop.request("POST", URL, script)
        assert (answer.status, answer.error["class"]) == (400, "run_time"), script
        assert "number" in answer.error["message"]


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({"bucket": "0"}, "above zero"),
        ({"bucket": "x"}, "not a number"),
        ({"min": "x"}, "min=x is not a number"),
        ({"max": "1", "min": "2"}, "below min"),
        ({"bucket": "0.0001"}, "at most 100,000"),
        ({"sort": "g"}, "unknown parameter 'sort'"),
        ({"order": "up"}, "asc or desc"),
        ({"tz": "Berlin"}, "tz=Berlin"),
        ({"str_x": "y"}, "{{x}}"),
    ],
)
def test_wrong_parameters(shop: Daemon, parameters: dict[str, str], says: str) -> None:
    answer = shop.request("POST", URL, SPEND, **parameters)
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert says in answer.error["message"]


def test_a_parse_error_has_a_place(shop: Daemon) -> None:
    error = shop.request("POST", URL, "return SUM prise").error
    assert (error["class"], error["line"]) == ("parse", 1)


def test_debug_info_and_explain(shop: Daemon) -> None:
    assert "price" in shop.request("POST", URL, SPEND, debug="true").json["debug"]
    info = shop.request("POST", URL, SPEND, info="true").json["info"]
    assert (info["people"], info["events"], info["rows"]) == (13, 24, 24)
    explained = shop.request("POST", URL, SPEND, explain="true").json["explain"]
    assert set(explained["columns"]) == {"action", "price"} and explained["people"] == 13


def test_log_lines_come_back_with_the_facts(shop: Daemon) -> None:
    script = "if event_count == 1:\n    log('seen', event_count)\nreturn event_count"
    answer = shop.request("POST", URL, script, info="true").json
    assert answer["log"] == ["seen 1", "seen 1"]
    assert "log" not in shop.request("POST", URL, script).json


def test_the_name_is_taken_from_the_address(shop: Daemon) -> None:
    answer = shop.request("POST", "/v1/query/spending/histogram/was ist%2Flos", "return 1").json
    assert answer["_"][0]["g"] == "was ist/los"
