"""Power failures, deaths and faults at every step of a member that stores and removes segments, and hears of removals:
what was acknowledged as removed neither is there afterwards, nor comes back from other nodes.

A part of all moments is looked at, always the same; with OPENSET_CRASH_MOMENTS=all (`make crash`) every one.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyroaring import BitMap
from support.power_failure import UNSYNCED, Promises, after_failure, chosen, moments
from support.simulated_disk import Fault, SimulatedDisk

from openset.errors import OpenSetError
from openset.store.copies import make_member
from openset.store.removals import REMEMBERED_MS, Removal
from openset.store.segment import Computed, Edition, Segment
from openset.store.segments import Segments
from openset.store.store import Store
from openset_format.files import FILES, FileLayer
from openset_format.membership import serialized

EVERYTHING = os.environ.get("OPENSET_CRASH_MOMENTS") == "all"
TABLE = 1
NOW = 4 * 10**12
# By name the edition that is stored, and the one up to which it was removed.
State = tuple[dict[str, Edition], dict[str, Edition]]


def member(directory: Path, files: FileLayer) -> Store:
    """A member with one table."""
    store = Store.open(directory, files=files)
    store.initialise(1)
    assert store.create_table("t", [("n", "int")]).id == TABLE
    store.close()
    make_member(directory, store._catalog, files, "ef" * 16)
    return Store.open(directory, files=files)


def computed(name: str, at: int) -> Computed:
    segment = Segment(
        name, "tally", None, None, NOW + at, 1, {}, 1, 1, (), "", 0, "UTC", {}, NOW + at, "x"
    )  # fmt: skip
    return Computed(segment, {0: serialized(BitMap([at]))})


def put(*made: tuple[str, int]) -> Callable[[Segments], object]:
    return lambda segments: segments.put(TABLE, [computed(*one) for one in made])


def remove(name: str) -> Callable[[Segments], object]:
    return lambda segments: segments.remove(TABLE, name, NOW)


def hear(**removed: int) -> Callable[[Segments], object]:
    removals = {name: Removal((NOW + at, "x"), NOW + REMEMBERED_MS) for name, at in removed.items()}
    return lambda segments: segments.hear_removed(TABLE, removals, NOW)


CHANGES = [
    put(("a", 1)),
    put(("b", 1), ("c", 1), ("d", 1)),
    remove("a"),
    hear(b=1, e=5),
    put(("a", 2)),
    remove("c"),
    hear(a=1, d=3, c=2),
    put(("e", 6), ("b", 2)),
    remove("e"),
    remove("a"),
    hear(f=1),
    put(("f", 2)),
    remove("b"),
]


def seen(store: Store) -> State:
    stored = {one.segment.name: one.segment.edition for one in store.segments.all(TABLE, NOW)}
    removed = {name: removal.edition for (_, name), removal in store.segments.removed(NOW).items()}
    return stored, removed


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    """What is seen before and after each change, on a disk that works."""
    store = member(tmp_path_factory.mktemp("expected") / "data", FILES)
    found = [seen(store)]
    for change in CHANGES:
        change(store.segments)
        found.append(seen(store))
    store.close()
    return found


def new_disk(directory: Path) -> SimulatedDisk:
    directory.mkdir()
    return SimulatedDisk(directory.resolve())


def run(store: Store, disk: SimulatedDisk, states: list[State]) -> Iterator[Promises[State]]:
    """Makes all changes until one fails; gives the promises first, which are kept up to date."""
    promises: Promises[State] = Promises([states[0]])
    promises.begun[0] = promises.acknowledged[0] = disk.position
    yield promises
    for change, state in zip(CHANGES, states[1:], strict=True):
        promises.begin(disk, state)
        change(store.segments)
        promises.acknowledge(disk)


def finish(running: Iterator[Promises[State]]) -> None:
    for _ in running:
        raise AssertionError("it gives its promises once")


def check(root: Path, allowed: list[State], context: object) -> None:
    """Opens what is left: it must be one of these states, and refuse what was removed."""
    store = Store.open(root / "data", files=UNSYNCED)
    try:
        found = seen(store)
        assert found in allowed, context
        stored, removed = found
        late = [computed(name, edition[0] - NOW) for name, edition in removed.items()]
        assert store.segments.receive(TABLE, late) == list(removed), context
        assert seen(store) == found, context
        assert len(list(root.rglob("*.segment"))) == len(stored), context
        assert not [path for path in root.rglob("*") if path.suffix == ".tmp" or path.name == "unfinished.json"], (
            context
        )
    finally:
        store.close()


def test_power_failure_at_every_step(tmp_path: Path, states: list[State]) -> None:
    disk = new_disk(tmp_path / "live")
    store = member(disk.root / "data", disk)
    first = disk.position
    running = run(store, disk, states)
    promises = next(running)
    finish(running)
    store.close()
    every = list(moments(disk, seeds=2, first=first))
    for position, name in every if EVERYTHING else chosen(every, 220, 1):
        with after_failure(disk, position, name) as root:
            check(root, promises.allowed(position), (position, name))


def test_killed_at_every_step_restarted_and_then_a_power_failure(tmp_path: Path, states: list[State]) -> None:
    """What a restart has told other nodes of removals has to be there after a power failure, too."""
    probe = new_disk(tmp_path / "probe")
    store = member(probe.root / "data", probe)
    first = len(probe.kinds)
    running = run(store, probe, states)
    next(running)
    finish(running)
    store.close()
    deaths = range(first, len(probe.kinds))
    for death in deaths if EVERYTHING else deaths[::3]:
        disk = new_disk(tmp_path / str(death))
        store = member(disk.root / "data", disk)
        disk.off_after = death
        running = run(store, disk, states)
        promises = next(running)
        with pytest.raises(OpenSetError):
            finish(running)
        store.close()
        disk.off_after, disk.is_off = None, False
        again = Store.open(disk.root / "data", files=disk)
        found = seen(again)
        assert found in promises.allowed(disk.position), death
        again.close()
        with after_failure(disk, disk.position, "nothing") as root:
            check(root, [found], death)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory", "unlink", "make_directory"])
def test_a_step_that_fails(tmp_path: Path, kind: str, number: int, states: list[State]) -> None:
    """Nothing is acknowledged that is not there after a power failure."""
    skip = 0
    while True:
        disk = new_disk(tmp_path / str(skip))
        store = member(disk.root / "data", disk)
        disk.faults = [Fault(kind, skip=skip, number=number)]
        running = run(store, disk, states)
        promises = next(running)
        try:
            finish(running)
        except OpenSetError:
            failed = True
        else:
            failed = bool(store.health.is_read_only)  # a file that is not needed any more could not be removed
        allowed = promises.allowed(disk.position)
        assert seen(store) in allowed, skip
        store.close()
        for name in ("nothing", "everything"):
            with after_failure(disk, disk.position, name) as root:
                check(root, allowed, (skip, name))
        if not failed:
            break
        skip += 1
    assert skip > 0
