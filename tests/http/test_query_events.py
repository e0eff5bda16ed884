"""Events queries through HTTP: parameters, errors, what debug and info add."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
URL = "/v1/query/shop/events"
COUNT = "agg:\n    people\n    sum price as spent\nmatch:\n    tally(product, action)\n"


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Daemon]:
    daemon.create("shop", {"product": "text", "price": "double", "size": "int"})
    events: list[dict[str, Any]] = []
    for person in range(12):
        for step, (action, product) in enumerate([("view", "mug"), ("buy", "mug"), ("view", "rug"), ("buy", "tüte")]):
            attributes = {"product": product, "price": float(step)}
            if (person + step) % 3:
                stamp = STAMP + step * 3_600_000
                events.append({"person": person, "stamp": stamp, "action": action, "attr": attributes})
    daemon.insert("shop", events)
    yield daemon


def keys(tree: Any) -> list[Any]:
    return [node["g"] for node in tree["_"]]


def test_both_addresses_give_the_same(shop: Daemon) -> None:
    answers = [shop.request("POST", f"/v1/query/shop/{name}", COUNT).json for name in ("events", "event")]
    assert answers[0] == answers[1]
    assert answers[0]["_"][0] == {
        "g": "mug", "c": [12, 8.0], "_": [{"g": "buy", "c": [8, 8.0]}, {"g": "view", "c": [8, 0.0]}],
    }  # fmt: skip


def test_sort_order_and_trim(shop: Daemon) -> None:
    assert keys(shop.events("shop", COUNT)) == ["mug", "rug", "tüte"]
    assert keys(shop.events("shop", COUNT, sort="spent")) == ["tüte", "rug", "mug"]
    assert keys(shop.events("shop", COUNT, sort="price", order="asc")) == ["mug", "rug", "tüte"]
    assert keys(shop.events("shop", COUNT, sort="g", trim=2)) == ["tüte", "rug"]
    assert keys(shop.events("shop", COUNT, sort="key", order="asc", trim=1)) == ["mug"]


def test_the_script_may_say_how_to_sort(shop: Daemon) -> None:
    script = COUNT.replace("match:", "sort:\n    spent\nmatch:", 1)
    assert keys(shop.events("shop", script)) == ["tüte", "rug", "mug"]
    assert keys(shop.events("shop", script, sort="people")) == ["mug", "rug", "tüte"]


@pytest.mark.parametrize(
    "parameters, says",
    [
        ({"sort": "spend"}, "did you mean 'spent'"),
        ({"order": "up"}, "asc or desc"),
        ({"trim": "-1"}, "trim"),
        ({"trim": "many"}, "trim"),
        ({"timeout": "0"}, "timeout"),
        ({"session_time": "-1"}, "session_time"),
        ({"debug": "maybe"}, "debug"),
        ({"str_x": "a"}, "{{x}}"),
        ({"segments": "*,"}, "segments"),
        ({"ordr": "asc"}, "did you mean 'order'"),
    ],
)
def test_wrong_parameters(shop: Daemon, parameters: dict[str, str], says: str) -> None:
    answer = shop.request("POST", URL, COUNT, **parameters)
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert says in answer.error["message"]


def test_parameters_are_values(shop: Daemon) -> None:
    script = "match where product is {{p}} and price >= {{n}}:\n    tally(product, {{p}}, {{n}}, {{b}})"
    tree = shop.events("shop", script, str_p="tüte", dbl_n="2.5", bool_b="true")
    assert tree["_"][0]["_"][0]["_"][0]["_"][0]["g"] is True
    evil = "tüte' or 1 is 1 or product is 'x"
    assert shop.events("shop", script, str_p=evil, int_n=0, bool_b="false") == {"_": []}
    missing = shop.request("POST", URL, script, str_p="x", int_n=1)
    assert (missing.status, missing.error["class"]) == (400, "query")
    assert "{{b}}" in missing.error["message"]


def test_parse_errors_show_the_place(shop: Daemon) -> None:
    error = shop.request("POST", URL, "match where prodct is 'mug':\n    tally(1)").error
    assert (error["class"], error["line"], error["column"]) == ("parse", 1, 13)
    assert "prodct" in error["message"] and "product" in error["message"]
    line, caret = error["detail"].splitlines()
    assert line == "match where prodct is 'mug':"
    assert caret.index("^") == 12


@pytest.mark.parametrize(
    "script",
    ["", "   \n# nothing\n", "agg:\n    people\n", "\0", "match", "(" * 50_000, "x = " + "-" * 50_000 + "1\ntally(x)"],
)
def test_scripts_that_cannot_be(shop: Daemon, script: str) -> None:
    answer = shop.request("POST", URL, script)
    assert (answer.status, answer.error["class"]) == (400, "parse"), answer.body


def test_a_script_that_is_not_utf_8(shop: Daemon) -> None:
    answer = shop.request("POST", URL, b"tally('\xff')")
    assert answer.status == 400
    assert "UTF-8" in answer.error["message"]


def test_a_script_that_is_too_long(shop: Daemon) -> None:
    answer = shop.request("POST", URL, "# comment\n" * 200_000)
    assert (answer.status, answer.error["class"]) == (413, "limit")


def test_windows_line_ends_and_a_byte_order_mark(shop: Daemon) -> None:
    assert shop.events("shop", "\ufeff" + COUNT.replace("\n", "\r\n")) == shop.events("shop", COUNT)


def test_debug_gives_the_plan_instead(shop: Daemon) -> None:
    answer = shop.events("shop", COUNT, debug="true")
    assert answer.keys() == {"debug"}
    assert isinstance(answer["debug"], str) and answer["debug"]


def test_info_and_log(shop: Daemon) -> None:
    script = "log('person', person)\nmatch:\n    tally(product)"
    answer = shop.events("shop", script, info="true")
    assert answer.keys() == {"_", "info", "log"}
    assert len(answer["log"]) == 12
    assert answer["info"]["people"] == 12
    assert answer["info"]["events"] == 32
    assert answer["info"]["partitions"] == 3
    assert answer["info"]["ms"] > 0
    assert shop.events("shop", script).keys() == {"_"}


def test_session_time_overrides_the_half_hour(shop: Daemon) -> None:
    script = "tally(session_count)"
    assert max(keys(shop.events("shop", script))) > 1
    assert keys(shop.events("shop", script, session_time=365 * 86_400_000)) == [1]


def test_a_type_error_of_the_script_is_a_run_time_error(shop: Daemon) -> None:
    answer = shop.request("POST", URL, "x = 'a' * 3\ntally(x)")
    assert (answer.status, answer.error["class"]) == (400, "run_time")


def test_an_empty_table_gives_an_empty_tree(shop: Daemon) -> None:
    shop.create("void", {})
    assert shop.events("void", "tally(1)") == {"_": []}


ENDLESS = "n = 0\nmatch:\n    match:\n        match:\n            match:\n                n = n * 3 + 1\ntally(n % 7)"


@pytest.fixture(scope="module")
def busy(shop: Daemon) -> Daemon:
    """A table over which ENDLESS does not end."""
    shop.create("long", {"a": "int"})
    shop.insert("long", [{"person": n % 8, "stamp": STAMP + n * 1000, "action": "x"} for n in range(8_000)])
    return shop


def test_ping_and_other_queries_go_on_during_a_heavy_one(busy: Daemon) -> None:
    heavy = threading.Thread(target=busy.raw, args=("POST", "/v1/query/long/events?timeout=3000", ENDLESS), daemon=True)
    heavy.start()
    time.sleep(0.5)
    slowest = 0.0
    for _ in range(30):
        started = time.monotonic()
        assert busy.request("GET", "/ping").status == 200
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 0.5
    heavy.join(30)
    assert not heavy.is_alive()


def test_the_time_budget_names_itself(busy: Daemon) -> None:
    started = time.monotonic()
    answer = busy.raw("POST", "/v1/query/long/events?timeout=700", ENDLESS)
    assert (answer.status, answer.error["class"]) == (400, "run_time")
    assert "700 ms" in answer.error["message"]
    assert time.monotonic() - started < 10
    assert keys(busy.events("shop", COUNT)) == ["mug", "rug", "tüte"]
