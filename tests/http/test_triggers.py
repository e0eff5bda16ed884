"""Triggers over HTTP: made, changed, described, reset and deleted; run after inserts and when due; what survives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon

from openset.cli import main
from openset.store.store import Store
from openset.store.trigger_changes import Message

STAMP = 1_700_000_000_000
REGULAR = """def on_insert():
    bought = 0
    match where action is "buy":
        bought = bought + 1
    if bought >= 3:
        emit("regular", {"units": bought, "product": "prize", "nothing": 1})
"""
EVERY = 'def on_insert():\n    match where is_new and action is "buy":\n        emit("bought", product)\n'
LATER = 'def on_insert():\n    schedule(1, "later")\n\ndef later():\n    emit("later")\n'
FAILS = "def on_insert():\n    emit(1 + person)\n"


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Daemon]:
    with Daemon(tmp_path / "data", init=3) as daemon:
        daemon.create("shop", {"product": "text", "units": "int"})
        yield daemon


def save(daemon: Daemon, name: str, script: str = "", **options: Any) -> dict[str, Any]:
    answer = daemon.request("POST", f"/v1/table/shop/revent/{name}", script, **options)
    assert answer.status == 200, answer.body
    return dict(answer.json)


def described(daemon: Daemon, name: str) -> dict[str, Any]:
    answer = daemon.request("GET", f"/v1/table/shop/revent/{name}")
    assert answer.status == 200, answer.body
    return dict(answer.json)


def buy(daemon: Daemon, *people: int | str, at: int = 0, product: str = "tent") -> None:
    daemon.insert(
        "shop",
        [
            {"person": person, "action": "buy", "stamp": STAMP + 1_000 * at, "attr": {"product": product}}
            for person in people
        ],
    )  # fmt: skip


def settled(daemon: Daemon, name: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    """The description when nothing waits and it is as wanted."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        found = described(daemon, name)
        if not found["backlog"]["records"] and wanted(found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"the trigger did not get so far: {described(daemon, name)}")


def messages(data: Path) -> list[Message]:
    """What was emitted, read from the files of a daemon that is not there any more."""
    store = Store.open(data)
    try:
        found: list[Message] = []
        table = store.table("shop").id
        for trigger in store.triggers.of_table(table):
            with store.triggers.states(table) as states:
                found += [one for state in states.values() for one in state.after(trigger.id, 0, 1_000_000)]
        return sorted(found, key=lambda one: (one.stamp_ms, str(one.person)))
    finally:
        store.close()


def test_once_a_person_emits_once_until_the_trigger_changes(shop: Daemon) -> None:
    made = save(shop, "regular", REGULAR)
    assert made["state"] == "running" and made["once"] and not made["emit_as_event"]
    for at in range(5):
        buy(shop, 1, 2, at=at)
    found = settled(shop, "regular")
    assert found["counts"] == {"people": 6, "emissions": 2, "errors": 0, "emitted_people": 2, "schedules": 0}
    assert save(shop, "regular", REGULAR)["counts"]["emitted_people"] == 2, "the same script is no change"
    assert shop.request("POST", "/v1/table/shop/revent/regular/reset").json["counts"]["emitted_people"] == 0
    buy(shop, 1, at=9)
    assert settled(shop, "regular")["counts"]["emissions"] == 3
    assert save(shop, "regular", REGULAR.replace("3", "2"))["counts"]["emitted_people"] == 0
    shop.stop()
    assert [(one.name, one.person, one.value["units"]) for one in messages(shop.data)] == [
        ("regular", 1, 3), ("regular", 2, 3), ("regular", 1, 6)
    ]  # fmt: skip


