"""Answers in other forms: flat tables, gzip, explanations, and dates in time zones."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pyarrow.ipc
import pytest
from support.daemon import Daemon, Response

ARROW = "application/vnd.apache.arrow.stream"
# 30 March 2024, 23:30 UTC: it is Sunday already in Berlin, an hour before the clocks go forward.
LATE_MS = 1_711_841_400_000
HOUR_MS = 3_600_000
PIVOT = "agg:\n    people\n    sum price as spent\n    min price\nmatch:\n    tally(action, product)\n"


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Daemon]:
    daemon.create("forms", {"product": "text", "price": "double", "gift": "bool"})
    rows: list[tuple[str | int, str, dict[str, Any]]] = [
        ("ann", "buy", {"product": 'a "mug", blue', "price": 7.5, "gift": True}),
        ("bob", "buy", {"product": "tent", "price": 249.0}),
        (7, "view", {}),
        ("7", "view", {"product": "tüte"}),
    ]
    daemon.insert(
        "forms",
        [
            {"person": person, "stamp": LATE_MS + 2 * number * HOUR_MS, "action": action, "attr": attributes}
            for number, (person, action, attributes) in enumerate(rows)
        ],
    )
    segment = "@segment buyers:\n    match where action is 'buy':\n        tally\n"
    assert daemon.request("POST", "/v1/query/forms/counts", segment).status == 200
    yield daemon


def events(shop: Daemon, script: str, accept: str, **parameters: Any) -> Response:
    answer = shop.request("POST", "/v1/query/forms/events", script, headers={"Accept": accept}, **parameters)
    assert answer.status == 200, answer.body
    return answer


def test_csv(shop: Daemon) -> None:
    answer = events(shop, PIVOT, "text/csv")
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    assert list(csv.reader(io.StringIO(answer.body.decode(), newline=""))) == [
        ["key1", "key2", "people", "spent", "price"],
        ["buy", 'a "mug", blue', "1", "7.5", "7.5"],
        ["buy", "tent", "1", "249.0", "249.0"],
        ["view", "tüte", "1", "0", ""],
    ]


def test_shorter_paths_have_empty_keys(shop: Daemon) -> None:
    script = "match where action is 'buy':\n    tally(product, gift)"
    rows = list(csv.reader(io.StringIO(events(shop, script, "text/csv").body.decode(), newline="")))
    assert rows == [["key1", "key2", "person"], ['a "mug", blue', "true", "1"], ["tent", "", "1"]]


def test_newline_delimited_json(shop: Daemon) -> None:
    answer = events(shop, PIVOT, "application/x-ndjson")
    assert answer.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[0] == {"key1": "buy", "key2": 'a "mug", blue', "people": 1, "spent": 7.5, "price": 7.5}
    assert lines[2] == {"key1": "view", "key2": "tüte", "people": 1, "spent": 0, "price": None}


def test_arrow(shop: Daemon) -> None:
    answer = events(shop, PIVOT, ARROW)
    assert answer.headers["content-type"] == ARROW
    table = pyarrow.ipc.open_stream(answer.body).read_all()
    assert table.schema.names == ["key1", "key2", "people", "spent", "price"]
    assert [str(field.type) for field in table.schema] == ["string", "string", "int64", "double", "double"]
    assert table.to_pylist()[2] == {"key1": "view", "key2": "tüte", "people": 1, "spent": 0.0, "price": None}


def test_keys_of_several_kinds_are_text_in_arrow(shop: Daemon) -> None:
    answer = shop.request("GET", "/v1/query/forms/column/person", headers={"Accept": ARROW})
    table = pyarrow.ipc.open_stream(answer.body).read_all()
    assert table.column("key2").to_pylist() == ["7", "7", "ann", "bob"]
    assert table.column("people").to_pylist() == [1, 1, 1, 1]


@pytest.mark.parametrize("accept", ["text/csv", "application/x-ndjson", ARROW])
def test_an_empty_result(shop: Daemon, accept: str) -> None:
    body = events(shop, "match where action is 'never':\n    tally(1)", accept).body
    if accept == "text/csv":
        assert body == b"key1,person\r\n"
    elif accept == ARROW:
        assert pyarrow.ipc.open_stream(body).read_all().num_rows == 0
    else:
        assert body == b""


def test_columns_histograms_counts_and_segments(shop: Daemon) -> None:
    headers = {"Accept": "text/csv"}
    answer = shop.request("GET", "/v1/query/forms/column/action", headers=headers, segments="*,buyers")
    assert answer.body.decode().splitlines() == [
        "key1,key2,people@*,people@buyers",
        "action,buy,2,2",
        "action,view,2,0",
    ]
    answer = shop.request("POST", "/v1/query/forms/histogram/n", "return event_count", headers=headers)
    assert answer.body.decode().splitlines() == ["key1,key2,people", "n,1,4"]
    answer = shop.request("POST", "/v1/query/forms/counts", "@segment all_of_them:\n    return True\n", headers=headers)
    assert answer.body.decode().splitlines() == ["key1,people", "all_of_them,4"]


def test_equal_names_of_columns_are_told_apart(shop: Daemon) -> None:
    script = "agg:\n    count person as key1\n    count price\nmatch:\n    tally(action)"
    assert events(shop, script, "text/csv").body.decode().splitlines()[0] == "key1,key1_2,price"


@pytest.mark.parametrize(
    "accept, kind",
    [
        ("*/*", "application/json"),
        ("application/json, text/csv", "application/json"),
        ("text/csv;q=0.5, application/json;q=0.1", "text/csv"),
        ("text/html, text/csv;q=0.8", "text/csv"),
        ("text/csv;q=0, */*", "application/json"),
        ("image/png", "application/json"),
        ("TEXT/CSV", "text/csv"),
    ],
)
def test_negotiation(shop: Daemon, accept: str, kind: str) -> None:
    assert events(shop, PIVOT, accept).headers["content-type"].startswith(kind)


def test_errors_and_explanations_are_json(shop: Daemon) -> None:
    headers = {"Accept": "text/csv"}
    error = shop.request("POST", "/v1/query/forms/events", "tally(", headers=headers).error
    assert error["class"] == "parse"
    assert events(shop, PIVOT, "text/csv", debug="true").json.keys() == {"debug"}
    assert events(shop, PIVOT, "text/csv", explain="true").json.keys() == {"explain"}


def test_facts_are_in_a_header(shop: Daemon) -> None:
    answer = events(shop, PIVOT, "text/csv", info="true")
    assert json.loads(answer.headers["openset-info"])["people"] == 4
    assert "openset-info" not in events(shop, PIVOT, "text/csv").headers


@pytest.mark.parametrize(
    "accepted, compressed",
    [("gzip", True), ("deflate, gzip;q=0.5", True), ("*", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_gzip(shop: Daemon, accepted: str, compressed: bool) -> None:
    script = "for n in [" + ", ".join(str(number) for number in range(300)) + "]:\n    tally(n)"
    plain = shop.events("forms", script)
    answer = shop.request("POST", "/v1/query/forms/events", script, headers={"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == ("gzip" if compressed else None)
    assert "Accept-Encoding" in answer.headers["vary"]
    body = gzip.decompress(answer.body) if compressed else answer.body
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert json.loads(body) == plain


def test_small_answers_are_not_compressed(shop: Daemon) -> None:
    answer = shop.request("GET", "/ping", headers={"Accept-Encoding": "gzip"})
    assert answer.json == {"pong": True} and "content-encoding" not in answer.headers


# ---------------------------------------------------------------- explain


def test_an_explanation_of_events(shop: Daemon) -> None:
    script = "match where action is 'buy':\n    tally(product)"
    explained = shop.events("forms", script, explain="true")["explain"]
    assert (explained["people"], explained["events"], explained["rows"], explained["partitions"]) == (4, 4, 4, 3)
    assert set(explained["columns"]) == {"action", "product"}
    assert explained["bytes"] == sum(explained["columns"].values())
    assert explained["candidates"] == 2
    assert any("match" in line for line in explained["plan"])
    assert shop.events("forms", "match:\n    tally(product)", explain="true")["explain"]["candidates"] is None
    of_segment = shop.events("forms", script, explain="true", segments="buyers")["explain"]
    assert (of_segment["people"], of_segment["candidates"]) == (2, 2)


def test_facts_and_explanation_of_a_person(shop: Daemon) -> None:
    answer = shop.request("GET", "/v1/query/forms/person", sid="ann", info="true").json
    assert answer["person"] == "ann" and len(answer["events"]) == 1
    assert {name: answer["info"][name] for name in ("people", "events", "rows", "partitions")} == {
        "people": 1, "events": 1, "rows": 1, "partitions": 1,
    }  # fmt: skip
    explained = shop.request("GET", "/v1/query/forms/person", sid="ann", explain="true").json["explain"]
    assert (explained["people"], explained["events"], explained["rows"]) == (1, 1, 1)
    assert explained["columns"]["price"] == 8  # the value; that all of them are there takes nothing
    assert "nobody" in shop.request("GET", "/v1/query/forms/person", sid="nobody", explain="true").error["message"]


# ---------------------------------------------------------------- time zones

DAYS = "match:\n    tally(get_day_of_week(stamp), get_hour(stamp))"


def test_dates_are_utc_without_a_zone(shop: Daemon) -> None:
    hours = [(day["g"], [hour["g"] for hour in day["_"]]) for day in shop.events("forms", DAYS, sort="key")["_"]]
    assert hours == [(7, [23]), (1, [5, 3, 1])]
    assert shop.events("forms", DAYS, tz="UTC") == shop.events("forms", DAYS)


def test_dates_in_a_zone(shop: Daemon) -> None:
    answer = shop.events("forms", DAYS, tz="Europe/Berlin", sort="key")
    # The clocks go from 2 to 3 on that morning.
    assert [(day["g"], [hour["g"] for hour in day["_"]]) for day in answer["_"]] == [(1, [7, 5, 3, 0])]
    script = "match where iter_between('2024-03-31', '2024-03-31T03:30:00'):\n    tally(date_day(stamp))"
    answer = shop.events("forms", script, tz="Europe/Berlin")
    assert answer["_"] == [{"g": LATE_MS - HOUR_MS // 2, "c": [1]}]


def test_segments_and_histograms_in_a_zone(shop: Daemon) -> None:
    script = "@segment sundays:\n    match where get_day_of_week(stamp) == 1:\n        tally\n"
    for zone, people in (("Europe/Berlin", 4), ("UTC", 3), ("America/New_York", 1)):
        answer = shop.request("POST", "/v1/query/forms/counts", script.replace(":", " use_cached:", 1), tz=zone)
        assert answer.json["_"] == [{"g": "sundays", "c": [people]}]
    answer = shop.request("POST", "/v1/query/forms/histogram/h", "return get_hour(first_event)", tz="Asia/Kolkata")
    assert [node["g"] for node in answer.json["_"][0]["_"]] == [5, 7, 9, 11]


@pytest.mark.parametrize(
    "zone, says", [("europe/berlin", "did you mean 'Europe/Berlin'"), ("Europe", "not the name"), ("", "tz="),
                   ("../../etc/passwd", "not the name"), ("UTC+1", "not the name"), ("CEST", "not the name")]
)  # fmt: skip
def test_unknown_zones(shop: Daemon, zone: str, says: str) -> None:
    answer = shop.request("POST", "/v1/query/forms/events", DAYS, tz=zone)
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert says in answer.error["message"]
