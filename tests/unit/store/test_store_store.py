"""Commits, snapshots, recovery, compaction of a store, and what happens when the disk refuses."""

from __future__ import annotations

import asyncio
import json
import pickle
import shutil
from concurrent.futures import wait
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import store_model as model
from support.format_models import FailingFiles

from openset.errors import ConfigError, InternalError, NoRoomError, QueryError, ReadOnlyError
from openset.store import views
from openset.store.compaction import Policy, compact
from openset.store.snapshot import StaleSnapshotError
from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.files import FileLayer
from openset_format.reader import PartitionFile

STAMP = 10**12


def events(first: int, count: int, **attr: Any) -> list[dict[str, Any]]:
    return [
        {"person": f"p{number % 20}", "stamp": STAMP + number, "action": "view", "attr": {"units": number, **attr}}
        for number in range(first, first + count)
    ]


def contents(store: Store) -> Any:
    return model.read_snapshots(ViewCache(store.data_dir), store.snapshot("t"))


def expected(*requests: list[dict[str, Any]]) -> Any:
    table = model.Model()
    for request in requests:
        table.insert(request)
    return table.contents()


def test_before_initialisation(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    assert store.partitions is None
    for call in (lambda: store.table("t"), lambda: store.create_table("t", []), lambda: store.snapshot("t")):
        with pytest.raises(ConfigError, match="not initialised"):
            call()
    assert store.initialise(2) == store.server_name
    with pytest.raises(QueryError, match="no table"):
        store.snapshot("t")
    store.close()


def test_many_requests_share_a_sync(tmp_path: Path) -> None:
    files = FailingFiles(steps=["sync"])
    store = model.new_store(tmp_path, files=files)
    prepared = [store.prepare_insert("t", json.dumps(events(number, 3)).encode()) for number in range(200)]
    before = len(files.taken)
    futures = [store.submit("t", insert) for insert in prepared]
    wait(futures, timeout=30)
    assert sorted(future.result() for future in futures) == list(range(1, 201))
    assert len(files.taken) - before < 100
    assert contents(store) == expected(*(events(number, 3) for number in range(200)))
    store.close()


def test_commit_on_the_event_loop(tmp_path: Path) -> None:
    store = model.new_store(tmp_path)

    async def run() -> list[int]:
        inserts = [store.prepare_insert("t", json.dumps(events(number, 2)).encode()) for number in range(5)]
        empty = store.prepare_insert("t", b"[]")
        return list(await asyncio.gather(*(store.commit("t", insert) for insert in [*inserts, empty])))

    assert asyncio.run(run()) == [1, 2, 3, 4, 5, 0]
    store.close()
    with pytest.raises(InternalError, match="closed"):
        store.submit("t", store.prepare_insert("t", json.dumps(events(0, 1)).encode()))


def test_client_that_goes_away_does_not_stop_the_writer(tmp_path: Path) -> None:
    store = model.new_store(tmp_path)

    async def run() -> None:
        for number in range(50):
            insert = store.prepare_insert("t", json.dumps(events(number, 1)).encode())
            waiting = asyncio.ensure_future(store.commit("t", insert))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(run())
    model.insert(store, events(100, 3))
    found = {stamp - STAMP for person in contents(store).values() for stamp, _, _ in person}
    assert {100, 101, 102} <= found <= {*range(50), 100, 101, 102}
    store.close()


def test_restart_gives_the_same(tmp_path: Path) -> None:
    store = model.new_store(tmp_path)
    model.insert(store, events(0, 100, colour="red"))
    store.compact_all()
    model.insert(store, events(50, 100, colour="blue"))
    wanted = contents(store)
    assert wanted == expected(events(0, 100, colour="red"), events(50, 100, colour="blue"))
    store.close()
    store = Store.open(tmp_path)
    assert contents(store) == wanted
    assert store.compact_all() == 3
    assert contents(store) == wanted
    store.close()
    store = Store.open(tmp_path)
    assert contents(store) == wanted
    assert store.compact_all() == 0
    store.close()


def test_ordinals_and_codes_stay_across_generations(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    seen: dict[Any, int] = {}
    codes: dict[str, int] = {}
    for round_ in range(4):
        for number in range(3):
            model.insert(store, [{"person": f"p{round_}-{number}", "stamp": STAMP, "action": "view",
                                  "attr": {"colour": f"c{round_}-{number}"}}])  # fmt: skip
        # The last value of a column goes, its code stays taken.
        model.insert(store, [{"person": "p0-0", "stamp": STAMP, "action": "view", "attr": {"colour": f"x{round_}"}}])
        store.compact_all()
        file = PartitionFile.open(tmp_path / "tables" / "1" / "p0000.h5")
        people = {person: number for number, person in enumerate(file.persons)}
        dictionary = file.columns[1].dictionary
        assert dictionary is not None
        texts = {text: code for code, text in enumerate(dictionary.texts())}
        assert seen.items() <= people.items() and codes.items() <= texts.items()
        seen, codes = people, texts
        assert file.generation == round_ + 1
    assert len(seen) == 12 and len(codes) == 16
    store.close()


def test_added_and_dropped_columns(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 3, colour="red"))
    store.compact_all()
    store.drop_column("t", "colour")
    store.add_column("t", "colour", "int")
    cache = ViewCache(tmp_path)
    model.insert(store, events(3, 1, colour=5))
    for _ in range(2):
        found = model.read_snapshots(cache, store.snapshot("t"))
        rows = [row for person in found.values() for _, _, rows in person for row in rows]
        assert [row.get("colour") for row in rows] == [None, None, None, 5]
        store.compact_all()
    assert set(PartitionFile.open(tmp_path / "tables" / "1" / "p0000.h5").columns) == {3, 6}
    store.close()


def test_snapshots_travel(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 2)
    for number in range(40):
        model.insert(store, events(number, 1))
    snapshots = store.snapshot("t")
    sent = pickle.loads(pickle.dumps(snapshots))
    assert [list(snapshot.records) for snapshot in sent] == [list(snapshot.records) for snapshot in snapshots]
    assert model.read_snapshots(ViewCache(tmp_path), sent) == contents(store)
    model.insert(store, events(40, 1))
    assert model.read_snapshots(ViewCache(tmp_path), snapshots) == expected(events(0, 40))
    store.close()


def test_superseded_snapshot_is_stale_unless_pinned(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 10))
    store.compact_all()
    model.insert(store, events(10, 10))
    with store.pinned_snapshot("t") as pinned:
        model.insert(store, events(20, 10))
        store.compact_all()
        assert model.read_snapshots(ViewCache(tmp_path), pinned) == expected(events(0, 20))
        assert len(list((tmp_path / "tables" / "1").iterdir())) == 2
        stale = pickle.loads(pickle.dumps(pinned))
    assert [path.name for path in (tmp_path / "tables" / "1").iterdir()] == ["p0000.h5"]
    with pytest.raises(StaleSnapshotError):
        ViewCache(tmp_path).blocks(stale[0])
    store.close()


