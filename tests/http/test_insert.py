"""Inserts: bodies, answers, what is refused."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000


def people(daemon: Daemon, table: str = "cart") -> int:
    tree = daemon.events(table, "tally('all')")["_"]
    return int(tree[0]["c"][0]) if tree else 0


def post(daemon: Daemon, body: Any, **options: Any) -> Any:
    sent = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return daemon.request("POST", "/v1/insert/cart", sent, **options)


def test_a_list_and_ndjson_and_gzip(daemon: Daemon) -> None:
    events = [{"person": f"format {number}", "stamp": STAMP, "action": "view"} for number in range(3)]
    before = people(daemon)
    lines = "\n".join(json.dumps(event) for event in events) + "\n\n"
    ndjson = {"Content-Type": "application/x-ndjson"}
    assert post(daemon, events[:1]).json == {"message": "yummy", "accepted": 1}
    assert post(daemon, lines, headers=ndjson).json == {"message": "yummy", "accepted": 3}
    zipped = gzip.compress(lines.encode())
    assert post(daemon, zipped, headers={**ndjson, "Content-Encoding": "gzip"}).json["accepted"] == 3
    two_members = gzip.compress(b"[") + gzip.compress(json.dumps(events[0]).encode() + b"]")
    assert post(daemon, two_members, headers={"Content-Encoding": "gzip"}).json["accepted"] == 1
    assert people(daemon) == before + 3


def test_an_empty_list_is_fine(daemon: Daemon) -> None:
    assert post(daemon, "[]").json == {"message": "yummy", "accepted": 0}
    assert post(daemon, "", headers={"Content-Type": "application/x-ndjson"}).json["accepted"] == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff\xfe", b"{", b"nope", b"[{]", b'{"person": 1}', b"[" * 100_000, b"null", b'"text"'],
)
def test_hostile_bodies(daemon: Daemon, body: bytes) -> None:
    answer = post(daemon, body)
    assert (answer.status, answer.error["class"]) == (400, "insert")


def test_deep_attributes(daemon: Daemon) -> None:
    deep = '{"_":[' * 5_000 + "{}" + "]}" * 5_000
    answer = post(daemon, '[{"person":"a","action":"b","attr":' + deep + "}]")
    assert (answer.status, answer.error["class"]) == (400, "insert")


BAD = [
    {"person": True, "action": "a"},
    {"person": "", "action": "a"},
    {"action": "a"},
    {"person": "p"},
    {"person": "p", "action": 3},
    {"person": "p", "action": "a", "attr": {"price": "x"}},
    {"person": "p", "action": "a", "attr": {"units": 2.5}},
    {"person": "p", "action": "a", "attr": {"prize": 1}},
    {"person": "p", "action": "a", "stamp": -5},
    {"person": "p", "action": "a", "stamp": "yesterday"},
    {"person": "p", "action": "a", "attr": {"product": ["x"] * 200, "units": list(range(200))}},
]


def test_bad_events_make_the_request_a_400_and_insert_nothing(daemon: Daemon) -> None:
    before = people(daemon)
    good = {"person": "bystander", "stamp": STAMP, "action": "view"}
    error = post(daemon, [good, *BAD]).error
    assert error["class"] == "insert"
    assert [problem["index"] for problem in error["detail"]] == list(range(1, len(BAD) + 1))
    assert all(problem["reason"] for problem in error["detail"])
    assert people(daemon) == before


def test_not_a_number_is_refused(daemon: Daemon) -> None:
    body = '[{"person":"p","action":"a","attr":{"price":NaN}}]'
    assert post(daemon, body).error["class"] == "insert"


def test_the_first_20_problems_are_listed(daemon: Daemon) -> None:
    error = post(daemon, [{"person": "p"}] * 50).error
    assert [problem["index"] for problem in error["detail"]] == list(range(20))
    assert "50" in error["message"]


def test_skip_inserts_the_good_ones_and_reports_the_rest(daemon: Daemon) -> None:
    before = people(daemon)
    good = {"person": "skipped to", "stamp": STAMP, "action": "view"}
    answer = post(daemon, [BAD[0], good, *BAD[1:]], on_error="skip")
    assert answer.status == 200
    assert answer.json["message"] == "yummy"
    assert answer.json["accepted"] == 1
    assert answer.json["rejected"] == len(BAD)
    assert [problem["index"] for problem in answer.json["errors"]] == [0, *range(2, len(BAD) + 1)]
    assert people(daemon) == before + 1
    assert post(daemon, [good], on_error="ignore").error["class"] == "insert"


def test_events_without_a_stamp_get_now_and_the_next_milliseconds(daemon: Daemon) -> None:
    before = time.time_ns() // 1_000_000
    post(daemon, [{"person": "clock", "action": "tick"}] * 3 + [{"person": "clock", "action": "tock"}])
    after = time.time_ns() // 1_000_000
    events = daemon.request("GET", "/v1/query/cart/person", sid="clock").json["events"]
    ticks = [event["stamp"] for event in events if event["action"] == "tick"]
    tocks = [event["stamp"] for event in events if event["action"] == "tock"]
    assert before <= ticks[0] <= after
    assert ticks == [ticks[0], ticks[0] + 1, ticks[0] + 2]
    assert tocks == [ticks[0]]


def test_events_without_a_stamp_of_many_requests_are_all_kept(daemon: Daemon) -> None:
    event = {"person": "in a hurry", "action": "view"}
    for count in (100, 1, 100, 1):
        assert post(daemon, [event] * count).json["accepted"] == count
    events = daemon.request("GET", "/v1/query/cart/person", sid="in a hurry").json["events"]
    assert len({event["stamp"] for event in events}) == len(events) == 202


def test_the_same_identity_replaces(daemon: Daemon) -> None:
    event = {"person": "same", "stamp": STAMP, "action": "buy", "attr": {"price": 1}}
    post(daemon, [event, {**event, "attr": {"price": 2}}])
    post(daemon, [{**event, "attr": {"price": 3.5}}])
    script = "agg:\n    count stamp\n    sum price\nmatch where person is 'same':\n    tally('all')"
    assert daemon.events("cart", script) == {"_": [{"g": "all", "c": [1, 3.5]}]}


def test_a_query_sees_what_was_just_acknowledged(daemon: Daemon) -> None:
    script = "agg:\n    count stamp\nmatch where person is 'fresh':\n    tally('n')"
    for number in range(20):
        daemon.insert("cart", [{"person": "fresh", "stamp": STAMP + number, "action": "view"}])
        assert daemon.events("cart", script)["_"][0]["c"] == [number + 1]


def test_text_and_integer_persons_are_two(daemon: Daemon) -> None:
    for person, product in (("77", "text"), (77, "int")):
        daemon.insert("cart", [{"person": person, "stamp": STAMP, "action": "view", "attr": {"product": product}}])
    assert daemon.request("GET", "/v1/query/cart/person", sid="77").json["events"][0]["attr"] == {"product": "text"}
    assert daemon.request("GET", "/v1/query/cart/person", id=77).json["events"][0]["attr"] == {"product": "int"}
