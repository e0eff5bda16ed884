"""Backups: of a moment while a daemon ingests and compacts, incremental, safe to interrupt, checked on restore."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.daemon import Daemon
from support.store_model import new_store

from openset.cli import main
from openset.errors import ConfigError, InternalError
from openset.store import lock
from openset.store.store import Store
from openset.store.unfinished import begin
from openset_format.files import FileLayer
from openset_format.membership import MembershipFile
from openset_tools.backups import make as module
from openset_tools.backups import restore as restore_module
from openset_tools.backups.lists import Backup, listed
from openset_tools.backups.make import Outcome, make_backup
from openset_tools.backups.places import LocalPlace
from openset_tools.backups.restore import restore as restored
from openset_tools.backups.source import Source
from openset_tools.verify import verify

PEOPLE = 20
COUNT = "match where action is 'view': tally('all', n)"


def batch(number: int) -> list[dict[str, Any]]:
    """One request: an event for everyone, so that a request seen by half shows."""
    stamp = 1_700_000_000_000 + number
    return [
        {"person": f"p{person}", "stamp": stamp, "action": "view", "attr": {"n": number}} for person in range(PEOPLE)
    ]


def backup(data_dir: Path, target: Path) -> Outcome:
    return make_backup(data_dir, LocalPlace(target))


def backups(target: Path) -> list[Backup]:
    return listed(LocalPlace(target)).backups


def restore(source: Path, data_dir: Path, backup_id: str | None = None) -> Backup:
    return restored(LocalPlace(source), data_dir, backup_id)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    store = Store.open(data)
    store.initialise(2)
    store.create_table("t", [("n", "int")])
    insert(store, 0)
    store.compact_all()
    insert(store, 1)
    store.close()
    return data


def insert(store: Store, number: int) -> None:
    store.submit("t", store.prepare_insert("t", json.dumps(batch(number)).encode())).result()


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("lock", "synced")
    }


def test_what_is_restored_is_what_was_backed_up(data_dir: Path, tmp_path: Path) -> None:
    before = contents(data_dir)
    outcome = backup(data_dir, tmp_path / "b")
    assert contents(data_dir) == before
    assert outcome.copied_bytes == outcome.backup.size_bytes == sum(map(len, before.values()))
    assert restore(tmp_path / "b", tmp_path / "again") == outcome.backup
    assert contents(tmp_path / "again") == before
    assert verify(tmp_path / "again", deep=True) == []


def test_leftovers_of_what_was_interrupted_are_not_in_a_backup(data_dir: Path, tmp_path: Path) -> None:
    """Of an import and a compaction that were killed, of files half written, of segments that count together."""
    source = tmp_path / "events.ndjson"
    source.write_bytes(b"".join(json.dumps(event).encode() + b"\n" for event in batch(7)))
    before = contents(data_dir)
    killed = (
        "import os, sys; from openset_tools.importing import importer;"
        "importer._Import._merge = lambda *_: os._exit(9);"
        "from openset.cli import main; main(sys.argv[1:])"
    )
    arguments = ["import", str(data_dir), "t", str(source), "--workers", "1"]
    assert subprocess.run([sys.executable, "-c", killed, *arguments]).returncode == 9
    left = {name for name in contents(data_dir) if name not in before}
    assert left and all(name.startswith("import-") for name in left), left
    table = data_dir / "tables" / "1"
    for name in ("p0000.h5.1a2b3c4d.next", "p0000.h5.1a2b3c4d.next.77-abcd.tmp", "p0001.h5.5.old"):
        (table / name).write_bytes(b"half")
    (data_dir / "catalog.json.77-abcd.tmp").write_bytes(b"half")
    (data_dir / "probe.77-abcd.tmp").write_bytes(b"full")
    segments = table / "segments"
    segments.mkdir()
    (segments / "0000000001.segment").write_bytes(b"no segment, but it does not count")
    begin(segments, ["0000000001.segment", "0000000002.segment"], FileLayer())
    # `begin` removes what it finds; this is what a crash after it leaves.
    (segments / "0000000001.segment").write_bytes(b"no segment, but it does not count")
    outcome = backup(data_dir, tmp_path / "b")
    assert {file.path for file in outcome.backup.files} == set(before)
    restore(tmp_path / "b", tmp_path / "again")
    assert contents(tmp_path / "again") == before
    # Nor do they hurt the next start, which removes them.
    Store.open(data_dir).close()
    assert contents(data_dir) == before and not any(segments.iterdir())
    assert backup(data_dir, tmp_path / "b").copied_files == 0


def test_segments_that_are_stored_together_are_in_a_backup_together(data_dir: Path, tmp_path: Path) -> None:
    stop, made = threading.Event(), [0]
    with Daemon(data_dir) as daemon:

        def count() -> None:
            while not stop.is_set():
                made[0] += 1
                text = "".join(f"@segment s{at}:\n    match where n >= {made[0] % 2}: tally\n" for at in range(4))
                assert daemon.request("POST", "/v1/query/t/counts", text).status == 200

        thread = threading.Thread(target=count)
        thread.start()
        found = []
        for number in range(3):
            while made[0] < 3 * number + 2:
                assert thread.is_alive()
            found.append(backup(data_dir, tmp_path / "b").backup.id)
        stop.set()
        thread.join()
    for backup_id in found:
        again = tmp_path / backup_id
        restore(tmp_path / "b", again, backup_id)
        scripts = {json.loads(MembershipFile.open(path).description)["script"] for path in again.rglob("*.segment")}
        assert len(list(again.rglob("*.segment"))) == 4 and len(scripts) == 1


def test_a_backup_while_a_daemon_ingests_and_compacts(tmp_path: Path) -> None:
    policy = {"base_share": 0.1, "floor_events": 40}
    with Daemon(tmp_path / "data", init=3, policy=policy) as daemon:
        daemon.create("t", {"n": "int"})
        acknowledged, stop = [0], threading.Event()

        def ingest() -> None:
            while not stop.is_set():
                daemon.insert("t", batch(acknowledged[0]))
                acknowledged[0] += 1

        thread = threading.Thread(target=ingest)
        thread.start()
        moments = []
        for _ in range(2):
            while acknowledged[0] < (moments[-1][1] if moments else 0) + 15:
                assert thread.is_alive()
            first = acknowledged[0]
            outcome = backup(tmp_path / "data", tmp_path / "b")
            moments.append((first, acknowledged[0] + 1, outcome.backup.id))
        stop.set()
        thread.join()
    for first, last, backup_id in moments:
        again = tmp_path / f"again-{backup_id}"
        restore(tmp_path / "b", again, backup_id)
        assert verify(again, deep=True) == []
        with Daemon(again) as restored:
            (root,) = restored.events("t", COUNT, sort="key", order="asc")["_"]
        numbers = [node["g"] for node in root["_"]]
        # Whole requests, in order, with all that was acknowledged before the backup began.
        assert numbers == list(range(len(numbers)))
        assert first <= len(numbers) <= last
        assert {node["c"][0] for node in root["_"]} == {PEOPLE}


def test_files_that_are_replaced_before_they_are_copied(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are open, and are verified and copied as they were, whatever has their names now."""
    before = contents(data_dir)
    opened = module.open_sources

    def compacted(data: Path, stack: ExitStack) -> tuple[list[Source], Backup]:
        found = opened(data, stack)
        store = Store.open(data)
        insert(store, 2)
        store.compact_all()
        store.close()
        return found

    monkeypatch.setattr(module, "open_sources", compacted)
    backup(data_dir, tmp_path / "backups")
    restore(tmp_path / "backups", tmp_path / "restored")
    assert contents(tmp_path / "restored") == before != contents(data_dir)