def test_view_outlives_compactions(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    cache = ViewCache(tmp_path)
    model.insert(store, events(0, 10))
    store.compact_all()
    model.insert(store, events(10, 2))
    (snapshot,) = store.snapshot("t")
    view = cache.view(snapshot)
    model.insert(store, events(20, 30))
    store.compact_all()
    assert len(model.read_snapshots(cache, store.snapshot("t"))) == 20
    found = [entry for block in view.blocks() for entry in model.read_block(block).items()]
    assert dict(found) == expected(events(0, 12))
    store.close()


def test_earlier_moments_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query may come after one of a later snapshot: nothing is read again for it, however it asks."""
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 40))
    store.compact_all()
    cache, snapshots = ViewCache(tmp_path), []
    for first in range(40, 46):
        model.insert(store, events(first, 1))
        snapshots += store.snapshot("t")
        assert cache.person_rows(snapshots[-1], "p0") is not None

    def never(*_: Any) -> Any:
        raise AssertionError("put together anew")

    monkeypatch.setattr(views, "load_state", never)
    for number, snapshot in reversed(list(enumerate(snapshots, 41))):
        assert model.read_snapshots(cache, [snapshot]) == expected(events(0, number))
    store.close()


def test_long_histories_are_kept_from_piece_to_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "LONG_ROWS", 3)
    store = model.new_store(tmp_path, 1)
    model.insert(store, [{"person": "ann", "stamp": STAMP + at, "action": "view"} for at in range(5)])
    model.insert(store, [{"person": "bob", "stamp": STAMP, "action": "view"}])
    (snapshot,) = store.snapshot("t")
    cache = ViewCache(tmp_path)
    long = cache.person_rows(snapshot, "ann")
    assert long is not None and long.rows == 5 and cache.person_rows(snapshot, "ann") is long
    later = cache.person_rows(replace(snapshot, expired_before=STAMP + 1), "ann")
    assert later is not None and later.rows == 4
    assert cache.person_rows(snapshot, "bob") is not cache.person_rows(snapshot, "bob")
    store.close()


def test_small_delta_is_an_overlay_and_blocks_are_kept(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 400))
    store.compact_all()
    cache = ViewCache(tmp_path)
    model.insert(store, events(400, 2, gift=True))
    (snapshot,) = store.snapshot("t")
    base, overlay = cache.blocks(snapshot)
    assert base.rows == 400 and overlay.rows == 42
    assert base.include is not None and base.include.sum() == 18
    assert "gift" in overlay.columns and "gift" not in base.columns
    assert cache.blocks(snapshot)[0] is base
    pieces = cache.blocks(snapshot, 50)
    assert [block.rows for block in pieces] == [40] * 10 + [42] or max(block.rows for block in pieces) <= 50
    # When most rows are touched there is one layer instead.
    model.insert(store, events(402, 18))
    (snapshot,) = store.snapshot("t")
    (whole,) = cache.blocks(snapshot)
    assert whole.include is None and whole.rows == 420
    store.close()


def test_people_look_up(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 2)
    sent = [{"person": person, "stamp": STAMP, "action": "view"} for person in ("7", 7, "ann", "zoë", -(2**63))]
    model.insert(store, sent)
    cache = ViewCache(tmp_path)
    for _ in range(2):
        for event in sent:
            block = cache.person_rows(store.person_snapshot("t", event["person"]), event["person"])
            assert block is not None and block.person_id(0) == event["person"] and block.rows == 1
        for person in ("8", 8, "an", "annn", "\ud800"):
            if person != "\ud800":
                assert cache.person_rows(store.person_snapshot("t", person), person) is None
        store.compact_all()
    store.close()


def test_failed_sync_refuses_this_and_all_later_inserts(tmp_path: Path) -> None:
    files = FailingFiles(steps=["sync"])
    store = model.new_store(tmp_path, files=files)
    model.insert(store, events(0, 5))
    files.fail_at = len(files.taken)
    for _ in range(2):
        with pytest.raises(ReadOnlyError, match=r"its disk has failed: .* at a sync of .*after a restart"):
            model.insert(store, events(5, 5))
        assert not store.probe()
    assert contents(store) == expected(events(0, 5))
    store.close()


def test_full_disk_refuses_inserts_until_there_is_room(tmp_path: Path) -> None:
    files = FailingFiles(steps=["write"])
    store = model.new_store(tmp_path, files=files)
    model.insert(store, events(0, 5))
    files.fail_at = len(files.taken)
    for _ in range(2):
        with pytest.raises(ReadOnlyError, match=r"its disk is full: .* at a write of .*when there is room"):
            model.insert(store, events(5, 5))
    assert store.probe() and store.health.condition.state == "ok"
    model.insert(store, events(10, 5))
    assert contents(store) == expected(events(0, 5), events(10, 5))
    store.close()
    store = Store.open(tmp_path)
    assert contents(store) == expected(events(0, 5), events(10, 5))
    store.close()


def test_compaction_fails_at_any_step_without_loss(tmp_path: Path) -> None:
    probe = FailingFiles()
    store = model.new_store(tmp_path / "probe", 1, files=probe)
    model.insert(store, events(0, 30))
    first = len(probe.taken)
    store.compact_all()
    steps = probe.taken[first:]
    store.close()
    assert {"create", "write", "sync", "rename", "sync_directory"} <= set(steps)
    wanted = expected(events(0, 30), events(30, 5))
    for step in range(len(steps)):
        directory = tmp_path / str(step)
        files = FailingFiles()
        store = model.new_store(directory, 1, files=files)
        model.insert(store, events(0, 30))
        files.fail_at = len(files.taken) + step
        # A staging file that cannot be removed is only logged.
        failure = nullcontext() if steps[step] == "unlink" else pytest.raises((InternalError, OSError))
        with failure:
            store.compact_all()
        assert contents(store) == expected(events(0, 30)), steps[step]
        if not store.probe():  # a failed disk; a full one has room again
            store.close()
            store = Store.open(directory, files=files)
        model.insert(store, events(30, 5))
        assert contents(store) == wanted, steps[step]
        store.compact_all()
        assert contents(store) == wanted
        store.close()
        store = Store.open(directory)
        assert contents(store) == wanted
        assert [path.name for path in (directory / "tables" / "1").iterdir()] == ["p0000.h5"]
        store.close()


def test_compaction_given_up_may_be_tried_again(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 30))
    task = store.compactions.next(forced=True)
    assert task is not None and store.compactions.next(forced=True) is None
    compact(pickle.loads(pickle.dumps(task)))
    store.compactions.give_up(task)
    assert not list((tmp_path / "tables" / "1").iterdir())
    assert store.compact_all() == 1
    store.close()


def test_a_damaged_file_is_not_compacted_into_a_sound_one(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 30))
    store.compact_all()
    model.insert(store, events(30, 5))
    path = tmp_path / "tables" / "1" / "p0000.h5"
    place = PartitionFile.open(path).manifest.datasets["/events/stamp"]
    whole = path.read_bytes()
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(place.offset + 3)
        handle.write(bytes([whole[place.offset + 3] ^ 1]))
    with pytest.raises(InternalError, match=rf"not compacted.*dataset /events/stamp, offset {place.offset}"):
        store.compact_all()
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    path.write_bytes(whole)
    assert store.compact_all() == 1
    assert contents(store) == expected(events(0, 35))
    store.close()


def test_nothing_is_compacted_without_room_for_it(tmp_path: Path) -> None:
    class SmallDisk(FileLayer):
        free = 0

        def free_bytes(self, path: Path) -> int:
            return self.free

    disk = SmallDisk()
    store = model.new_store(tmp_path, 1, files=disk)
    model.insert(store, events(0, 30))
    with pytest.raises(NoRoomError, match="not compacted: that may take 64 MiB, and 0 are free"):
        store.compact_all()
    assert not list((tmp_path / "tables" / "1").iterdir())
    assert contents(store) == expected(events(0, 30))
    disk.free = 1 << 30
    assert store.compact_all() == 1
    store.close()


def test_foreign_staging_file_is_not_published(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 2)
    model.insert(store, events(0, 30))
    one, other = store.compactions.next(forced=True), store.compactions.next(forced=True)
    assert one is not None and other is not None
    compact(one)
    result = compact(other)
    shutil.copy(tmp_path / one.staging, tmp_path / "copy")
    (tmp_path / other.staging).unlink()
    shutil.move(tmp_path / "copy", tmp_path / other.staging)
    with pytest.raises(InternalError, match="not the generation"):
        store.compactions.publish(other, result)
    assert contents(store) == expected(events(0, 30))
    store.close()


def test_policy_and_the_signal_for_it(tmp_path: Path) -> None:
    policy = Policy(base_share=0.5, floor_events=10, age_s=1e9)
    assert not policy.is_due(0, 10, 0) and policy.is_due(0, 11, 0)
    assert not policy.is_due(100, 50, 0) and policy.is_due(100, 51, 0)
    assert policy.is_due(100, 1, 2e9) and not policy.is_due(100, 0, 2e9)
    store = model.new_store(tmp_path, 1, policy=policy)
    store.compactions.wake.clear()
    model.insert(store, events(0, 10))
    assert not store.compactions.wake.is_set() and store.compactions.next() is None
    model.insert(store, events(10, 10))
    assert store.compactions.wake.is_set() and store.compactions.next() is not None
    store.close()


def test_segments_go_when_every_partition_has_passed_them(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 2, policy=Policy(journal_bytes=1))
    text = "x" * 300_000
    for number in range(260):
        model.insert(store, [{"person": number % 20, "stamp": STAMP + number, "action": text}])
    assert len(list((tmp_path / "journal").glob("*.journal"))) == 2
    first, second = store.compactions.next(), store.compactions.next()
    assert first is not None and second is not None
    # Records of both partitions are in the oldest segment: one of them alone does not free it.
    store.compactions.publish(first, compact(first))
    assert len(list((tmp_path / "journal").glob("*.journal"))) == 2
    store.compactions.publish(second, compact(second))
    assert len(list((tmp_path / "journal").glob("*.journal"))) == 1
    assert sum(len(person) for person in contents(store).values()) == 260
    store.close()
    store = Store.open(tmp_path)
    assert sum(len(person) for person in contents(store).values()) == 260
    store.close()


def test_files_of_another_journal_are_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        store = model.new_store(tmp_path / name, 1)
        model.insert(store, events(0, 3))
        store.compact_all()
        store.close()
    target = tmp_path / "one" / "tables" / "1" / "p0000.h5"
    target.unlink()
    shutil.copy(tmp_path / "two" / "tables" / "1" / "p0000.h5", target)
    with pytest.raises(ConfigError, match="another journal"):
        Store.open(tmp_path / "one")


def test_damage_is_reported_and_the_lock_given_up(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(0, 3))
    store.compact_all()
    store.close()
    path = tmp_path / "catalog.json"
    sound = path.read_bytes()
    path.write_bytes(b"\0" * len(sound))
    for _ in range(2):
        with pytest.raises(InternalError, match="damaged"):
            Store.open(tmp_path)
    path.write_bytes(sound)
    Store.open(tmp_path).close()


@pytest.mark.parametrize("missing", [False, True])
def test_a_damaged_partition_keeps_what_is_inserted_and_leaves_other_tables_alone(
    tmp_path: Path, missing: bool
) -> None:
    store = model.new_store(tmp_path, 1)
    store.create_table("other", model.COLUMNS)
    for table in ("t", "other"):
        model.insert(store, events(0, 3), table)
    store.compact_all()
    store.close()
    path = tmp_path / "tables" / "1" / "p0000.h5"
    sound = path.read_bytes()
    path.unlink()
    if not missing:
        path.write_bytes(b"\0" * len(sound))
    store = Store.open(tmp_path)
    assert [(problem.file, problem.offset) for problem in store.damage.all()] == [(str(path), None if missing else 0)]
    model.insert(store, events(3, 3))
    model.insert(store, events(3, 2), "other")
    assert store.compact_all() == 1, "the other table's"
    for refused in (lambda: contents(store), lambda: store.compactions.want(store.table("t"))):
        with pytest.raises(
            InternalError, match=f"{path}( is missing|: the file is missing|, offset 0: not a partition file)"
        ):
            refused()
    store.compactions.look_for_leftovers()
    store.close()
    path.write_bytes(sound)
    store = Store.open(tmp_path)
    assert contents(store) == expected(events(0, 3), events(3, 3)) and not store.damage.all()
    store.close()
