"""Power failures, deaths and faults at every step of everything a store does: what was acknowledged is there, whole.

A part of all moments is looked at, always the same; with OPENSET_CRASH_MOMENTS=all (`make crash`) every one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.power_failure import UNSYNCED, Promises, after_failure, chosen, moments
from support.simulated_disk import Fault, SimulatedDisk
from support.store_changes import CHANGES, Expected, events, seen
from support.store_model import insert

from openset.errors import OpenSetError, ReadOnlyError
from openset.store.store import Store
from openset_format.verify import verify_partition

EVERYTHING = os.environ.get("OPENSET_CRASH_MOMENTS") == "all"
EXPECTED = Expected()
NAMES = [name for name, _ in CHANGES]
KINDS = ["create", "write", "sync", "rename", "sync_directory", "unlink", "make_directory"]


def some(all_moments: list[Any], count: int, seed: int = 1) -> list[Any]:
    return all_moments if EVERYTHING else chosen(all_moments, count, seed)


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    (tmp_path / "live").mkdir()
    return SimulatedDisk((tmp_path / "live").resolve())


def run(store: Store, disk: SimulatedDisk, promises: Promises[tuple[str, ...]]) -> Iterator[tuple[str, Exception]]:
    """Makes all changes, and gives those that fail. States are the names of the changes they are made of.

    Compactions are none: nobody sees them.
    """
    done: tuple[str, ...] = ()
    for name, change in CHANGES:
        if not is_compaction(name):
            promises.begin(disk, (*done, name))
        try:
            change(store)
        except (OpenSetError, OSError) as error:
            yield name, error
        else:
            if not is_compaction(name):
                done = (*done, name)
                promises.acknowledge(disk)


def check(root: Path, allowed: list[tuple[str, ...]], context: object, go_on: bool = False) -> dict[str, Any]:
    """Opens what is left; it must be one of the states, and sound. Returns what is seen."""
    store = Store.open(root / "data", files=UNSYNCED)
    try:
        found = seen(store)
        assert any(found == EXPECTED.after(names) for names in allowed), (context, difference(found, allowed))
        problems = [problem for path in root.rglob("*.h5") for problem in verify_partition(path)]
        assert not problems, context
        if go_on and "t" in found:
            insert(store, events(100, 5))
            store.compact_all()
            assert len(seen(store)["t"][2]) == 5, context
        leftovers = [path for path in root.rglob("*") if path.suffix in (".tmp", ".next", ".old", ".dropped")]
        assert not leftovers, context
        return found
    finally:
        store.close()


def difference(found: dict[str, Any], allowed: list[tuple[str, ...]]) -> list[tuple[str, list[str]]]:
    """What differs from each allowed state, for the message of a failure."""
    return [
        (names[-1] if names else "", [key for key in {*found, *wanted} if found.get(key) != wanted.get(key)])
        for names in allowed
        for wanted in [EXPECTED.after(names)]
    ]


def test_power_failure_at_every_step(disk: SimulatedDisk) -> None:
    promises: Promises[tuple[str, ...]] = Promises([()])
    store = Store.open(disk.root / "data", files=disk)
    assert not list(run(store, disk, promises))
    store.close()
    for number, (position, name) in enumerate(some(list(moments(disk, seeds=3)), 140)):
        with after_failure(disk, position, name) as root:
            check(root, promises.allowed(position), (position, name), go_on=number % 8 == 0)


def test_killed_at_every_step_restarted_and_then_a_power_failure(tmp_path: Path) -> None:
    """A restart believes what it reads, so what it reads has to be on the disk before anything is built on it."""
    (tmp_path / "probe").mkdir()
    probe = SimulatedDisk((tmp_path / "probe").resolve())
    store = Store.open(probe.root / "data", files=probe)
    assert not list(run(store, probe, Promises([()])))
    store.close()
    for death in some(list(range(1, len(probe.kinds))), 24):
        (tmp_path / str(death)).mkdir()
        disk = SimulatedDisk((tmp_path / str(death)).resolve())
        disk.off_after = death
        promises: Promises[tuple[str, ...]] = Promises([()])
        try:
            store = Store.open(disk.root / "data", files=disk)
            list(run(store, disk, promises))
            store.close()
        except OpenSetError:
            pass  # killed while it was opened
        _restart_and_fail(disk, promises.allowed(disk.position), death)


def _restart_and_fail(disk: SimulatedDisk, allowed: list[tuple[str, ...]], death: int) -> None:
    disk.off_after, disk.is_off = None, False
    restarted = disk.position
    store = Store.open(disk.root / "data", files=disk)
    opened = disk.position
    states = [seen(store)]
    assert any(states[0] == EXPECTED.after(names) for names in allowed), (death, difference(states[0], allowed))
    acknowledged = [opened]
    if "t" in states[0]:
        insert(store, events(100, 5))
        states.append(seen(store))
        acknowledged.append(disk.position)
        store.compact_all()
    store.close()
    later = [one for one in moments(disk, seeds=1, first=restarted) if one[0] != restarted or one[1] == "everything"]
    for position, name in chosen(later, 6, seed=death):  # of every death; all of them would take days
        with after_failure(disk, position, name) as root:
            if position < opened:
                check(root, allowed, (death, position, name))
                continue
            again = Store.open(root / "data", files=UNSYNCED)
            last = max(at for at, when in enumerate(acknowledged) if when <= position)
            assert seen(again) in states[last:], (death, position, name)
            again.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fails_once(tmp_path: Path, kind: str) -> None:
    """After any failed step nothing is acknowledged that is not there after a power failure, and queries go on."""
    (tmp_path / "probe").mkdir()
    probe = SimulatedDisk((tmp_path / "probe").resolve())
    store = Store.open(probe.root / "data", files=probe)
    first = probe.kinds.count(kind)
    assert not list(run(store, probe, Promises([()])))
    count = probe.kinds.count(kind) - first
    store.close()
    for skip in some(list(range(count)), 8):
        (tmp_path / str(skip)).mkdir()
        disk = SimulatedDisk((tmp_path / str(skip)).resolve())
        promises: Promises[tuple[str, ...]] = Promises([()])
        store = Store.open(disk.root / "data", files=disk)
        disk.faults = [Fault(kind, skip=skip)]
        failures = list(run(store, disk, promises))
        assert store.health.condition.state == "failed", (kind, skip)
        # What fails in the last compaction may show only in the state.
        assert all(isinstance(error, ReadOnlyError) or is_compaction(name) for name, error in failures[:1]), failures
        failed = [name for name, _ in failures if not is_compaction(name)]
        changes = [name for name in NAMES if not is_compaction(name)]
        assert failed == changes[len(changes) - len(failed) :], "nothing is changed any more then"
        allowed = [names for names in promises.allowed(disk.position) if is_possible(names)]
        found = seen(store)
        assert any(found == EXPECTED.after(names) for names in allowed), (kind, skip, difference(found, allowed))
        disk.faults = []
        assert not store.probe(), "only a restart makes a failed disk writable"
        store.close()
        last = list(moments(disk, seeds=1, first=disk.position))
        for position, name in some(last, 3, seed=skip):
            with after_failure(disk, position, name) as root:
                check(root, allowed, (kind, skip, position, name))
        check(disk.root, allowed, (kind, skip, "restarted"), go_on=True)


def is_compaction(name: str) -> bool:
    return name.startswith("compact") or name == "rotate"


def is_possible(names: tuple[str, ...]) -> bool:
    """Whether these changes can follow one another: none builds on one that failed."""
    try:
        EXPECTED.after(names)
    except OpenSetError:
        return False
    return True


def test_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    """Whatever does not fit is refused and leaves nothing; with room again everything goes on."""
    (tmp_path / "probe").mkdir()
    probe = SimulatedDisk((tmp_path / "probe").resolve())
    store = Store.open(probe.root / "data", files=probe)
    assert not list(run(store, probe, Promises([()])))
    store.close()
    size = sum(path.stat().st_size for path in probe.root.rglob("*") if path.is_file())
    for capacity in some(list(range(300, 2 * size, size // 60)), 14):
        (tmp_path / str(capacity)).mkdir()
        disk = SimulatedDisk((tmp_path / str(capacity)).resolve(), capacity_bytes=float("inf"))
        store = Store.open(disk.root / "data", files=disk)
        disk.capacity_bytes = capacity
        done: list[str] = []
        for name, change in CHANGES:
            while True:
                try:
                    change(store)
                except (OpenSetError, OSError) as error:
                    assert isinstance(error, ReadOnlyError) or is_compaction(name), (name, error)
                    found = seen(store)
                    assert found == EXPECTED.after(done), (capacity, name, difference(found, [tuple(done)]))
                    assert store.health.condition.state == "full"
                    assert not store.probe(), "there is no room yet"
                    disk.capacity_bytes += 5 * size + 2**20
                    assert store.probe()
                else:
                    done.append(name)
                    break
        assert seen(store) == EXPECTED.after(NAMES), capacity
        store.close()
        with after_failure(disk, disk.position, "nothing") as root:
            check(root, [tuple(NAMES)], capacity, go_on=True)


def test_errors_that_say_nothing_about_the_disk_do_not_stop_changes(disk: SimulatedDisk) -> None:
    store = Store.open(disk.root / "data", files=disk)
    store.initialise(2)
    disk.faults = [Fault("create", number=errno.EMFILE)]
    with pytest.raises(OpenSetError, match="could not be written"):
        store.create_table("t", [])
    store.create_table("t", [])
    assert store.health.condition.state == "ok"
    store.close()
