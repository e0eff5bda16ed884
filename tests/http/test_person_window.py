"""The person query's window and long histories: from=, to=, limit=, bodies that come in pieces."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
URL = "/v1/query/t/person"
EVENTS = 7_000  # several pieces


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    started = Daemon(tmp_path_factory.mktemp("window") / "data", init=3)
    started.create("t", {"n": "int", "tag": "text"})
    events = [
        {"person": "long", "stamp": STAMP + i * 1_000, "action": "x", "attr": {"n": i, "tag": ["a", "b"]}}
        for i in range(EVENTS)
    ]
    for first in range(0, EVENTS, 3_500):
        started.insert("t", events[first : first + 3_500])
    started.insert("t", [{"person": 5, "stamp": STAMP + i, "action": "x", "attr": {"n": i}} for i in range(5)])
    yield started
    started.stop()


def numbers(daemon: Daemon, **parameters: Any) -> list[int]:
    answer = daemon.request("GET", URL, **parameters)
    assert answer.status == 200, answer.body
    return [event["attr"]["n"] for event in answer.json["events"]]


def test_a_long_history_is_whole(daemon: Daemon) -> None:
    answer = daemon.request("GET", URL, sid="long")
    assert answer.headers.get("transfer-encoding") == "chunked"
    assert answer.json["person"] == "long"
    assert [event["attr"] for event in answer.json["events"]] == [{"n": i, "tag": ["a", "b"]} for i in range(EVENTS)]


def test_a_long_history_is_gzipped_for_who_takes_it(daemon: Daemon) -> None:
    plain = daemon.request("GET", URL, sid="long")
    answer = daemon.request("GET", URL, headers={"Accept-Encoding": "gzip"}, sid="long")
    assert answer.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
    assert "Accept-Encoding" in answer.headers["vary"] and "Accept-Encoding" in plain.headers["vary"]
    assert len(answer.body) < len(plain.body) / 4
    assert gzip.decompress(answer.body) == plain.body


@pytest.mark.parametrize("count", [0, 1, 1_999, 2_000, 2_001, 4_000, EVENTS, EVENTS + 1])
def test_limit_gives_the_first_events(daemon: Daemon, count: int) -> None:
    assert numbers(daemon, sid="long", limit=count) == list(range(min(count, EVENTS)))


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"from": STAMP + 2}, [2, 3, 4]),
        ({"to": STAMP + 2}, [0, 1]),
        ({"from": STAMP + 1, "to": STAMP + 3}, [1, 2]),
        ({"from": STAMP + 1, "limit": 2}, [1, 2]),
        ({"from": "2023-11-14T22:13:20.003Z"}, [3, 4]),
        ({"from": "2023-11-14T23:13:20.003+01:00"}, [3, 4]),
        ({"from": "2023-11-15"}, []),
        ({"from": STAMP // 1_000, "to": STAMP // 1_000 + 1}, [0, 1, 2, 3, 4]),
        ({"from": STAMP + 3, "to": STAMP + 1}, []),
        ({"to": 0}, []),
    ],
)
def test_from_and_to_cut_a_window(daemon: Daemon, window: dict[str, Any], expected: list[int]) -> None:
    assert numbers(daemon, id=5, **window) == expected


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"from": "yesterday"}, "from="),
        ({"to": "-5"}, "to="),
        ({"limit": "-1"}, "limit="),
        ({"limit": "x"}, "limit="),
        ({"form": "2023"}, "from"),
    ],
)
def test_bad_windows_are_refused(daemon: Daemon, parameters: dict[str, str], words: str) -> None:
    answer = daemon.request("GET", URL, id=5, **parameters)
    assert answer.status == 400
    assert answer.error["class"] == "query"
    assert words in answer.error["message"]


def test_an_unknown_person_is_named_even_with_a_window(daemon: Daemon) -> None:
    answer = daemon.request("GET", URL, sid="5", limit=1)
    assert answer.status == 400
    assert "'5'" in answer.error["message"]