def test_always_runs_for_each_request_with_its_new_rows(shop: Daemon) -> None:
    save(shop, "every", EVERY, once="false")
    for at, product in enumerate(["tent", "mug", "rug"]):
        buy(shop, "ada", 7, at=at, product=product)
    shop.insert("shop", [{"person": "ada", "action": "look", "stamp": STAMP}])
    assert settled(shop, "every")["counts"]["emissions"] == 6
    shop.stop()
    by_person = {who: [one.value for one in messages(shop.data) if one.person == who] for who in ("ada", 7)}
    assert sorted(by_person["ada"]) == sorted(by_person[7]) == ["mug", "rug", "tent"]


def test_schedules_run_once_without_data_and_after_a_restart(shop: Daemon) -> None:
    save(shop, "later", LATER)
    buy(shop, 1, 2, 3)
    assert settled(shop, "later", lambda one: one["counts"]["emissions"] == 3)["counts"]["schedules"] == 0
    save(shop, "later", LATER.replace("(1,", "(30 days,"))
    buy(shop, 1, 2, 3, 4, at=1)
    assert settled(shop, "later")["counts"]["schedules"] == 4
    save(shop, "soon", LATER.replace("(1,", "(1500,"))
    buy(shop, 5, at=1)
    settled(shop, "soon")
    shop.kill()
    time.sleep(1.5)
    with Daemon(shop.data) as daemon:
        assert settled(daemon, "soon", lambda one: one["counts"]["emissions"] == 1)["counts"]["schedules"] == 0
        assert described(daemon, "later")["counts"]["schedules"] == 5
        assert daemon.request("POST", "/v1/table/shop/compact").status == 200
        save(daemon, "later", LATER.replace("later", "other").replace("(1,", "(30 days,"))
        assert described(daemon, "later")["counts"]["schedules"] == 0, "schedules of a function that is gone go"


def test_disabled_triggers_do_nothing_and_their_schedules_wait(shop: Daemon) -> None:
    save(shop, "later", LATER.replace("(1,", "(2000,"))
    buy(shop, 1)
    settled(shop, "later", lambda one: one["counts"]["schedules"] == 1)
    assert save(shop, "later", enabled="false")["reason"] == "enabled=false"
    buy(shop, 2, 3, at=1)
    time.sleep(2.1)
    assert described(shop, "later")["counts"]["emissions"] == 0
    save(shop, "later", enabled="true")
    found = settled(shop, "later", lambda one: one["counts"]["emissions"] == 1)
    assert found["counts"]["people"] == 2, "one from on_insert, one scheduled; inserts meanwhile are not looked at"


def test_failing_triggers_are_disabled_and_disturb_nobody(shop: Daemon) -> None:
    save(shop, "fails", FAILS)
    save(shop, "regular", REGULAR)
    for at in range(3):
        buy(shop, *"abcdef", at=at)
    found = settled(shop, "fails", lambda one: one["state"] == "disabled")
    assert "errors in a row" in found["reason"] and found["last_error"]["in_a_row"] >= 10
    assert settled(shop, "regular")["counts"]["emissions"] == 6
    again = save(shop, "fails", REGULAR)
    assert again["state"] == "running" and "last_error" not in again


def test_emissions_become_events_without_going_round(shop: Daemon) -> None:
    loop = 'def on_insert():\n    match where is_new:\n        emit("{}", {{"units": 7, "product": 7}})\n'
    save(shop, "one", loop.format("one"), once="false", emit_as_event="true")
    save(shop, "two", loop.format("two"), once="false", emit_as_event="true")
    save(shop, "three", 'def on_insert():\n    match where is_new:\n        emit("three", action)\n', once="false")
    buy(shop, "ada")
    settled(shop, "three", lambda one: one["counts"]["emissions"] >= 2)
    time.sleep(0.3)
    shop.kill()
    with Daemon(shop.data) as daemon:
        settled(daemon, "three")
        answer = daemon.events("shop", "agg:\n    count stamp as n\nmatch:\n    tally(action, units)\n")
    found = {node["g"]: node for node in answer["_"]}
    assert {name: node["c"] for name, node in found.items()} == {"buy": [1], "one": [1], "two": [1]}
    assert found["one"]["_"] == [{"g": 7, "c": [1]}], "units fits its column; product, which does not, is left out"
    names = sorted((one.trigger, one.name) for one in messages(shop.data))
    assert names[:2] == [("one", "one"), ("three", "three")] and names[-1] == ("two", "two")


