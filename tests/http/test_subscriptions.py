"""Messages of triggers over HTTP: long polls, acknowledgements, leases, streams, webhooks and dead letters."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.receiver import Receiver
from support.segment_daemon import wait_until

from openset.http.subscription import MOST_UNACKNOWLEDGED

STAMP = 1_700_000_000_000
TRIGGER = """def on_insert():
    match where is_new:
        emit("bought", {"word": word})
"""
SUBSCRIPTION = "/v1/subscription/t/buys/mine"


def started(data: Path, **options: Any) -> Daemon:
    daemon = Daemon(data, init=2, webhook_allow="127.0.0.1", **options)
    daemon.create("t", {"word": "text"})
    answer = daemon.request("POST", "/v1/table/t/revent/buys", TRIGGER, once="false")
    assert answer.status == 200, answer.body
    return daemon


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Daemon]:
    with started(tmp_path / "data") as daemon:
        yield daemon


def buy(daemon: Daemon, *people: str, stamp: int = STAMP) -> None:
    daemon.insert(
        "t",
        [
            {"person": person, "stamp": stamp + place, "action": "buy", "attr": {"word": f"w-{person}"}}
            for place, person in enumerate(people)
        ],
    )


def poll(daemon: Daemon, path: str = SUBSCRIPTION, body: Any = None, **parameters: Any) -> dict[str, Any]:
    given = None if body is None else json.dumps(body)
    answer = daemon.request("POST", path, given, **parameters)
    assert answer.status == 200, answer.body
    return dict(answer.json)


def people(answer: dict[str, Any]) -> list[Any]:
    return [message["person"] for message in answer["messages"]]


def test_messages_come_once_they_are_acknowledged(shop: Daemon) -> None:
    buy(shop, "ann", "bob")
    first = poll(shop, timeout=5_000, max=1)
    (message,) = first["messages"]
    assert message.keys() == {"id", "stamp", "stamp_iso", "person", "trigger", "name", "value", "ack"}
    assert message["trigger"] == "buys" and message["name"] == "bought"
    assert message["value"] == {"word": f"w-{message['person']}"}
    assert message["stamp_iso"].endswith("Z") and abs(message["stamp"] / 1_000 - time.time()) < 60
    second = poll(shop, timeout=5_000, ack=first["ack"])
    assert sorted(people(first) + people(second)) == ["ann", "bob"]
    poll(shop, body=[second["messages"][0]["ack"]], timeout=0)
    poll(shop, body=[second["ack"]], timeout=0)  # twice is harmless
    described = shop.request("GET", SUBSCRIPTION).json
    assert (described["pending"], described["leased"], described["hold"]) == (0, 0, 3 * 3_600_000)


def test_what_is_not_acknowledged_comes_again_with_the_same_id(shop: Daemon) -> None:
    buy(shop, "ann")
    first = poll(shop, timeout=5_000, lease=300)
    assert poll(shop, timeout=0) == {"messages": []}
    again = poll(shop, timeout=5_000)
    assert [m["id"] for m in again["messages"]] == [m["id"] for m in first["messages"]]
    assert poll(shop, timeout=0, auto_ack="true", ack=again["ack"]) == {"messages": []}


def test_auto_ack(shop: Daemon) -> None:
    buy(shop, "ann")
    assert people(poll(shop, timeout=5_000, auto_ack="true")) == ["ann"]
    assert poll(shop, timeout=0, lease=100)["messages"] == []
    assert shop.request("GET", SUBSCRIPTION).json["pending"] == 0


def test_a_poll_waits_and_several_share(shop: Daemon) -> None:
    found: list[list[Any]] = []
    threads = [
        threading.Thread(target=lambda: found.append(people(poll(shop, timeout=8_000, max=1)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json.get("consumers") == 3)
    buy(shop, "ann", "bob", "cid")
    for thread in threads:
        thread.join()
    assert sorted(person for one in found for person in one) == ["ann", "bob", "cid"]
    assert all(len(one) == 1 for one in found)


def test_a_client_that_goes_away_takes_nothing_along(shop: Daemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", shop.port)
    connection.request("POST", f"{SUBSCRIPTION}?timeout=60000")
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json.get("consumers") == 1)
    connection.close()
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["consumers"] == 0)
    buy(shop, "ann")
    assert people(poll(shop, timeout=5_000)) == ["ann"]


def test_a_kill_between_delivery_and_acknowledgement(tmp_path: Path) -> None:
    with started(tmp_path / "data") as daemon:
        buy(daemon, "ann", "bob")
        poll(daemon, "/v1/subscription/t/buys/look", timeout=0)
        wait_until(lambda: daemon.request("GET", "/v1/subscription/t/buys/look").json["pending"] == 2)
        first = poll(daemon, timeout=5_000, max=2)
        assert len(first["messages"]) == 2
        poll(daemon, ack=first["messages"][0]["ack"], timeout=0)
        daemon.kill()
    with Daemon(tmp_path / "data") as daemon:
        again = poll(daemon, timeout=5_000)
        assert [m["id"] for m in again["messages"]] == [first["messages"][1]["id"]]
        # A token of before the restart counts.
        assert poll(daemon, ack=first["ack"], timeout=0, lease=100) == {"messages": []}
        assert daemon.request("GET", SUBSCRIPTION).json["pending"] == 0


def test_hold(shop: Daemon) -> None:
    poll(shop, timeout=0, hold=4_000)
    buy(shop, "ann")
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["pending"] == 1)
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["pending"] == 0)
    assert poll(shop, timeout=0) == {"messages": []}
    assert shop.request("GET", SUBSCRIPTION).json["hold"] == 4_000


def test_removing(shop: Daemon) -> None:
    buy(shop, "ann")
    poll(shop, timeout=5_000)
    waiting: list[Any] = []
    thread = threading.Thread(target=lambda: waiting.append(shop.request("POST", SUBSCRIPTION, timeout="20000")))
    thread.start()
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json.get("consumers") == 1)
    assert shop.request("DELETE", SUBSCRIPTION).json == {"deleted": "mine"}
    thread.join()
    assert waiting[0].status == 400
    assert shop.request("DELETE", SUBSCRIPTION).error["message"].startswith("'buys' has no subscription 'mine'")
    assert shop.request("GET", "/v1/subscription/t/buys").json == {"subscriptions": []}
    assert people(poll(shop, timeout=5_000)) == ["ann"], "a new one begins with the oldest message that is kept"
    assert shop.request("DELETE", "/v1/table/t/revent/buys").status == 200
    assert shop.request("POST", SUBSCRIPTION, timeout="0").error["class"] == "query"


def test_an_erased_person_is_in_no_message(shop: Daemon) -> None:
    poll(shop, timeout=0)
    buy(shop, "ann", "bob")
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["pending"] == 2)
    assert shop.request("DELETE", "/v1/table/t/person", sid="ann").status == 200
    assert people(poll(shop, timeout=5_000)) == ["bob"]


@pytest.mark.parametrize(
    ("path", "parameters", "words"),
    [
        ("/v1/subscription/t/buy/mine", {}, "did you mean 'buys'"),
        ("/v1/subscription/none/buys/mine", {}, "no table"),
        (SUBSCRIPTION, {"max": "0"}, "max"),
        (SUBSCRIPTION, {"lease": "5"}, "lease"),
        (SUBSCRIPTION, {"timeout": "x"}, "timeout"),
        (SUBSCRIPTION, {"hold": "-1"}, "hold"),
        (SUBSCRIPTION, {"ack": "nonsense"}, "token"),
        (SUBSCRIPTION, {"acks": "x"}, "acks"),
    ],
)
def test_mistakes(shop: Daemon, path: str, parameters: dict[str, str], words: str) -> None:
    error = shop.request("POST", path, **parameters).error
    assert error["class"] == "query" and words in error["message"], error


def test_names_that_no_subscription_can_have(shop: Daemon) -> None:
    """However it would be made: by a poll, a stream or a webhook."""
    events = {"Accept": "text/event-stream"}
    definition = json.dumps({"url": "http://127.0.0.1:9/"})
    for name in ("a%2Fb", "a%20b", "%C3%A9", "%2E%2E", "-a", "a%0A", "a%00", "a:b", "a%", "a" * 65):
        path = f"/v1/subscription/t/buys/{name}"
        for answer in (
            shop.request("POST", path, timeout=0),
            shop.request("POST", path, timeout=0, headers=events),
            shop.request("GET", path, headers=events),
            shop.request("PUT", f"{path}/webhook", definition),
        ):
            assert answer.status == 400 and answer.error["class"] == "query", (name, answer.body)
            assert "subscription" in answer.error["message"], answer.error
        assert "has no subscription" in shop.request("GET", path).error["message"]
    assert shop.request("GET", "/v1/subscription/t/buys").json == {"subscriptions": []}


def test_names_that_a_subscription_can_have(shop: Daemon) -> None:
    names = ["0", "A.b-c_9", "_", "a" * 64]
    for name in names:
        poll(shop, f"/v1/subscription/t/buys/{name}", timeout=0)
    listed = shop.request("GET", "/v1/subscription/t/buys").json["subscriptions"]
    assert [one["name"] for one in listed] == names


def test_a_segment_is_subscribed_to_like_a_trigger(shop: Daemon) -> None:
    script = "@segment buyers:\n    match where action is 'buy': tally\n"
    assert shop.request("POST", "/v1/query/t/counts", script).status == 200
    path = "/v1/subscription/t/buyers/mine"
    poll(shop, path, timeout=0)
    buy(shop, "ann")
    (message,) = poll(shop, path, timeout=8_000)["messages"]
    assert (message["person"], message["name"], message["trigger"]) == ("ann", "entered", "buyers")


def test_a_daemon_that_stops_ends_the_waiting(tmp_path: Path) -> None:
    with started(tmp_path / "data") as daemon:
        found: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: found.append(poll(daemon, timeout=60_000)))
        thread.start()
        wait_until(lambda: daemon.request("GET", SUBSCRIPTION).json.get("consumers") == 1)
        stream = Stream(daemon)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 10
        thread.join()
        assert found == [{"messages": []}]
        stream.close()


# ---------------------------------------------------------------- streams


class Stream:
    """Server-sent events as they come."""

    def __init__(self, daemon: Daemon, last_id: str | None = None, **parameters: str):
        self.connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        self.connection.request("GET", f"{SUBSCRIPTION}?{query}", headers=headers)
        self.response = self.connection.getresponse()
        assert self.response.status == 200
        assert self.response.headers["Content-Type"] == "text/event-stream"

    def next(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        while True:
            line = self.response.readline().decode().rstrip("\n")
            assert line or fields or self.response.fp, "the stream ended"
            if not line and fields:
                return fields
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value

    def close(self) -> None:
        self.connection.close()


def test_a_stream_goes_on_where_the_client_was(shop: Daemon) -> None:
    stream = Stream(shop)
    buy(shop, "ann")
    first = stream.next()
    assert first["event"] == "bought" and json.loads(first["data"])["person"] == "ann"
    buy(shop, "bob", stamp=STAMP + 10)
    second = stream.next()
    stream.close()
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["leased"] == 0)
    again = Stream(shop, last_id=first["id"])
    assert json.loads(again.next()["data"])["id"] == json.loads(second["data"])["id"]
    again.close()
    last = Stream(shop, last_id=second["id"])
    buy(shop, "cid", stamp=STAMP + 20)
    assert json.loads(last.next()["data"])["person"] == "cid"
    last.close()


def test_a_stream_that_acknowledges_by_itself(shop: Daemon) -> None:
    stream = Stream(shop, auto_ack="true")
    buy(shop, "ann")
    assert json.loads(stream.next()["data"])["person"] == "ann"
    wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["pending"] == 0)
    stream.close()
    assert poll(shop, timeout=0)["messages"] == [], "it does not come again"


def test_a_stream_waits_until_what_it_brought_is_acknowledged(shop: Daemon) -> None:
    stream = Stream(shop, max="10000")
    people = MOST_UNACKNOWLEDGED + 10
    buy(shop, *(f"p{at}" for at in range(people)))
    got = [stream.next() for _ in range(MOST_UNACKNOWLEDGED)]
    assert shop.request("GET", SUBSCRIPTION).json["pending"] == people
    assert poll(shop, timeout=0, ack=got[-1]["id"], max=3)["messages"] != [], "the rest is free for others"
    rest = [stream.next() for _ in range(7)]
    seen = {json.loads(one["data"])["person"] for one in got + rest}
    assert len(seen) == people - 3
    stream.close()


# ---------------------------------------------------------------- webhooks


def hook(daemon: Daemon, **definition: Any) -> Any:
    return daemon.request("PUT", f"{SUBSCRIPTION}/webhook", json.dumps(definition))


def test_a_webhook_is_signed_and_its_answer_acknowledges(shop: Daemon) -> None:
    with Receiver(500, 204) as receiver:
        answer = hook(shop, url=receiver.url, secret="tell nobody", retry_ms=20, headers={"X-Mine": "1"})
        assert answer.status == 200 and b"tell nobody" not in answer.body
        buy(shop, "ann")
        wait_until(lambda: len(receiver.got) == 2)
        wait_until(lambda: shop.request("GET", SUBSCRIPTION).json["pending"] == 0)
        headers, body = receiver.got[-1]
        stamp, _, signed = headers["openset-signature"].partition(",v1=")
        wanted = hmac.new(b"tell nobody", f"{stamp.removeprefix('t=')}.".encode() + body, hashlib.sha256).hexdigest()
        assert signed == wanted and headers["x-mine"] == "1"
        assert json.loads(body)["messages"] == json.loads(receiver.got[0][1])["messages"]
        described = shop.request("GET", SUBSCRIPTION)
        assert b"tell nobody" not in described.body
        assert described.json["webhook"]["sent"] == 1 and described.json["webhook"]["dead"] == 0


def test_dead_letters_are_kept_and_tried_again(tmp_path: Path) -> None:
    with started(tmp_path / "data") as daemon, Receiver(503) as receiver:
        assert hook(daemon, url=receiver.url, tries=2, retry_ms=10).status == 200
        buy(daemon, "ann", "bob")
        dead = f"{SUBSCRIPTION}/dead"
        wait_until(lambda: len(daemon.request("GET", dead).json["dead"]) == 2)
        assert daemon.request("GET", dead).json["dead"][0]["reason"] == "status 503"
        assert daemon.request("GET", SUBSCRIPTION).json["pending"] == 0
        assert daemon.request("DELETE", "/v1/table/t/person", sid="bob").status == 200
        assert [one["message"]["person"] for one in daemon.request("GET", dead).json["dead"]] == ["ann"]
        daemon.kill()
        receiver.statuses, receiver.got = [200], []
        with Daemon(tmp_path / "data", webhook_allow="127.0.0.1") as again:
            assert again.request("POST", f"{dead}/retry").json == {"retried": 1}
            wait_until(lambda: receiver.people() == ["ann"])
            wait_until(lambda: again.request("GET", dead).json == {"dead": []})
            wait_until(lambda: again.request("GET", SUBSCRIPTION).json["consumers"] == 1)
            receiver.statuses = [503, 503, 200]
            buy(again, "dan", stamp=STAMP + 40)
            wait_until(lambda: len(again.request("GET", dead).json["dead"]) == 1)
            wait_until(lambda: again.request("GET", SUBSCRIPTION).json["consumers"] == 1)
            receiver.got = []
            assert again.request("POST", f"{dead}/retry").json == {"retried": 1}
            buy(again, "eve", stamp=STAMP + 41)
            wait_until(lambda: receiver.people() == ["dan", "eve"])
            receiver.got = []
            buy(again, "cid", stamp=STAMP + 50)
            wait_until(lambda: receiver.people() == ["cid"])
            assert again.request("DELETE", f"{SUBSCRIPTION}/webhook").json == {"deleted": "mine"}
            assert again.request("GET", f"{SUBSCRIPTION}/webhook").error["class"] == "query"


NOT_FINITE = """def on_insert():
    huge = event_count * 1e308 * 10
    list_of = [0 - huge, huge - huge, 1e308]
    emit("bought", {"huge": huge, "list": list_of, huge: set(1e308 * 10), "days": to_days(event_count * 1e308)})
