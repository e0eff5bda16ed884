"""People who are erased: gone from views at once, from files and segments for good; strangers when they come again."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from pyroaring import BitMap
from support import store_model as model
from support.simulated_disk import Fault, SimulatedDisk

from openset.errors import ReadOnlyError
from openset.store.dead_letters import DeadLetter
from openset.store.segment import Computed, Segment
from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.errors import UnsupportedFormatError
from openset_format.membership import MembershipFile, serialized
from openset_format.reader import PartitionFile
from openset_format.seal import ERASED_PEOPLE, decode_seal
from openset_format.verify import verify_partition

STAMP = 10**12


def event(person: str | int, colour: str = "red", stamp: int = STAMP, action: str = "view") -> dict[str, object]:
    return {"person": person, "stamp": stamp, "action": action, "attr": {"colour": colour}}


def segment(store: Store, name: str, people: int, sequence: int) -> Segment:
    return Segment(name, "tally", None, None, 1, people, {}, 1, 1, (), store._journals.id, sequence)


def test_somebody_in_the_file_and_somebody_in_the_journal_only(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    model.insert(store, [event("ann"), event("bob")])
    store.compact_all()
    model.insert(store, [event("cid"), event("ann", stamp=STAMP + 1)])
    for person in ("ann", "cid", "nobody"):
        model.erase(store, person)
    cache = ViewCache(tmp_path)
    assert list(model.read_snapshots(cache, store.snapshot("t"))) == ["bob"]
    (snapshot,) = store.snapshot("t")
    assert cache.view(snapshot).persons.index("ann") is None
    assert cache.view(snapshot).erased == (0, 2)
    assert cache.view(snapshot).present == BitMap([1])
    store.close()


def test_who_comes_again_is_somebody_else(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    model.insert(store, [event(7), event("7")])
    model.erase(store, 7)
    model.insert(store, [event(7, "blue", STAMP + 5)])
    for _ in range(2):
        (snapshot,) = store.snapshot("t")
        view = ViewCache(tmp_path).view(snapshot)
        assert view.persons.index(7) == 2 and view.persons.index("7") == 1
        found = model.read_snapshots(ViewCache(tmp_path), [snapshot])
        assert found[7] == [(STAMP + 5, "view", [{"colour": "blue"}])]
        store.compact_all()
    store.close()


def test_nothing_is_left_in_the_data_directory(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=2)
    people = [f"person-{number:03}" for number in range(50)]
    model.insert(store, [event(person, f"colour-of-{person}", action=f"act-{person}") for person in people])
    store.compact_all()
    model.insert(store, [event("person-007", "later-colour", STAMP + 9)])
    model.erase(store, "person-007")
    below = store.compactions.begin_forgetting()
    assert store.compactions.want(store.table("t"))
    store.compact_all()
    assert store.compactions.is_forgotten(below, set())
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"person-007" not in kept and b"later-colour" not in kept
    assert b"person-008" in kept and b"colour-of-person-008" in kept
    for path in tmp_path.rglob("*.h5"):
        assert not verify_partition(path)
    assert len(model.read_snapshots(ViewCache(tmp_path), store.snapshot("t"))) == 49
    store.close()
    reopened = Store.open(tmp_path)
    assert len(model.read_snapshots(ViewCache(tmp_path), reopened.snapshot("t"))) == 49
    reopened.close()


def test_a_file_says_that_somebody_was_erased(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = model.new_store(tmp_path, partitions=1)
    model.insert(store, [event("ann"), event("bob")])
    model.erase(store, "ann")
    store.compact_all()
    store.close()
    (path,) = tmp_path.rglob("*.h5")
    file = PartitionFile.open(path)
    assert file.seal.required_features == ERASED_PEOPLE
    assert file.persons.kinds.tolist() == [2, 0] and list(file.persons) == ["", "bob"]
    monkeypatch.setattr("openset_format.seal.KNOWN_FEATURES", 0)
    with pytest.raises(UnsupportedFormatError, match="feature 0"):
        decode_seal(path.read_bytes()[:256], path)


def test_segments_lose_who_is_erased(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    table_id = store.table("t").id
    model.insert(store, [event("ann"), event("bob"), event("cid")])
    everybody = Computed(segment(store, "all", 3, 1), {0: serialized(BitMap([0, 1, 2]))})
    store.segments.put(table_id, [everybody, Computed(segment(store, "cid", 1, 1), {0: serialized(BitMap([2]))})])
    sequence = store.submit_erasure("t", "bob").result()
    store.segments.forget_people(table_id, 0, [1], sequence)
    # Computed before the erasure, stored after it.
    store.segments.put(table_id, [Computed(segment(store, "late", 3, 1), everybody.members)])
    # Computed after it, and somebody else has no such ordinal.
    store.segments.put(table_id, [Computed(segment(store, "new", 2, sequence), {0: serialized(BitMap([0, 2]))})])
    found = {stored.segment.name: stored for stored in store.segments.all(table_id, 2)}
    assert {name: stored.segment.people for name, stored in found.items()} == {"all": 2, "cid": 1, "late": 2, "new": 2}
    for name in ("all", "late", "new"):
        assert MembershipFile.open(tmp_path / found[name].ref.file).members(0) == BitMap([0, 2])
    store.close()


def test_a_crash_between_the_record_and_the_segments_is_made_good(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    table_id = store.table("t").id
    model.insert(store, [event("ann"), event("bob")])
    store.segments.put(table_id, [Computed(segment(store, "all", 2, 1), {0: serialized(BitMap([0, 1]))})])
    model.erase(store, "ann")
    store.close()  # and nobody told the segments
    store = Store.open(tmp_path)
    (stored,) = store.segments.all(table_id, 2)
    assert stored.segment.people == 1
    assert MembershipFile.open(tmp_path / stored.ref.file).members(0) == BitMap([1])
    store.close()


def test_a_compaction_that_ran_already_does_not_count_for_one_that_was_asked_for(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    model.insert(store, [event("ann"), event("bob")])
    running = store.compactions.next(forced=True)
    assert running is not None
    model.erase(store, "ann")
    wanted = store.compactions.want(store.table("t"))
    store.compactions.give_up(running)
    assert store.compactions.still_wanted(wanted)
    store.compact_all()
    assert not store.compactions.still_wanted(wanted)
    store.close()


def test_files_without_news_are_compacted_for_what_they_should_not_hold(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    model.insert(store, [event("ann", "crimson")])
    store.compact_all()
    assert store.compactions.want(store.table("t")) == set()
    store.drop_column("t", "colour")
    store.compactions.look_for_leftovers()
    assert store.compact_all() == 1
    (path,) = tmp_path.rglob("*.h5")
    assert b"crimson" not in path.read_bytes()
    store.set_retention("t", 1)
    store.compactions.look_for_leftovers()
    assert store.compact_all() == 1
    assert PartitionFile.open(path).rows == 0
    store.compactions.look_for_leftovers()
    assert store.compact_all() == 0
    store.close()


def test_what_cannot_be_finished_is_finished_later(tmp_path: Path) -> None:
    """On a full disk the record may fit and what follows from it may not: nothing of the person may stay for that."""
    (tmp_path / "disk").mkdir()
    disk = SimulatedDisk((tmp_path / "disk").resolve())
    store = Store.open(disk.root / "data", files=disk)
    store.initialise(1)
    store.create_table("t", [("colour", "text")])
    table_id = store.table("t").id
    model.insert(store, [event("ann"), event("bob"), event("cid")])
    store.compact_all()
    members = {0: serialized(BitMap([0, 1, 2]))}
    store.segments.put(table_id, [Computed(segment(store, name, 3, 1), members) for name in ("all", "some")])
    store.dead_letters.add(
        table_id, [DeadLetter(1, "mail", {"id": who, "person": who}, "no", 8, STAMP) for who in ("ann", "bob")]
    )
    sequence = store.submit_erasure("t", "bob").result()
    disk.faults = [Fault("write", ".tmp", times=float("inf"), number=errno.ENOSPC)]
    with pytest.raises(ReadOnlyError):
        store.erasures.finish(0, sequence, [1])
    store.erasures.leave(0, sequence)
    assert [one.id for one in store.dead_letters.of(table_id, 1, "mail")[0]] == ["ann"]
    assert {one.segment.people for one in store.segments.all(table_id, 0)} == {2}
    assert store.compactions.next(forced=True) is None, "the record stays in the journal till all is done"
    with pytest.raises(ReadOnlyError):
        store.erasures.finish_left()
    shutil.copytree(disk.root / "data", tmp_path / "killed")
    disk.faults = []
    assert store.probe()
    store.erasures.finish_left()
    store.compact_all()
    nothing_is_left(store, disk.root / "data", table_id)
    # The same after a kill at that moment: the start finishes it.
    again = Store.open(tmp_path / "killed")
    again.compact_all()
    nothing_is_left(again, tmp_path / "killed", table_id)


def test_a_start_on_a_full_disk_leaves_it_for_later(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path.resolve())
    store = Store.open(disk.root / "data", files=disk)
    store.initialise(1)
    store.create_table("t", [("colour", "text")])
    table_id = store.table("t").id
    model.insert(store, [event("ann"), event("bob"), event("cid")])
    store.compact_all()
    members = {0: serialized(BitMap([0, 1, 2]))}
    store.segments.put(table_id, [Computed(segment(store, name, 3, 1), members) for name in ("all", "some")])
    store.submit_erasure("t", "bob").result()
    store.close()  # before it was finished
    disk.faults = [Fault("write", ".tmp", times=float("inf"), number=errno.ENOSPC)]
    store = Store.open(disk.root / "data", files=disk)
    assert store.compactions.next(forced=True) is None, "the record stays in the journal till all is done"
    disk.faults = []
    assert store.probe()
    store.erasures.finish_left()
    assert not store.erasures.waits_for(store.compactions.begin_forgetting())
    store.compact_all()
    nothing_is_left(store, disk.root / "data", table_id)


def nothing_is_left(store: Store, data: Path, table_id: int) -> None:
    """Of bob, who has ordinal 1."""
    below = store.compactions.begin_forgetting()
    assert store.compactions.is_forgotten(below, set())
    for stored in store.segments.all(table_id, 0):
        assert stored.segment.people == 2
        assert MembershipFile.open(data / stored.ref.file).members(0) == BitMap([0, 2])
    assert b"bob" not in b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    store.close()


def test_damaged_segments_do_not_keep_anybody(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, partitions=1)
    table_id = store.table("t").id
    model.insert(store, [event("ann"), event("bob")])
    for name in ("damaged", "sound"):
        store.segments.put(table_id, [Computed(segment(store, name, 2, 1), {0: serialized(BitMap([0, 1]))})])
    first, _ = store.segments.all(table_id, 0)
    path = tmp_path / first.ref.file
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    store.erasures.finish(0, store.submit_erasure("t", "bob").result(), [1])
    assert [one.segment.people for one in store.segments.all(table_id, 0)] == [2, 1]
    store.compact_all()
    store.close()
