"""inspect, verify, backup and restore of a data directory with triggers, sound and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from openset.cli import main
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Counted, Emitted, Scheduled


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A table of two partitions with a trigger: some of its state in sidecars, some in the journal only."""
    data = tmp_path / "data"
    store = Store.open(data)
    store.initialise(2)
    table = store.create_table("shop", [("page", "text")]).id
    trigger = Trigger(0, "silent", 1, "", True, True, False, None, 0, (), 0, ("later",))
    assert store.triggers.put(table, trigger, None, lambda: 0).id == 1
    store.submit("shop", store.prepare_insert("shop", b'[{"person": "ann", "action": "view"}]')).result()
    changes = [Emitted(5, 0, "ann", 1, "silent", "x", {"n": 1}), Counted(1, 3, 1, 0)]
    store.triggers.append(table, {0: changes, 1: [Scheduled(1, "later", [(0, 99, "bob")])]}).result()
    store.compactions.write_sidecars(forced=True)
    store.triggers.append(table, {0: [Emitted(6, 0, "ann", 1, "silent", "y")]}).result()
    store.close()
    return data


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_inspect_shows_triggers_and_sidecars(data_dir: Path) -> None:
    assert "trigger silent: running, 1 emissions, 1 schedules" in run("inspect", data_dir).output
    shown = run("inspect", data_dir / "tables" / "1" / "p0000.revent").output
    assert "triggers of table 1, partition 0" in shown and "messages: 1" in shown
    found = json.loads(run("inspect", data_dir / "tables" / "1" / "p0001.revent", "--json").output)
    assert found["state"]["schedules"] == 1 and found["header"]["partition"] == 1


def test_verify_says_nothing_of_what_is_sound(data_dir: Path) -> None:
    outcome = run("verify", data_dir, "--deep")
    assert outcome.exit_code == 0, outcome.output


@pytest.mark.parametrize("name", ["p0000.revent", "p0001.revent", "triggers.json"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_verify_finds_every_flipped_byte(data_dir: Path, name: str, share: float) -> None:
    path = data_dir / "tables" / "1" / name
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 2))] ^= 0x15
    path.write_bytes(content)
    outcome = run("verify", data_dir)
    assert outcome.exit_code == 1 and name in outcome.output, outcome.output
    assert run("backup", data_dir, data_dir.parent / "backup").exit_code == 1


def test_verify_finds_sidecars_that_were_cut_or_exchanged(data_dir: Path) -> None:
    first, second = (data_dir / "tables" / "1" / name for name in ("p0000.revent", "p0001.revent"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    assert "it is of partition 1 of table 1" in run("verify", data_dir).output
    first.write_bytes(content[:-1])
    assert "bytes long" in run("verify", data_dir).output


def test_backups_hold_the_state_of_triggers(data_dir: Path) -> None:
    backup, again = data_dir.parent / "backup", data_dir.parent / "again"
    assert run("backup", data_dir, backup).exit_code == 0
    assert run("restore", backup, again).exit_code == 0
    store = Store.open(again)
    with store.triggers.states(1) as states:
        assert [one.name for one in states[0].after(1, 0, 10)] == ["x", "y"]
        assert states[1].schedules(1) == 1
    store.close()