"""


def test_what_is_not_finite_is_null_wherever_it_is_shown(shop: Daemon) -> None:
    """As in the answers of queries: the language has no infinity, and none can be written as JSON."""
    wanted = {"huge": None, "list": [None, None, 1e308], "None": [None], "days": 1e308 / 86_400_000}
    assert shop.request("POST", "/v1/table/t/revent/buys", NOT_FINITE).status == 200
    stream = Stream(shop)
    with Receiver(200) as receiver:
        target = json.dumps({"url": receiver.url})
        assert shop.request("PUT", "/v1/subscription/t/buys/hook/webhook", target).status == 200
        buy(shop, "ann")
        wait_until(lambda: len(receiver.got) == 1)
        (sent,) = json.loads(receiver.got[0][1])["messages"]
    (polled,) = poll(shop, "/v1/subscription/t/buys/poll", timeout=5_000)["messages"]
    streamed = json.loads(stream.next()["data"])
    stream.close()
    backtest = "/v1/table/t/revent/buys/backtest"
    (sampled,) = shop.request("POST", backtest).json["sample"]
    line = json.loads(shop.request("POST", backtest, headers={"Accept": "application/x-ndjson"}).body)
    (run,) = shop.request("POST", "/v1/query/t/explain", NOT_FINITE, sid="ann").json["runs"]
    (step,) = [step for step in run["steps"] if step["what"] == "emit"]
    for shown in (sent, polled, streamed, sampled, line, step):
        assert shown["value"] == wanted, shown
    answer = shop.events("t", "agg:\n    var huge\nhuge = event_count * 1e308 * 10\ntally('all')\n")
    assert answer["_"] == [{"g": "all", "c": [None]}]


@pytest.mark.parametrize(
    ("definition", "error_class"),
    [
        ({"url": "http://example.com/"}, "config"),
        ({"url": "http://127.0.0.1.example.com/"}, "config"),
        ({"url": "http://user@127.0.0.1/"}, "query"),
        ({"url": "ftp://127.0.0.1/"}, "query"),
        ({"url": "http://127.0.0.1/", "tries": 0}, "query"),
        ({"url": "http://127.0.0.1/", "headers": {"Host": "x"}}, "query"),
        ({"url": "http://127.0.0.1/", "headers": {"X": "a\r\nb"}}, "query"),
        ({"url": "http://127.0.0.1/", "colour": "red"}, "query"),
        ({}, "query"),
    ],
)
def test_webhooks_that_are_refused(shop: Daemon, definition: dict[str, Any], error_class: str) -> None:
    assert hook(shop, **definition).error["class"] == error_class
    assert shop.request("GET", "/v1/subscription/t/buys").json == {"subscriptions": []}


def test_nothing_is_allowed_by_default(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=1) as daemon:
        daemon.create("t", {"word": "text"})
        assert daemon.request("POST", "/v1/table/t/revent/buys", TRIGGER).status == 200
        error = hook(daemon, url="http://127.0.0.1:9/").error
        assert error["class"] == "config" and "--webhook-allow" in error["message"]
