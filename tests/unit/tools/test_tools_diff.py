"""diff finds exactly what differs, whatever partitions, files and journals the two sides are made of."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.daemon import Daemon
from support.tool_cases import insert

from openset.cli import main
from openset.store.store import Store
from openset_tools.backups.make import make_backup
from openset_tools.backups.places import LocalPlace

COLUMNS = [("page", "text"), ("price", "double"), ("count", "int"), ("member", "bool")]
Event = dict[str, Any]


def diff(*arguments: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(main, ["diff", "--json", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)


def made(data: Path, events: Iterable[Event], partitions: int, chance: random.Random) -> Path:
    """The events in files and journal, inserted in some pieces."""
    store = Store.open(data)
    store.initialise(partitions)
    store.create_table("t", COLUMNS, ["view", "buy"])
    events = list(events)
    while events:
        count = chance.randrange(1, len(events) + 1)
        insert(store, "t", events[:count])
        events = events[count:]
        if chance.random() < 0.5:
            store.compact_all()
    store.close()
    return data


def some_events(chance: random.Random) -> dict[tuple[Any, int, str], Event]:
    found = {}
    for _ in range(chance.randrange(1, 60)):
        person: str | int = chance.choice(["ann", "bob", "7", 7, "zoë", 1, 2, 3])
        stamp, action = 10**12 + chance.randrange(6), chance.choice(["view", "buy", "late"])
        found[person, stamp, action] = event_of(person, stamp, action, chance)
    return found


def event_of(person: str | int, stamp: int, action: str, chance: random.Random) -> Event:
    def attributes() -> dict[str, Any]:
        values = {
            "page": chance.choice(["a", "b", ""]), "price": chance.choice([0.5, -1.0, 0.0]),
            "count": chance.choice([0, 1, -5]), "member": chance.choice([True, False]),
        }  # fmt: skip
        return {name: value for name, value in values.items() if chance.random() < 0.6}

    rows = [attributes() for _ in range(chance.choice([1, 1, 1, 2, 3]))]
    return {"person": person, "stamp": stamp, "action": action, "attr": rows[0] | ({"_": rows[1:]} if rows[1:] else {})}


@pytest.mark.parametrize("seed", range(12))
def test_what_differs(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    events = some_events(chance)
    # Events of one stamp and no place in the z-order keep their order of arrival.
    shuffled = sorted(events.values(), key=lambda event: (event["stamp"], chance.random()))
    a = made(tmp_path / "a", sorted(events.values(), key=lambda event: event["stamp"]), chance.randrange(1, 4), chance)
    b = made(tmp_path / "b", shuffled, chance.randrange(1, 4), chance)
    code, found = diff(a, b)
    assert (code, found["same"], found["tables"][0]["samples"]) == (0, True, [])
    changed = dict(events)
    for key in chance.sample(sorted(events, key=str), chance.randrange(0, min(len(events), 5) + 1)):
        if chance.random() < 0.5:
            del changed[key]
        else:
            changed[key] = event_of(*key, chance) | {"attr": {"count": 99}}
    for _ in range(chance.randrange(0, 4)):
        key = (chance.choice(["ann", "new", 7]), 10**12 + chance.randrange(20, 30), "view")
        changed[key] = event_of(*key, chance)
    c = made(tmp_path / "c", sorted(changed.values(), key=lambda event: event["stamp"]), chance.randrange(1, 4), chance)
    code, found = diff(a, c, "--samples", 100)
    (table,) = found["tables"]
    assert table["events"] == {
        "only_in_a": len(events.keys() - changed.keys()), "only_in_b": len(changed.keys() - events.keys()),
        "different": sum(events[key] is not changed[key] for key in events.keys() & changed.keys()),
        "a": len(events), "b": len(changed),
    }  # fmt: skip
    people = {typed(key[0]) for key in events}, {typed(key[0]) for key in changed}
    differing = {typed(key[0]) for key in events.keys() | changed.keys() if events.get(key) is not changed.get(key)}
    assert table["people"] == {
        "only_in_a": len(people[0] - people[1]), "only_in_b": len(people[1] - people[0]),
        "different": len(differing & people[0] & people[1]), "a": len(people[0]), "b": len(people[1]),
    }  # fmt: skip
    assert {typed(sample["person"]) for sample in table["samples"]} == differing
    assert code == (1 if differing else 0)


def typed(person: str | int) -> tuple[str, str]:
    return type(person).__name__, str(person)


def test_columns_and_settings(tmp_path: Path) -> None:
    chance = random.Random(1)
    a = made(tmp_path / "a", [event_of("ann", 10**12, "view", chance)], 2, chance)
    b = made(tmp_path / "b", [event_of("ann", 10**12, "view", random.Random(1))], 2, chance)
    store = Store.open(b)
    store.add_column("t", "more", "text")
    store.drop_column("t", "price")
    store.add_column("t", "price", "int")
    store.set_retention("t", 1_000_000)
    store.create_table("other", [])
    store.close()
    code, found = diff(a, b)
    (table,) = found["tables"]
    assert (code, found["only_in_b"], table["settings"]) == (
        1, ["other"], {"retention_days": {"a": None, "b": 1_000_000}},
    )  # fmt: skip
    assert table["columns"] == [
        {"column": "price", "a": "double", "b": "int"}, {"column": "more", "a": None, "b": "text"},
    ]  # fmt: skip
    # Columns that both have, of one type, are compared in events.
    assert table["events"]["different"] == table["people"]["different"] == 0


def test_order_of_events_that_share_a_stamp(tmp_path: Path) -> None:
    events = [{"person": "ann", "stamp": 10**12, "action": action} for action in ("x", "y")]
    chance = random.Random(1)
    a, b = made(tmp_path / "a", events, 1, chance), made(tmp_path / "b", events[::-1], 1, chance)
    code, found = diff(a, b)
    (table,) = found["tables"]
    assert (code, table["people"]["different"], table["events"]["different"]) == (1, 1, 0)


def test_beside_a_daemon_that_goes_on(tmp_path: Path) -> None:
    """What a backup had is never missing afterwards, and what is new came after it."""
    data, place = tmp_path / "data", LocalPlace(tmp_path / "b")
    with Daemon(data, init=3, policy={"base_share": 0.1, "floor_events": 20}) as daemon:
        daemon.create("t", {"count": "int"})
        stop, inserted = threading.Event(), [0]

        def ingest() -> None:
            while not stop.is_set():
                stamp = 10**12 + inserted[0]
                daemon.insert("t", [{"person": person, "stamp": stamp, "action": "a"} for person in range(9)])
                inserted[0] += 1

        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            for _ in range(2):
                backup_id = make_backup(data, place).backup.id
                code, found = diff(f"{place}@{backup_id}", data)
                events = found["tables"][0]["events"]
                assert code in (0, 1) and events["only_in_a"] == events["different"] == 0
                assert events["a"] % 9 == events["b"] % 9 == 0 and events["b"] - events["a"] == events["only_in_b"]
        finally:
            stop.set()
            thread.join()