def test_a_filter_keeps_to_a_stored_segment(shop: Daemon) -> None:
    buy(shop, 1, 2)
    shop.insert("shop", [{"person": 3, "action": "look", "stamp": STAMP}])
    counted = shop.request(
        "POST", "/v1/query/shop/counts", '@segment buyers:\n    match where action is "buy":\n        tally\n'
    )
    assert counted.status == 200, counted.body
    save(shop, "some", 'def on_insert():\n    emit("x")\n', filter="buyers")
    buy(shop, 1, 3, at=1)
    assert settled(shop, "some")["counts"] == {
        "people": 1, "emissions": 1, "errors": 0, "emitted_people": 1, "schedules": 0
    }  # fmt: skip
    assert shop.request("DELETE", "/v1/table/shop/segments/buyers").status == 200
    buy(shop, 2, at=2)
    assert (
        "there is no segment 'buyers'"
        in settled(shop, "some", lambda one: "last_error" in one)["last_error"]["message"]
    )
    assert save(shop, "some", filter="")["filter"] is None
    buy(shop, 2, at=3)
    assert settled(shop, "some")["counts"]["emissions"] == 2


def test_a_trigger_does_not_take_the_name_of_a_segment(shop: Daemon) -> None:
    buy(shop, 1)
    counted = shop.request(
        "POST", "/v1/query/shop/counts", '@segment buyers:\n    match where action is "buy":\n        tally\n'
    )
    assert counted.status == 200, counted.body
    refused = shop.request("POST", "/v1/table/shop/revent/buyers", REGULAR)
    assert refused.status == 400 and "stored segment" in refused.error["message"]
    assert shop.request("GET", "/v1/table/shop/revents").json == {"triggers": []}
    save(shop, "regular", REGULAR)
    counted = shop.request("POST", "/v1/query/shop/counts", "@segment regular:\n    return True\n")
    assert counted.status == 400 and "name of a trigger" in counted.error["message"]
    assert [one["name"] for one in shop.request("GET", "/v1/table/shop/segments").json["segments"]] == ["buyers"]


def test_erased_people_leave_nothing(shop: Daemon) -> None:
    save(shop, "later", LATER.replace("(1,", "(30 days,"))
    save(shop, "every", EVERY, once="false")
    buy(shop, "ada", "ben")
    assert settled(shop, "later")["counts"]["schedules"] == 2
    assert shop.request("DELETE", "/v1/table/shop/person", sid="ada").status == 200
    assert described(shop, "later")["counts"]["schedules"] == 1
    assert shop.request("POST", "/v1/table/shop/compact").status == 200
    shop.kill()
    assert [one.person for one in messages(shop.data)] == ["ben"]
    for path in shop.data.rglob("*"):
        assert not path.is_file() or b"ada" not in path.read_bytes(), path


def test_columns_and_tables_that_go(shop: Daemon) -> None:
    save(shop, "every", EVERY, once="false")
    save(shop, "regular", REGULAR)
    assert shop.request("DELETE", "/v1/table/shop/column/product").status == 200
    buy_without = [{"person": 1, "action": "buy", "stamp": STAMP}]
    shop.insert("shop", buy_without)
    found = settled(shop, "every", lambda one: one["state"] == "disabled")
    assert found["reason"] == "the script reads column 'product', which was dropped"
    assert settled(shop, "regular")["state"] == "running"
    refused = shop.request("POST", "/v1/table/shop/revent/every", "", enabled="true")
    assert refused.status == 400 and "product" in refused.error["message"]
    assert described(shop, "every")["state"] == "disabled"
    assert shop.request("PUT", "/v1/table/shop/column/product:text").status == 200
    assert save(shop, "every", enabled="true")["state"] == "running"
    buy(shop, 7, at=9)
    again = settled(shop, "every", lambda one: one["counts"]["emissions"] >= 1)
    assert (again["state"], again["counts"]["emissions"]) == ("running", 1)
    assert shop.request("DELETE", "/v1/table/shop").status == 200
    shop.create("shop", {"product": "text"})
    assert shop.request("GET", "/v1/table/shop/revents").json == {"triggers": []}