def test_unchanged_files_are_not_copied_again(data_dir: Path, tmp_path: Path) -> None:
    backup(data_dir, tmp_path / "b")
    assert backup(data_dir, tmp_path / "b").copied_files == 0
    store = Store.open(data_dir)
    insert(store, 2)
    store.close()
    later = backup(data_dir, tmp_path / "b")
    assert later.copied_files == 1 and len(later.backup.files) > 1
    assert len(backups(tmp_path / "b")) == 3
    oldest = restore(tmp_path / "b", tmp_path / "oldest", backups(tmp_path / "b")[0].id)
    assert oldest.last_sequence == 2


def test_an_interrupted_backup_is_none(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backup(data_dir, tmp_path / "b")
    store = Store.open(data_dir)
    insert(store, 2)
    store.compact_all()
    store.close()

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "encode_list", interrupted)
        with pytest.raises(KeyboardInterrupt):
            backup(data_dir, tmp_path / "b")
    (tmp_path / "b" / "contents" / "half.partial").write_bytes(b"half")
    assert len(backups(tmp_path / "b")) == 1
    complete = backup(data_dir, tmp_path / "b")
    assert not list((tmp_path / "b").rglob("*.partial"))
    restore(tmp_path / "b", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(data_dir) and complete.backup.last_sequence == 3


def test_an_interrupted_restore_leaves_no_directory(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(data_dir, tmp_path / "b")
    with monkeypatch.context() as patched:
        patched.setattr(restore_module, "read_data_dir", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    restore(tmp_path / "b", tmp_path / "again")
    assert contents(tmp_path / "again") == contents(data_dir)


def test_a_damaged_file_is_neither_backed_up_nor_restored(data_dir: Path, tmp_path: Path) -> None:
    backup(data_dir, tmp_path / "b")
    path = sorted(data_dir.glob("tables/1/p*.h5"))[0]
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(damaged)
    with pytest.raises(InternalError, match="damaged"):
        backup(data_dir, tmp_path / "other")
    assert backups(tmp_path / "other") == []
    content = max((tmp_path / "b" / "contents").rglob("*"), key=lambda each: each.stat().st_size)
    content.chmod(0o644)
    content.write_bytes(content.read_bytes()[:-1] + b"?")
    with pytest.raises(InternalError, match="its content in the backup is damaged"):
        restore(tmp_path / "b", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_what_cannot_be_restored(data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a backup directory"):
        backups(data_dir)
    backup(data_dir, tmp_path / "b")
    with pytest.raises(ConfigError, match="is not empty"):
        restore(tmp_path / "b", data_dir)
    for name in ("none", "../x"):
        with pytest.raises(ConfigError, match="holds no backup"):
            restore(tmp_path / "b", tmp_path / "again", name)
    with pytest.raises(ConfigError, match="is not a data directory"):
        backup(tmp_path, tmp_path / "c")


def test_the_commands(data_dir: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    made = json.loads(run("backup", data_dir, tmp_path / "b", "--json").stdout)
    assert made["copied_files"] == made["files"]
    assert "0 files, 0 bytes of them copied" in run("backup", data_dir, tmp_path / "b").stdout
    listed = json.loads(run("restore", tmp_path / "b", "--list", "--json").stdout)["backups"]
    assert [one["tables"] for one in listed] == [["t"], ["t"]] and listed[0]["id"] == made["id"]
    assert made["id"] in run("restore", tmp_path / "b", tmp_path / "again", "--backup", made["id"]).stdout
    assert run("restore", tmp_path / "b").exit_code == 2
    assert "is not empty" in run("restore", tmp_path / "b", tmp_path / "again").stderr


def test_more_files_than_a_process_may_open_at_first(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "data")
    store.initialise(48)
    store.create_table("t", [("n", "int")])
    events = [{"person": f"p{person}", "stamp": 10**12, "action": "view"} for person in range(500)]
    store.submit("t", store.prepare_insert("t", json.dumps(events).encode())).result()
    store.compact_all()
    store.close()
    run = "import sys; from openset.cli import main; main(sys.argv[1:])"
    for arguments in (("backup", "data", "b"), ("export", "data", "t", "--output", "out"), ("diff", "data", "b")):
        command = ["bash", "-c", 'ulimit -Sn 40; exec "$@"', "-", sys.executable, "-c", run, *arguments]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert len((tmp_path / "out").read_bytes().splitlines()) == 500


def test_a_backup_on_a_network_file_system_is_fine_a_data_directory_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:44 / {tmp_path}/far rw - nfs server:/export rw\n")
    monkeypatch.setattr(lock, "MOUNTS", mounts)
    (tmp_path / "far").mkdir()
    new_store(tmp_path / "data").close()
    backup(tmp_path / "data", tmp_path / "far" / "backups")
    restore(tmp_path / "far" / "backups", tmp_path / "again")
    Store.open(tmp_path / "again").close()
    with pytest.raises(ConfigError, match=r"network file system \(nfs\); it must be on a local one"):
        Store.open(tmp_path / "far" / "data")
