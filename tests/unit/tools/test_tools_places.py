"""Backups to places behind URLs: in memory, and in an S3 that is started here; pruned, shared, interrupted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import msgspec
import pytest
from click.testing import CliRunner, Result
from moto.server import ThreadedMotoServer
from support.failing import FailingFiles
from support.tool_cases import event, insert, make_data_dir

from openset.cli import main
from openset.errors import ConfigError, InternalError
from openset.store.store import Store
from openset_tools.backups import remote
from openset_tools.backups.lists import CONTENTS_DIRECTORY, content_path, encode_list, list_path, listed
from openset_tools.backups.make import make_backup
from openset_tools.backups.places import LocalPlace, place_of
from openset_tools.backups.prune import prune
from openset_tools.backups.restore import restore
from openset_tools.verify import verify


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of an empty bucket."""
    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    names = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in names.items():
            patched.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture(params=["directory", "memory", "s3", "local"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place of each kind. local: behind a URL, with directories that have to be made."""
    if request.param in ("directory", "local"):
        return f"{'local://' if request.param == 'local' else ''}{tmp_path / 'backups'}"
    name = f"{request.node.name}-{time.monotonic_ns()}"
    return f"{request.getfixturevalue('s3')}/{name}" if request.param == "s3" else f"memory://{name}"


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    make_data_dir(tmp_path / "data")
    return tmp_path / "data"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def more(data_dir: Path, hour: int, compact: bool = False) -> None:
    store = Store.open(data_dir)
    insert(store, "shop", [event("dan", hour, "view")])
    if compact:
        store.compact_all()
    store.close()


def lasting(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in ("lock", "synced")
    }


def test_backup_list_restore_and_prune(address: str, data_dir: Path, tmp_path: Path) -> None:
    first = json.loads(run("backup", data_dir, address, "--json").stdout)
    assert first["copied_files"] == first["files"]
    before = lasting(data_dir)
    assert json.loads(run("backup", data_dir, address, "--json").stdout)["copied_files"] == 0
    more(data_dir, 20, compact=True)
    run("backup", data_dir, address)
    listing = json.loads(run("backup", "--list", address, "--json").stdout)
    assert [one["tables"] for one in listing["backups"]] == [["shop", "empty"]] * 3 and listing["damaged"] == []
    assert listing == json.loads(run("restore", address, "--list", "--json").stdout)
    assert run("restore", address, tmp_path / "first", "--backup", first["id"]).exit_code == 0
    assert lasting(tmp_path / "first") == before
    assert run("restore", address, tmp_path / "newest").exit_code == 0
    assert lasting(tmp_path / "newest") == lasting(data_dir)
    assert verify(tmp_path / "newest", deep=True) == []
    assert (
        run(
            "restore", address, tmp_path / "newest", "--table", "shop", "--as", "first", "--backup", first["id"]
        ).exit_code
        == 0
    )
    assert run("diff", f"{address}@{first['id']}", tmp_path / "newest", "--table", "shop:first").exit_code == 0
    assert run("diff", address, f"{address}@{first['id']}", "--table", "shop").exit_code == 1
    pruned = json.loads(run("backup", "--prune", "--keep", 1, address, "--json").stdout)
    assert len(pruned["removed"]) == 2 and len(pruned["kept"]) == 1 and pruned["removed_contents"] > 0
    place = place_of(address)
    (kept,) = listed(place).backups
    assert set(place.sizes(CONTENTS_DIRECTORY)) == {content_path(file.content) for file in kept.files}
    restore(place, tmp_path / "kept")
    assert lasting(tmp_path / "kept") == lasting(data_dir)


def test_one_works_on_a_place_at_a_time(address: str, data_dir: Path) -> None:
    place = place_of(address)
    with place.claimed("backup"):
        for attempt in (("backup", data_dir, address), ("backup", "--prune", address)):
            if attempt[1] == "--prune":
                place.write(f"{CONTENTS_DIRECTORY}/00/x", [b"x"])
            result = run(*attempt)
            assert result.exit_code == 1 and f"another backup to {address} is running" in result.stderr
    assert run("backup", data_dir, address).exit_code == 0
    assert run("backup", "--prune", address).stdout.startswith("0 backups removed, 1 kept; 1 contents, 1 bytes")


def test_contents_that_are_damaged_or_missing_are_not_restored(address: str, data_dir: Path, tmp_path: Path) -> None:
    place = place_of(address)
    made = make_backup(data_dir, place).backup
    file = max(made.files, key=lambda each: each.size_bytes)
    content = content_path(file.content)
    sound = place.read(content)
    place.remove(content)
    place.write(content, [sound[:-1], b"?"])
    with pytest.raises(InternalError, match="its content in the backup is damaged"):
        restore(place, tmp_path / "again")
    place.remove(content)
    with pytest.raises(InternalError, match="its content in the backup is missing"):
        restore(place, tmp_path / "again")
    assert not (tmp_path / "again").exists() and not list(tmp_path.glob("*.restoring"))
    # Half of it, as an interrupted run may leave it where writing is not atomic: copied again.
    place.write(content, [sound[:100]])
    assert make_backup(data_dir, place).copied_files == 1
    restore(place, tmp_path / "again")


def test_a_damaged_list_harms_no_other_backup(address: str, data_dir: Path, tmp_path: Path) -> None:
    place = place_of(address)
    first, second = make_backup(data_dir, place).backup, make_backup(data_dir, place).backup
    text = place.read(list_path(second.id))
    place.remove(list_path(second.id))
    place.write(list_path(second.id), [text.replace(b'"shop"', b'"shpo"')])
    result = run("backup", "--list", address)
    assert result.exit_code == 1 and first.id in result.stdout and "its checksum does not match" in result.stderr
    with pytest.raises(InternalError, match="checksum does not match"):
        restore(place, tmp_path / "second", second.id)
    assert restore(place, tmp_path / "first", first.id) == first
    # What it needs is not known.
    with pytest.raises(InternalError, match="is left as it is"):
        prune(place, keep=1)
    assert make_backup(data_dir, place).copied_files == 0


def test_lists_do_not_name_files_elsewhere(data_dir: Path, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "b")
    made = make_backup(data_dir, place).backup
    for path in ("../evil", "/evil", "tables/../../evil", ""):
        changed = msgspec.structs.replace(made, files=[msgspec.structs.replace(made.files[0], path=path)])
        place.write(list_path(made.id), [encode_list(changed)])
        with pytest.raises(InternalError, match="is damaged: it names"):
            restore(place, tmp_path / "again", made.id)


def test_what_is_pruned(data_dir: Path, tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "b")
    made = [make_backup(data_dir, place).backup for _ in range(5)]
    now = datetime.now(UTC)
    day = timedelta(days=1)
    assert prune(place).removed == []
    assert prune(place, older_than=day).removed == []
    assert prune(place, keep=2, older_than=day, now=now).removed == []
    assert prune(place, keep=4).removed == made[:1]
    assert prune(place, keep=3, older_than=day, now=now + 2 * day).removed == made[1:2]
    # Never the newest, however old it is.
    assert prune(place, older_than=day, now=now + 9 * day).removed == made[2:4]
    assert listed(place).backups == made[4:]
    for wrong in (("--keep", 1), ("--prune", "--keep", 0), ("--prune", "--older-than", "soon"), ("--list", "--prune")):
        assert run("backup", tmp_path / "b", *wrong).exit_code == 2
    assert run("backup", tmp_path / "b").exit_code == run("backup", tmp_path, "b", "c").exit_code == 2
    assert "is not a backup directory" in run("backup", "--prune", data_dir).stderr
    assert list(data_dir.glob("contents")) == []


def test_a_backup_that_was_taken_for_dead_does_not_count(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody may have removed contents meanwhile that it counted on."""
    address = f"memory://dead-{time.monotonic_ns()}"
    place = place_of(address)
    make_backup(data_dir, place)
    slow = place_of(address)
    monkeypatch.setattr(remote, "DEAD_AFTER_S", 0.0)

    class Slow(remote.RemotePlace):
        def settle(self) -> None:
            if threading.current_thread() is threading.main_thread() and not pruned:
                time.sleep(0.01)
                pruned.append(prune(place))

    slow.__class__ = Slow
    pruned: list[Any] = []
    with pytest.raises(ConfigError, match="taken for dead"):
        make_backup(data_dir, slow)
    assert pruned and len(listed(place).backups) == 1
    make_backup(data_dir, place)


@pytest.mark.usefixtures("s3")
def test_addresses_that_cannot_be_used(data_dir: Path) -> None:
    for address, reason in (
        ("nonsense://x", "nonsense"),
        ("s3://", "names no place"),
        ("s3://no-such-bucket-of-ours/x", "no-such-bucket-of-ours"),
    ):
        result = run("backup", data_dir, address)
        assert result.exit_code == 1 and reason in result.stderr, result.stderr


def test_a_backup_in_the_data_directory_is_refused(data_dir: Path) -> None:
    assert "is in the data directory itself" in run("backup", data_dir, data_dir / "backups").stderr
    place = place_of(f"file://{data_dir}/backups")
    assert isinstance(place, LocalPlace) and place.directory == data_dir / "backups"


def test_interrupted_wherever_the_disk_fails(data_dir: Path, tmp_path: Path) -> None:
    """A backup, a prune and a restore that stop at any step: every backup that is listed can be restored."""
    sound = LocalPlace(tmp_path / "b")
    make_backup(data_dir, sound)
    interrupted = dict.fromkeys(("backup", "prune", "restore"), 0)
    for at in (*range(12), *range(12, 400, 3)):
        more(data_dir, 100 + at, compact=at % 2 == 0)
        failing = LocalPlace(tmp_path / "b", FailingFiles(at))
        make_backup(data_dir, sound)
        before, failed = listed(sound).backups, False
        for what in interrupted:
            again = tmp_path / f"again-{at}"
            try:
                if what == "backup":
                    more(data_dir, 1_000 + at)
                    make_backup(data_dir, failing)
                elif what == "prune":
                    prune(LocalPlace(tmp_path / "b", FailingFiles(at)), keep=2)
                else:
                    restore(sound, again, files=FailingFiles(at))
            except (ConfigError, InternalError):
                interrupted[what] += 1
                failed = True
                assert not again.exists() or what == "restore"
        found = listed(sound)
        assert found.damaged == {} and all(one in found.backups for one in before[-1:])
        for one in found.backups[-3:]:
            there = sound.sizes(CONTENTS_DIRECTORY)
            assert all(there.get(content_path(file.content)) == file.size_bytes for file in one.files)
        if not failed:
            break
    make_backup(data_dir, sound)
    restore(sound, tmp_path / "last")
    assert lasting(tmp_path / "last") == lasting(data_dir)
    prune(sound, keep=1)
    (kept,) = listed(sound).backups
    assert set(sound.sizes(CONTENTS_DIRECTORY)) == {content_path(file.content) for file in kept.files}
    assert all(interrupted.values()), interrupted
