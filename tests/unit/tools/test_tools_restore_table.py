"""One table of a backup put into another data directory: all of it with its segments and triggers, or nothing."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.daemon import Daemon
from support.failing import FailingFiles
from support.tool_cases import event, insert, make_data_dir

from openset.cli import main
from openset.errors import ConfigError, OpenSetError, QueryError
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset_tools.backups.make import make_backup
from openset_tools.backups.places import LocalPlace
from openset_tools.backups.table import restore_table
from openset_tools.export import export
from openset_tools.verify import verify

VIEWERS = "match where action is 'view': tally('views')"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def events_of(data_dir: Path, table: str) -> list[bytes]:
    target = io.BytesIO()
    done = export(data_dir, table, target)
    assert done.problems == []
    return sorted(target.getvalue().splitlines())


def state_of(data_dir: Path, table: str) -> dict[str, Any]:
    """What a table holds besides events."""
    store = Store.open(data_dir)
    schema = store.table(table)
    with store.triggers.states(schema.id) as states:
        messages = {number: [one.name for one in state.after(1, 0, 99)] for number, state in states.items()}
    pending = {
        number: len(store.triggers.pending(schema.id, number, 99)) for number in store.triggers.partitions(schema.id)
    }
    segments = [(one.segment.name, one.segment.people) for one in store.segments.all(schema.id, 0)]
    store.close()
    return {
        "columns": [(column.id, column.name, column.type) for column in schema.columns],
        "z_order": schema.z_order,
        "retention": schema.retention_days,
        "messages": messages,
        "pending": pending,
        "segments": segments,
        "triggers": [one.name for one in store.triggers.of_table(schema.id)],
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """With inserts that triggers have not run for, and a partition that is further than the other."""
    data = tmp_path / "source"
    make_data_dir(data)
    store = Store.open(data)
    schema = store.table("shop")
    trigger = Trigger(0, "late", 1, "", True, True, False, None, 0, (), 0, ())
    store.triggers.put(schema.id, trigger, None, lambda: store.visible_sequence)
    insert(store, "shop", [event("dan", 30, "view", page="home")])
    store.drop_column("shop", "member")
    store.add_column("shop", "member", "int")
    insert(store, "shop", [event("ann", 31, "view", member=7), event("bob", 31, "view")])
    store.close()
    return data


@pytest.fixture
def place(source: Path, tmp_path: Path) -> LocalPlace:
    place = LocalPlace(tmp_path / "backups")
    make_backup(source, place)
    return place


def other(data: Path, partitions: int = 2) -> Path:
    """A data directory with a journal, a table and a past of its own."""
    store = Store.open(data)
    store.initialise(partitions)
    store.create_table("gone", [("n", "int")])
    insert(store, "gone", [event("x", 0, "view", n=1)])
    store.create_table("own", [("n", "int")])
    insert(store, "own", [event("ann", 0, "view", n=1), event("eve", 0, "view", n=2)])
    store.compact_all()
    insert(store, "own", [event("ann", 1, "view", n=3)])
    store.drop_table("gone")
    store.close()
    return data


def test_into_another_data_directory(source: Path, place: LocalPlace, tmp_path: Path) -> None:
    data = other(tmp_path / "other")
    before = events_of(data, "own")
    restore_table(place, data, "shop")
    assert verify(data, deep=True) == []
    assert events_of(data, "shop") == events_of(source, "shop")
    assert state_of(data, "shop") == state_of(source, "shop")
    assert state_of(source, "shop")["pending"] != {} and state_of(source, "shop")["segments"] == [("viewers", 2)]
    assert events_of(data, "own") == before
    # It goes on as any other table: inserts, erasures, compactions.
    for directory in (data, source):
        store = Store.open(directory)
        insert(store, "shop", [event("eve", 40, "view"), event("zoe", 40, "buy", page="pen")])
        store.submit_erasure("shop", "bob").result()
        store.close()
    assert events_of(data, "shop") == events_of(source, "shop")
    store = Store.open(data)
    store.compact_all()
    store.close()
    assert events_of(data, "shop") == events_of(source, "shop") and events_of(data, "own") == before
    assert verify(data, deep=True) == []


def test_into_a_new_directory_and_under_another_name(source: Path, place: LocalPlace, tmp_path: Path) -> None:
    data = tmp_path / "new"
    assert run("restore", place, data, "--table", "shop").exit_code == 0
    assert "table yesterday of backup" in run("restore", place, data, "--table", "shop", "--as", "yesterday").stdout
    assert run("restore", place, data, "--table", "empty", "--json").exit_code == 0
    assert events_of(data, "shop") == events_of(data, "yesterday") == events_of(source, "shop")
    assert events_of(data, "empty") == []
    assert verify(data, deep=True) == []
    store = Store.open(data)
    assert (store.partitions, [table.name for table in store.tables()]) == (2, ["shop", "yesterday", "empty"])
    store.close()
    # Only these tables, and nothing of what else the journal of the backup holds.
    assert len({table["table_id"] for table in json.loads(run("inspect", data, "--json").stdout)["tables"]}) == 3
    with Daemon(data) as daemon:
        (root,) = daemon.events("yesterday", VIEWERS)["_"]
        assert root["c"] == [4]


def contents(directory: Path) -> dict[Path, bytes]:
    found = [path for path in directory.rglob("*") if path.is_file() and path.name not in ("lock", "synced")]
    return {path: path.read_bytes() for path in found}


def test_what_is_refused(source: Path, place: LocalPlace, tmp_path: Path) -> None:
    data = other(tmp_path / "other")
    before = contents(data)
    with pytest.raises(QueryError, match="there is no table 'shops'"):
        restore_table(place, data, "shops")
    with pytest.raises(ConfigError, match="table 'own' exists already"):
        restore_table(place, data, "shop", "own")
    with pytest.raises(ConfigError, match="is not a table name"):
        restore_table(place, data, "shop", "Own")
    with pytest.raises(ConfigError, match="has 3 partitions and the backup 2"):
        restore_table(place, other(tmp_path / "three", 3), "shop")
    with pytest.raises(ConfigError, match="is neither a data directory nor empty"):
        restore_table(place, tmp_path, "shop")
    with Daemon(tmp_path / "running", init=2) as daemon, pytest.raises(ConfigError, match="stop the daemon"):
        restore_table(place, daemon.data, "shop")
    assert contents(data) == before
    with pytest.raises(QueryError, match="there is no table 'shops'"):
        restore_table(place, tmp_path / "new", "shops")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob("*.restoring"))
    assert run("restore", place, "--list", "--table", "shop").exit_code == 0
    assert run("restore", place, data, "--as", "x").exit_code == 2


def test_a_damaged_backup_leaves_the_directory_as_it_was(place: LocalPlace, tmp_path: Path) -> None:
    data = other(tmp_path / "other")
    before = events_of(data, "own")
    files = sorted((place.directory / "contents").rglob("*"), key=lambda path: -path.stat().st_size)
    for path in [path for path in files if path.is_file()][:3]:
        sound = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(sound[:-1])
        with pytest.raises(OpenSetError):
            restore_table(place, data, "shop")
        path.write_bytes(sound)
        assert verify(data, deep=True) == [] and events_of(data, "own") == before
    restore_table(place, data, "shop")


def test_all_or_nothing_wherever_the_disk_fails(source: Path, place: LocalPlace, tmp_path: Path) -> None:
    outcomes, finished, fresh = [], False, other(tmp_path / "fresh")
    expected = events_of(source, "shop")
    for at in range(200):
        data = tmp_path / str(at)
        shutil.copytree(fresh, data)
        try:
            restore_table(place, data, "shop", files=FailingFiles(at))
        except OpenSetError:
            pass
        else:
            finished = True
        store = Store.open(data)
        tables = [table.name for table in store.tables()]
        created = store.create_table("further", [("n", "int")])
        insert(store, "further", [event("ann", 0, "view", n=1)])
        store.close()
        assert tables in (["own"], ["own", "shop"])
        if "shop" in tables:
            assert events_of(data, "shop") == expected
        assert len(events_of(data, "own")) == 3 and len(events_of(data, "further")) == 1
        assert verify(data, deep=True) == []
        left = [path.name for path in data.rglob("*") if ".tmp" in path.name or ".next" in path.name]
        assert left == [] and {path.name for path in (data / "tables").iterdir()} <= {
            str(created.id), *(str(table) for table in range(created.id)),
        }  # fmt: skip
        outcomes.append("shop" in tables)
        if finished:
            break
    assert finished and outcomes == sorted(outcomes) and outcomes[-1] and not outcomes[0]
