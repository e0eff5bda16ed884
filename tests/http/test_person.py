"""The person query: who, what order, how rows are folded, and that folded events go in again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
URL = "/v1/query/cart/person"


def person(daemon: Daemon, **who: Any) -> Any:
    answer = daemon.request("GET", URL, **who)
    assert answer.status == 200, answer.body
    return answer.json


def test_events_come_in_order_with_iso_stamps(daemon: Daemon) -> None:
    events = [
        {"person": "ann", "stamp": STAMP + 5, "action": "buy", "attr": {"product": "mug", "price": 2, "gift": True}},
        {"person": "ann", "stamp": STAMP + 5, "action": "other"},
        {"person": "ann", "stamp": STAMP + 5, "action": "view", "attr": {"units": 7}},
        {"person": "ann", "stamp": "2023-11-14T22:13:20Z", "action": "first in time"},
    ]
    daemon.insert("cart", events)
    assert person(daemon, sid="ann") == {
        "person": "ann",
        "events": [
            {"stamp": STAMP, "stamp_iso": "2023-11-14T22:13:20.000Z", "action": "first in time", "attr": {}},
            {"stamp": STAMP + 5, "stamp_iso": "2023-11-14T22:13:20.005Z", "action": "view", "attr": {"units": 7}},
            {
                "stamp": STAMP + 5,
                "stamp_iso": "2023-11-14T22:13:20.005Z",
                "action": "buy",
                "attr": {"product": "mug", "price": 2.0, "gift": True},
            },
            {"stamp": STAMP + 5, "stamp_iso": "2023-11-14T22:13:20.005Z", "action": "other", "attr": {}},
        ],
    }  # fmt: skip


@pytest.mark.parametrize("who", ["ann & bob?", "50% ünïcode/€", " leading", "'); --", "👩‍🚀", "7", "-"])
def test_text_ids_are_compared_as_they_were_sent(daemon: Daemon, who: str) -> None:
    daemon.insert("cart", [{"person": who, "stamp": STAMP, "action": "view"}])
    found = person(daemon, sid=who)
    assert found["person"] == who
    assert len(found["events"]) == 1


@pytest.mark.parametrize("who", [0, -1, 2**63 - 1, -(2**63)])
def test_integer_ids(daemon: Daemon, who: int) -> None:
    daemon.insert("cart", [{"person": who, "stamp": STAMP, "action": "view"}])
    assert person(daemon, id=who)["person"] == who


def test_an_unknown_person_is_named(daemon: Daemon) -> None:
    for name, value in (("sid", "nobody here"), ("id", "424242")):
        answer = daemon.request("GET", URL, **{name: value})
        assert (answer.status, answer.error["class"]) == (400, "query")
        assert value in answer.error["message"]


@pytest.mark.parametrize(
    "query", ["", "sid=", "sid=a&id=1", "id=one", "id=9223372036854775808", "name=a", "sid=a&sid=b"]
)
def test_it_must_be_said_who(daemon: Daemon, query: str) -> None:
    answer = daemon.raw("GET", f"{URL}?{query}")
    assert (answer.status, answer.error["class"]) == (400, "query")


def test_folded_events_go_in_again_as_the_same_rows(daemon: Daemon) -> None:
    columns = {"product": "text", "price": "double", "tag": "text", "group": "text"}
    daemon.create("nested", columns)
    daemon.create("nested_again", columns)
    attributes = {
        "price": 9.5,
        "_": [
            {"product": "rug", "tag": ["red", "small"], "_": [{"group": "bath"}, {"group": ["bed", "hall"]}]},
            {"product": "mug", "price": 2},
        ],
    }
    daemon.insert("nested", [{"person": 1, "stamp": STAMP, "action": "buy", "attr": attributes}])
    folded = daemon.request("GET", "/v1/query/nested/person", id=1).json["events"]
    again = [
        {"person": 1, "stamp": event["stamp"], "action": event["action"], "attr": event["attr"]} for event in folded
    ]
    daemon.insert("nested_again", again)
    script = (
        "agg:\n    var n << n\nn = 0\nmatch:\n    n += 1\n    tally(n, product, price, tag, group)\n    tally('rows')"
    )
    trees = [daemon.events(table, script) for table in ("nested", "nested_again")]
    assert trees[0] == trees[1]
    assert json.dumps(trees[0]).count('"mug"') == 1
    assert len(trees[0]["_"]) == 8