def test_deleting(shop: Daemon) -> None:
    save(shop, "later", LATER.replace("(1,", "(30 days,"))
    buy(shop, 1, 2)
    settled(shop, "later")
    assert shop.request("DELETE", "/v1/table/shop/trigger/later").json == {"deleted": "later"}
    assert "no trigger 'later'" in shop.request("GET", "/v1/table/shop/trigger/later").error["message"]
    assert save(shop, "later", LATER)["counts"] == {
        "people": 0, "emissions": 0, "errors": 0, "emitted_people": 0, "schedules": 0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "script", "options", "message"),
    [
        ("t", "def on_insert(:\n    emit('x')\n", {}, "never closed"),
        ("t", "match:\n    tally(action)\n", {}, "on_insert"),
        ("t", "", {}, "no trigger 't' to change"),
        ("t", REGULAR, {"filter": "buyers"}, "no segment 'buyers'"),
        ("t", REGULAR, {"onec": "true"}, "did you mean 'once'"),
        ("t", REGULAR, {"once": "perhaps"}, "must be true or false"),
        ("t!", REGULAR, {}, "not a name of a trigger"),
        ("t" * 65, REGULAR, {}, "at most 64"),
    ],
)
def test_what_is_refused_changes_nothing(
    shop: Daemon, name: str, script: str, options: dict[str, str], message: str
) -> None:
    answer = shop.request("POST", f"/v1/table/shop/revent/{name}", script, **options)
    assert message in answer.error["message"], answer.error
    if answer.error["class"] == "parse":
        assert answer.error["line"] >= 1 and answer.error["column"] >= 1
    assert shop.request("GET", "/v1/table/shop/revents").json == {"triggers": []}


def test_unknown_tables_and_triggers_are_named(shop: Daemon) -> None:
    assert "no table" in shop.request("POST", "/v1/table/none/revent/t", REGULAR).error["message"]
    save(shop, "regular", REGULAR)
    assert "did you mean 'regular'" in shop.request("GET", "/v1/table/shop/revent/regulr").error["message"]
    assert "no trigger" in shop.request("POST", "/v1/table/shop/revent/other/reset").error["message"]
    assert shop.request("PUT", "/v1/table/shop/revent/regular").status == 405


def test_the_command_line(shop: Daemon, tmp_path: Path) -> None:
    from click.testing import CliRunner

    url = f"http://127.0.0.1:{shop.port}"
    script = tmp_path / "regular.pyql"
    script.write_text(REGULAR)

    def run(*arguments: str) -> str:
        outcome = CliRunner().invoke(main, [*arguments, "--url", url])
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    assert "no triggers" in run("triggers", "shop")
    assert "regular  running" in run("trigger", "shop", "regular", str(script), "--always")
    for at in range(3):
        buy(shop, 1, at=at)
    settled(shop, "regular")
    assert "regular  running, 1 emissions, 0 errors" in run("triggers", "shop")
    assert "disabled (enabled=false)" in run("trigger", "shop", "regular", "--disable")
    shown = json.loads(run("trigger", "shop", "regular", "--json"))
    assert shown["script"] == REGULAR and not shown["once"]
    assert "once: true" in run("trigger", "shop", "regular", "--once", "--enable", "--reset")
    assert "deleted regular" in run("trigger", "shop", "regular", "--delete")
