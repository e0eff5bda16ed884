"""What a node writes on its way into a cluster, without power at any step: the old state or the new one, never half."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.power_failure import UNSYNCED, Promises, after_failure, chosen, moments
from support.simulated_disk import Fault, SimulatedDisk

from openset.cluster.identity import Identity, IdentityFile, read_identity, refuse_member
from openset.cluster.map import Member
from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.shared_schema import SharedSchema
from openset.store.store import Store

MOMENTS = 150
STEPS = [
    Identity(replicas=3),
    Identity("becoming", 3, "n1", "c", 8, True, "h", 1, "embedded", Member("n1", "h", 1)),
    Identity("member", 3, "n1", "c", 8, True, "h", 1, "embedded", Member("n1", "h", 1)),
    Identity("member", 3, "n1", "c", 8, True, "h", 2, "embedded", Member("n1", "h", 2)),
    Identity("removed", 3, "n1", "c", 8, True, "h", 2, "embedded", Member("n1", "h", 2)),
]


def test_an_identity_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path)
    disk.make_directory(tmp_path / "data")
    disk.sync_directory(tmp_path)
    first = disk.position
    promises: Promises[Identity] = Promises([Identity()])
    file = IdentityFile(tmp_path / "data", disk)
    kinds = ["create", "write", "sync", "rename", "sync_directory"]
    for number, identity in enumerate([*STEPS, *STEPS, *STEPS]):
        if number % 3 == 1:
            disk.faults.append(Fault(kinds[number % len(kinds)]))
        promises.begin(disk, identity)
        try:
            file.write(identity)
        except InternalError:
            continue
        promises.acknowledge(disk)
        assert file.identity == identity == read_identity(tmp_path / "data")
    for position, name in chosen(list(moments(disk, first=first)), MOMENTS, seed=3):
        with after_failure(disk, position, name) as image:
            found = IdentityFile(image / "data", UNSYNCED)
            assert found.identity in promises.allowed(position), (position, name)
            assert not list(image.rglob("*.tmp"))


@pytest.mark.parametrize("damage", ["bytes", "lacks", "mode", "newer"])
def test_a_damaged_identity_is_reported(tmp_path: Path, damage: str) -> None:
    file = IdentityFile(tmp_path)
    broken = {
        "lacks": Identity("member", node="n1", cluster="c"),  # no home, and not on etcd
        "mode": Identity("visitor"),  # type: ignore[arg-type]
        "newer": Identity(format_version=2),
    }
    file.write(broken.get(damage, STEPS[2]))
    path = tmp_path / "cluster" / "member.json"
    if damage == "bytes":
        path.write_bytes(path.read_bytes().replace(b'"n1"', b'"n2"', 1))
    with pytest.raises(ConfigError if damage == "newer" else InternalError, match=r"member\.json"):
        read_identity(tmp_path)
    with pytest.raises(OpenSetError):
        refuse_member(tmp_path)


def adopted(data: Path) -> SharedSchema:
    """The tables that a start finds."""
    store = Store.open(data, files=UNSYNCED)
    try:
        directories = {int(path.name) for path in (data / "tables").glob("*") if path.name.isdecimal()}
        assert directories <= {table.id for table in store.tables()}
        return store.shared_schema()
    finally:
        store.close()


def test_tables_that_are_taken_over_are_all_of_one_state(tmp_path: Path) -> None:
    elsewhere = Store.open(tmp_path / "elsewhere")
    elsewhere.initialise(2)
    schemas = []
    for number in range(4):
        elsewhere.create_table(f"t{number}", [("x", "int")])
        schemas.append(elsewhere.shared_schema())
        elsewhere.add_column(f"t{number}", "y", "text")
        if number:
            elsewhere.drop_table(f"t{number - 1}")
        schemas.append(elsewhere.shared_schema())
    elsewhere.close()

    (tmp_path / "live").mkdir()
    disk = SimulatedDisk(tmp_path / "live")
    data = tmp_path / "live" / "data"
    store = Store.open(data, files=disk)
    store.initialise(2)
    first = disk.position
    promises: Promises[SharedSchema] = Promises([SharedSchema()])
    for number, schema in enumerate(schemas):
        if number == 3:
            disk.faults.append(Fault("rename", "catalog.json"))
        promises.begin(disk, schema)
        try:
            store.adopt_schema(schema)
        except OpenSetError:
            continue
        promises.acknowledge(disk)
        for table in store.tables():
            body = json.dumps([{"person": "p", "action": "a", "attr": {"x": number}}]).encode()
            store.submit(table.name, store.prepare_insert(table.name, body, now_ms=1)).result()
        store.compact_all()
    store.close()
    for position, name in chosen(list(moments(disk, first=first)), MOMENTS, seed=4):
        with after_failure(disk, position, name) as image:
            assert adopted(image / "data") in promises.allowed(position), (position, name)


def test_tables_of_before_are_not_taken_over(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    store.initialise(2)
    store.create_table("a", [])
    early = store.shared_schema()
    store.create_table("b", [])
    late = store.shared_schema()
    with pytest.raises(InternalError):
        store.adopt_schema(early)
    late.tables[0].name = "b"
    with pytest.raises(InternalError):
        store.adopt_schema(late)
    assert [table.name for table in store.tables()] == ["a", "b"]
    store.close()
