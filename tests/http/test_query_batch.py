"""Batches: every kind of query, each with the answer it has by itself, errors in their places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
URL = "/v1/query/batches/batch"
PIVOT = "agg:\n    people\n    sum price as spent\nmatch:\n    tally(product, action)\n"


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Daemon]:
    daemon.create("batches", {"product": "text", "price": "double"})
    events = [
        {
            "person": f"p{number % 9}",
            "stamp": STAMP + number * 1_000,
            "action": ["view", "buy"][number % 2],
            "attr": {"product": ["mug", "rug", "tent"][number % 3], "price": float(number % 7)},
        }
        for number in range(120)
    ]
    daemon.insert("batches", events)
    yield daemon


def ask(shop: Daemon, *queries: Any) -> list[Any]:
    answer = shop.request("POST", URL, json.dumps(queries))
    assert answer.status == 200, answer.body
    found: list[Any] = answer.json
    assert len(found) == len(queries)
    return found


def test_each_query_is_answered_as_by_itself(shop: Daemon) -> None:
    answers = ask(
        shop,
        {"query": "events", "script": PIVOT, "sort": "spent", "order": "asc", "trim": 2},
        {"query": "column", "column": "price", "bucket": 2, "gt": 1.5},
        {"query": "histogram", "name": "spend", "script": "return SUM price", "bucket": 5},
        {"query": "person", "sid": "p3"},
        {"query": "events", "script": "match where product is {{x}}:\n    tally(product)", "str_x": "mug"},
        {"query": "events", "script": PIVOT, "debug": True},
        {"query": "column", "column": "product", "explain": True},
    )
    alone = [
        shop.request("POST", "/v1/query/batches/events", PIVOT, sort="spent", order="asc", trim=2),
        shop.request("GET", "/v1/query/batches/column/price", bucket=2, gt="1.5"),
        shop.request("POST", "/v1/query/batches/histogram/spend", "return SUM price", bucket=5),
        shop.request("GET", "/v1/query/batches/person", sid="p3"),
        shop.request(
            "POST", "/v1/query/batches/events", "match where product is {{x}}:\n    tally(product)", str_x="mug"
        ),
        shop.request("POST", "/v1/query/batches/events", PIVOT, debug="true"),
        shop.request("GET", "/v1/query/batches/column/product", explain="true"),
    ]
    assert answers == [each.json for each in alone]


def test_segments_of_a_batch_are_made_before_they_are_compared(shop: Daemon) -> None:
    compared, made = ask(
        shop,
        {"query": "column", "column": "action", "segments": ["*", "first_two"]},
        {"query": "counts", "script": "@segment first_two:\n    match where person in ['p0', 'p1']:\n        tally\n"},
    )
    assert made == {"_": [{"g": "first_two", "c": [2]}]}
    assert (compared["_"][0]["c"], compared["_"][0]["c2"]) == ([9], [2])


def test_failures_stay_in_their_places(shop: Daemon) -> None:
    answers = ask(
        shop,
        {"query": "events", "script": "match:\n    tally(prodct)"},
        {"query": "events", "script": "match:\n    tally(product - 1)"},
        {"query": "column", "column": "prise"},
        {"query": "column", "column": "price", "rx": "1"},
        {"query": "person", "sid": "nobody"},
        {"query": "person"},
        {"query": "evnts", "script": PIVOT},
        {"query": "events"},
        {"query": "events", "script": PIVOT, "ordr": "asc"},
        {"query": "events", "script": PIVOT, "trim": [1]},
        {"query": "column", "column": "product", "segments": ["never_made"]},
        "column",
        {"query": "column", "column": "product"},
    )
    classes = [answer["error"]["class"] if "error" in answer else None for answer in answers]
    assert classes == ["parse", "run_time", *["query"] * 10, None]
    says = [answer["error"]["message"] for answer in answers if "error" in answer]
    for message, part in zip(
        says,
        ["prodct", "text", "did you mean 'price'", "rx=", "nobody", "sid=", "did you mean 'events'", '"script"',
         "did you mean 'order'", '"trim"', "never_made", "object"],
        strict=True,
    ):  # fmt: skip
        assert part in message
    assert answers[0]["error"]["line"] == 2


def test_a_query_that_takes_too_long_leaves_the_others_alone(shop: Daemon) -> None:
    endless = "n = 0\nmatch:\n    match:\n        match:\n            match:\n                n = n * 3 + 1\ntally(n)"
    late, whole = ask(
        shop,
        {"query": "events", "script": endless, "timeout": 1},
        {"query": "column", "column": "action"},
    )
    assert late["error"]["class"] == "run_time" and "timeout" in late["error"]["message"]
    assert whole["_"][0]["c"] == [9]


def test_an_empty_batch(shop: Daemon) -> None:
    assert ask(shop) == []


@pytest.mark.parametrize(
    "body, says",
    [
        ("{}", "JSON list"),
        ("[", "JSON list"),
        ("", "JSON list"),
        (json.dumps([{"query": "column", "column": "product"}] * 101), "at most 100"),
    ],
)
def test_what_is_no_batch(shop: Daemon, body: str, says: str) -> None:
    answer = shop.request("POST", URL, body)
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert says in answer.error["message"]


def test_an_unknown_table_and_parameters(shop: Daemon) -> None:
    assert shop.request("POST", "/v1/query/nothing/batch", "[]").error["class"] == "query"
    assert "unknown parameter" in shop.request("POST", URL, "[]", trim=1).error["message"]
