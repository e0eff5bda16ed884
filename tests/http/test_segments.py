"""Counts queries and stored segments over HTTP: naming, ttl, refresh, cached answers, comparing, listing, removing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.segment_daemon import count, listed, refused, wait_until
from support.trees import parse_tree, read_cases, rounded

from openset.store.store import Store

STAMP = 1_700_000_000_000
CASES = {case.kind: case for case in read_cases(Path(__file__).parents[1] / "golden" / "conformance" / "pyql.txt")}
BUYERS = "@segment buyers{}:\n    match where action is 'buy':\n        tally\n"
PIVOT = "agg:\n    people\n    count stamp as events\nmatch:\n    tally(action)\n"


def events(*given: tuple[int | str, str]) -> list[dict[str, Any]]:
    """Events of (person, action), a second apart."""
    return [
        {"person": person, "stamp": STAMP + 1000 * place, "action": action, "attr": {"product": f"p{place % 3}"}}
        for place, (person, action) in enumerate(given)
    ]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Daemon]:
    """People 1 to 4, of whom 1 and 2 buy, 3 and 4 view."""
    with Daemon(tmp_path / "data", init=3) as daemon:
        daemon.create("shop", {"product": "text", "price": "double"})
        daemon.insert("shop", events((1, "buy"), (2, "buy"), (3, "view"), (4, "view"), (1, "view")))
        yield daemon


@pytest.mark.parametrize("partitions", [1, 3, 8])
def test_segments_outlast_restarts_and_compactions(tmp_path: Path, partitions: int) -> None:
    content = json.loads((Path(__file__).parents[1] / "golden" / "conformance" / "events.json").read_text())
    compare = CASES["compare"]
    expected = rounded(parse_tree(compare.expected))
    data = tmp_path / "data"
    with Daemon(data, init=partitions) as daemon:
        daemon.request("POST", "/v1/table/cases", json.dumps(content["table"]))
        daemon.insert("cases", content["events"])
        answer = daemon.request("POST", "/v1/query/cases/counts", CASES["counts"].script)
        assert answer.json == {"_": parse_tree(CASES["counts"].expected)}
        assert rounded(daemon.events("cases", compare.script, **compare.parameters)["_"]) == expected
        made = listed(daemon, "cases")
    with Daemon(data) as daemon:
        assert rounded(daemon.events("cases", compare.script, **compare.parameters)["_"]) == expected
        daemon.kill()
    store = Store.open(data)
    assert store.compact_all()
    store.close()
    with Daemon(data) as daemon:
        assert rounded(daemon.events("cases", compare.script, **compare.parameters)["_"]) == expected
        assert count(daemon, "cases", "@segment both:\n    intersection(buyers, quiet)\n") == {"both": 1}
        kept = listed(daemon, "cases")
        assert {name: kept[name]["made_at"] for name in made} == {name: made[name]["made_at"] for name in made}
        again = daemon.request("POST", "/v1/query/cases/counts", CASES["counts"].script)
        assert again.json == answer.json


def test_the_other_name_of_the_address(shop: Daemon) -> None:
    answer = shop.request("POST", "/v1/query/shop/segment", BUYERS.format(""))
    assert answer.json == {"_": [{"g": "buyers", "c": [2]}]}


def test_membership_is_of_when_it_was_computed_and_everyone_is_of_now(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format(""))
    shop.insert(
        "shop", [{"person": 9, "stamp": STAMP, "action": "buy"}, {"person": 3, "stamp": STAMP, "action": "buy"}]
    )
    sections = "@segment same:\n    population(buyers)\n@segment rest:\n    complement(buyers)\n"
    assert count(shop, "shop", sections) == {"same": 2, "rest": 3}
    tree = shop.events("shop", PIVOT, segments="buyers,*")["_"]
    assert tree == [
        {"g": "buy", "c": [2, 2], "c2": [4, 4]},
        {"g": "view", "c": [1, 1], "c2": [3, 3]},
    ]
    assert count(shop, "shop", BUYERS.format("")) == {"buyers": 4}


def test_only_use_cached_is_answered_from_an_earlier_computation(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format(" ttl=1h"))
    shop.insert("shop", events((7, "buy")))
    assert count(shop, "shop", BUYERS.format(" ttl=1h use_cached")) == {"buyers": 2}
    assert "not computed again" in debugged(shop, BUYERS.format(" use_cached"))
    other = BUYERS.format(" use_cached").replace("'buy'", "'view'")
    assert count(shop, "shop", other) == {"buyers": 3}, "another script is another question"
    assert count(shop, "shop", BUYERS.format(" use_cached")) == {"buyers": 3}
    assert count(shop, "shop", BUYERS.format("")) == {"buyers": 3}


def test_a_cached_answer_is_within_both_times_to_live(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format(""))
    made_at = listed(shop, "shop")["buyers"]["made_at"]
    time.sleep(1.1)
    shop.insert("shop", events((7, "buy")))
    assert count(shop, "shop", BUYERS.format(" ttl=1h refresh=30m use_cached")) == {"buyers": 2}
    shown = listed(shop, "shop")["buyers"]
    assert (shown["made_at"], shown["ttl"], shown["refresh"]) == (made_at, 3600.0, 1800.0), "the last request counts"
    assert count(shop, "shop", BUYERS.format(" ttl=1s use_cached")) == {"buyers": 3}
    assert listed(shop, "shop")["buyers"]["ttl"] == 1.0


def test_parameters_are_part_of_the_question(shop: Daemon) -> None:
    script = "@segment who use_cached:\n    match where action is {{what}}:\n        tally\n"
    assert count(shop, "shop", script, str_what="buy") == {"who": 2}
    assert count(shop, "shop", script, str_what="view") == {"who": 3}
    assert listed(shop, "shop")["who"]["parameters"] == {"what": "view"}
    assert "{{what}}" in refused(shop, "shop", script)["message"]
    assert "not used" in refused(shop, "shop", script, str_what="buy", int_more=1)["message"]
    script = "@segment who use_cached:\n    return event_count >= {{least}}\n"
    assert count(shop, "shop", script, int_least=1) == {"who": 4}
    assert "not computed" not in debugged(shop, script, dbl_least="1"), "1 and 1.0 are two parameters"
    assert "not computed" not in debugged(shop, script, int_least=1, session_time=5)
    assert "not computed" in debugged(shop, script, int_least=1)


def test_after_its_ttl_a_segment_is_unknown(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format(" ttl=1s"))
    assert shop.events("shop", PIVOT, segments="buyers")["_"][0] == {"g": "buy", "c": [2, 2]}
    time.sleep(1.1)
    answer = shop.request("POST", "/v1/query/shop/events", PIVOT, segments="buyers")
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert "buyers" in answer.error["message"]
    assert listed(shop, "shop") == {}
    assert "buyers" in refused(shop, "shop", "@segment x:\n    complement(buyers)\n")["message"]
    files = shop.data / "tables" / "1" / "segments"
    wait_until(lambda: not list(files.glob("*.segment")))


def test_refresh_computes_again_with_the_parameters(shop: Daemon) -> None:
    script = (
        "@segment who refresh=1s:\n    match where action is {{what}}:\n        tally\n"
        "@segment rest ttl=1s refresh=1s:\n    complement(who)\n"
    )
    assert count(shop, "shop", script, str_what="buy") == {"who": 2, "rest": 2}
    shop.insert("shop", [{"person": person, "stamp": STAMP, "action": "buy"} for person in (11, 12, 3)])
    wait_until(lambda: people(shop) == {"who": 5, "rest": 1})
    first = listed(shop, "shop")["rest"]["made_at"]
    wait_until(lambda: listed(shop, "shop")["rest"]["made_at"] > first + 2_000)
    assert "error" not in listed(shop, "shop")["rest"]
    files = list((shop.data / "tables" / "1" / "segments").glob("*.segment"))
    assert len(files) <= 3, "what was replaced is removed"


def test_a_refresh_goes_on_after_a_restart(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=2) as daemon:
        daemon.create("shop", {"product": "text"})
        daemon.insert("shop", events((1, "buy")))
        count(daemon, "shop", BUYERS.format(" refresh=2s"))
        daemon.insert("shop", events((2, "buy")))
        daemon.kill()
    with Daemon(tmp_path / "data") as daemon:
        wait_until(lambda: people(daemon) == {"buyers": 2})
        assert listed(daemon, "shop")["buyers"]["refresh"] == 2.0


def test_a_dropped_column_is_reported(tmp_path: Path) -> None:
    data = tmp_path / "data"
    script = "@segment mugs{}:\n    match where product is 'p0':\n        tally\n"
    with Daemon(data, init=2) as daemon:
        daemon.create("shop", {"product": "text", "price": "double"})
        daemon.insert("shop", events((1, "buy"), (2, "buy")))
        count(daemon, "shop", script.format(" refresh=1s") + "@segment all:\n    return True\n")
    store = Store.open(data)
    store.drop_column("shop", "product")
    store.close()
    with Daemon(data) as daemon:
        wait_until(lambda: any(line.get("event") == "refresh failed" for line in daemon.log()))
        shown = listed(daemon, "shop")
        assert "'product'" in shown["mugs"]["error"] and "dropped" in shown["mugs"]["error"]
        assert "error" not in shown["all"]
        assert shown["mugs"]["people"] == 1, "the people it had stay"
        assert daemon.events("shop", PIVOT, segments="mugs")["_"] == [{"g": "buy", "c": [1, 1]}]
        error = refused(daemon, "shop", script.format(" use_cached"))
        assert (error["class"], error["line"]) == ("parse", 2)
        assert "product" in error["message"]


def test_a_column_of_the_same_name_is_another_column(tmp_path: Path) -> None:
    data = tmp_path / "data"
    script = "@segment mugs use_cached:\n    match where product is 'p0':\n        tally\n"
    with Daemon(data, init=2) as daemon:
        daemon.create("shop", {"product": "text"})
        daemon.insert("shop", events((1, "buy"), (2, "buy")))
        assert count(daemon, "shop", script) == {"mugs": 1}
    store = Store.open(data)
    store.drop_column("shop", "product")
    store.add_column("shop", "product", "text")
    store.close()
    with Daemon(data) as daemon:
        assert count(daemon, "shop", script) == {"mugs": 0}


def test_a_stored_script_keeps_its_names_when_a_column_is_added(tmp_path: Path) -> None:
    data = tmp_path / "data"
    script = "@segment many refresh=1s:\n    seen = 0\n    match:\n        seen = seen + 1\n    return seen >= 2\n"
    with Daemon(data, init=2) as daemon:
        daemon.create("shop", {"product": "text"})
        daemon.insert("shop", events((1, "buy"), (1, "view"), (2, "buy")))
        assert count(daemon, "shop", script) == {"many": 1}
    store = Store.open(data)
    store.add_column("shop", "seen", "int")
    store.close()
    with Daemon(data) as daemon:
        daemon.insert("shop", [{"person": 2, "stamp": STAMP + 9, "action": "view", "attr": {"seen": 5}}])
        wait_until(lambda: people(daemon) == {"many": 2})
        assert refused(daemon, "shop", script)["class"] == "parse", "a new request knows the column"


def test_removing(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format("") + "@segment viewers:\n    complement(buyers)\n")
    answer = shop.request("DELETE", "/v1/table/shop/segments/buyers")
    assert (answer.status, answer.json) == (200, {"deleted": "buyers"})
    assert list(listed(shop, "shop")) == ["viewers"]
    again = shop.request("DELETE", "/v1/table/shop/segments/viewer")
    assert (again.status, again.error["class"]) == (400, "query")
    assert "did you mean 'viewers'" in again.error["message"]
    assert shop.request("GET", "/v1/table/shoop/segments").error["class"] == "query"


def test_removed_stays_removed_after_a_restart(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=2) as daemon:
        daemon.create("shop", {"product": "text"})
        count(daemon, "shop", BUYERS.format(""))
        daemon.request("DELETE", "/v1/table/shop/segments/buyers")
        daemon.kill()
    with Daemon(tmp_path / "data") as daemon:
        assert listed(daemon, "shop") == {}


def test_an_empty_table(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=2) as daemon:
        daemon.create("shop", {"product": "text"})
        script = BUYERS.format("") + "@segment rest:\n    complement(buyers)\n"
        assert count(daemon, "shop", script) == {"buyers": 0, "rest": 0}
        assert daemon.events("shop", PIVOT, segments="*,buyers") == {"_": []}
        assert daemon.request("POST", "/v1/query/shop/counts", script, info="true").json["info"]["partitions"] == 0
    with Daemon(tmp_path / "data") as daemon:
        assert list(listed(daemon, "shop")) == ["buyers", "rest"]
        daemon.insert("shop", events((1, "buy")))
        assert count(daemon, "shop", "@segment rest:\n    complement(buyers)\n") == {"rest": 1}


def test_order_of_sections_and_the_plan(shop: Daemon) -> None:
    script = (
        "@segment zebra:\n    return event_count > 1\n@segment ant:\n    difference(union(zebra, buyers), zebra)\n"
        + BUYERS.format("").replace("buyers", "bee")
    )
    count(shop, "shop", BUYERS.format(""))
    answer = shop.request("POST", "/v1/query/shop/counts", script, info="true").json
    assert answer["_"] == [{"g": "zebra", "c": [1]}, {"g": "ant", "c": [1]}, {"g": "bee", "c": [2]}]
    assert answer["info"]["people"] == 4
    assert answer["info"]["events"] == 5
    plan = debugged(shop, script)
    assert plan.index("segment zebra") < plan.index("segment ant") < plan.index("segment bee")
    assert "difference(union(zebra, buyers), zebra)" in plan
    assert "bitmap index of action" in plan
    algebra = shop.request("POST", "/v1/query/shop/counts", "@segment x:\n    union(bee, ant)", info="true").json
    assert (algebra["info"]["events"], algebra["info"]["rows"]) == (0, 0), "bitmaps answer"
    explained = shop.request("POST", "/v1/query/shop/counts", script, explain="true").json["explain"]
    assert "action" in explained["columns"]
    assert "bee" in listed(shop, "shop") and "x" in listed(shop, "shop")


def test_log_lines_come_back_with_the_facts(shop: Daemon) -> None:
    script = "@segment two:\n    if event_count == 2:\n        log('seen', event_count)\n        tally\n"
    answer = shop.request("POST", "/v1/query/shop/counts", script, info="true").json
    assert (answer["_"][0]["c"], answer["log"]) == ([1], ["seen 2"])
    assert "log" not in shop.request("POST", "/v1/query/shop/counts", script).json


def test_debug_and_explain_store_nothing(shop: Daemon) -> None:
    for parameter in ("debug", "explain"):
        answer = shop.request("POST", "/v1/query/shop/counts", BUYERS.format(""), **{parameter: "true"})
        assert answer.status == 200
    assert listed(shop, "shop") == {}


@pytest.mark.parametrize(
    "script, line, says",
    [
        ("@segment x:\n    union(buyers, vievers)\n", 2, "did you mean 'viewers'"),
        ("@segment a:\n    return True\n@segment x:\n    complement(aa)\n", 4, "there is no segment 'aa'"),
        ("@segment x:\n    complement(y)\n@segment y:\n    return True\n", 2, "stands below"),
        ("@segment x:\n    complement(x)\n", 2, "refers to itself"),
        ("@segment x:\n    union(buyers, complement(nobody))\n", 2, "there is no segment 'nobody'"),
    ],
)
def test_unknown_segments(shop: Daemon, script: str, line: int, says: str) -> None:
    count(shop, "shop", BUYERS.format("") + "@segment viewers:\n    complement(buyers)\n")
    error = refused(shop, "shop", script)
    assert (error["class"], error["line"]) == ("query", line)
    assert says in error["message"]


def test_a_section_may_use_the_one_it_replaces(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format(""))
    script = "@segment more:\n    return event_count > 1\n@segment buyers:\n    difference(buyers, more)\n"
    assert count(shop, "shop", script) == {"more": 1, "buyers": 1}
    assert count(shop, "shop", script) == {"more": 1, "buyers": 1}


@pytest.mark.parametrize(
    "script, says",
    [
        (BUYERS.format("") + BUYERS.format(""), "Two sections are named `buyers`"),
        ("@segment 9x:\n    tally\n", "name of letters"),
        (f"@segment {'x' * 129}:\n    tally\n", "at most 128 characters"),
        ("@segment x ttl=soon:\n    tally\n", "ttl=300s"),
        ("match:\n    tally\n", "begin with @segment"),
        ("@segment x:\n    match where prodct is 'a': tally\n", "did you mean `product`"),
        ("@segment x:\n    unoin(a, b)\n", "union"),
    ],
)
def test_wrong_sections(shop: Daemon, script: str, says: str) -> None:
    error = refused(shop, "shop", script)
    assert error["class"] == "parse"
    assert says in error["message"]
    assert listed(shop, "shop") == {}


@pytest.mark.parametrize("names, says", [("", "names of segments"), ("*,,", "names of segments"), ("nope", "'nope'"),
                                         (",".join("*" * 101), "at most 100")])  # fmt: skip
def test_wrong_comparisons(shop: Daemon, names: str, says: str) -> None:
    answer = shop.request("POST", "/v1/query/shop/events", PIVOT, segments=names)
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert says in answer.error["message"]


def test_wrong_parameters_and_methods(shop: Daemon) -> None:
    assert "did you mean 'debug'" in refused(shop, "shop", BUYERS.format(""), debg="true")["message"]
    assert "segments" in refused(shop, "shop", BUYERS.format(""), segments="*")["message"]
    assert "no table" in refused(shop, "nowhere", BUYERS.format(""))["message"]
    assert shop.request("GET", "/v1/query/shop/counts").status == 405
    assert shop.request("POST", "/v1/table/shop/segments", "{}").status == 405


def test_a_failing_section_stores_nothing(shop: Daemon) -> None:
    script = BUYERS.format("") + "@segment bad:\n    x = [1]\n    return x - {} < 'a' * 2\n"
    error = refused(shop, "shop", script)
    assert error["class"] == "run_time"
    assert listed(shop, "shop") == {}


def test_comparing_counts_what_the_segments_share(shop: Daemon) -> None:
    count(shop, "shop", BUYERS.format("") + "@segment viewers:\n    match where action is 'view': tally\n")
    script = "agg:\n    people\n    count stamp as events\nmatch:\n    tally('all', action)\n"
    answer = shop.events("shop", script, segments="viewers, buyers", info="true", sort="events", order="asc")
    assert answer["_"] == [
        {"g": "all", "c": [3, 4], "c2": [2, 3], "_": [
            {"g": "buy", "c": [1, 1], "c2": [2, 2]},
            {"g": "view", "c": [3, 3], "c2": [1, 1]},
        ]}
    ]  # fmt: skip
    assert answer["info"]["people"] == 4, "1 is in both and was visited once"
    assert answer["info"]["events"] == 5
    count(shop, "shop", "@segment nobody:\n    return False\n")
    only = shop.events("shop", script, segments="nobody,buyers", trim=1)["_"]
    assert only == [
        {"g": "all", "c": [0, 0], "c2": [2, 3], "_": [{"g": "buy", "c": [0, 0], "c2": [2, 2]}]}
    ]  # fmt: skip
    assert shop.events("shop", script, segments="nobody") == {"_": []}


def people(daemon: Daemon) -> dict[str, int]:
    return {name: entry["people"] for name, entry in listed(daemon, "shop").items()}


def debugged(daemon: Daemon, script: str, **parameters: Any) -> str:
    answer = daemon.request("POST", "/v1/query/shop/counts", script, debug="true", **parameters)
    assert answer.status == 200, answer.body
    return str(answer.json["debug"])
