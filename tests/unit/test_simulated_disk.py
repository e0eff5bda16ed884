"""The simulated disk of the tests keeps what a disk keeps, and loses what a disk may lose."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.simulated_disk import (
    Fault,
    SimulatedDisk,
    Step,
    at_random,
    contents_only,
    everything,
    names_only,
    nothing,
)


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    (tmp_path / "live").mkdir()
    return SimulatedDisk(tmp_path / "live")


def image(disk: SimulatedDisk, chooser: object, position: int | None = None) -> dict[str, bytes]:
    target = disk.root.parent / "image"
    disk.image(disk.position if position is None else position, chooser, target)  # type: ignore[arg-type]
    found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
    for path in sorted(target.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    target.rmdir()
    return found


def test_contents_and_names_are_durable_by_syncs_of_their_own(disk: SimulatedDisk) -> None:
    file = disk.create(disk.root / "a")
    file.write_at([b"one"], 0)
    assert image(disk, nothing) == {}
    assert image(disk, names_only) == {"a": b""}
    file.sync()
    assert image(disk, nothing) == {}
    disk.sync_directory(disk.root)
    file.write_at([b"two"], 3)
    assert image(disk, nothing) == {"a": b"one"}
    assert image(disk, everything) == {"a": b"onetwo"}
    assert image(disk, contents_only) == {"a": b"onetwo"}
    disk.rename(disk.root / "a", disk.root / "b")
    assert image(disk, nothing) == {"a": b"one"}
    assert image(disk, names_only) == {"b": b"one"}
    assert image(disk, nothing, position=2) == {}
    assert (disk.root / "b").read_bytes() == b"onetwo"


def test_a_failed_sync_leaves_writes_in_doubt_for_good(disk: SimulatedDisk) -> None:
    with disk.create(disk.root / "a") as file:
        disk.sync_directory(disk.root)
        file.write_at([b"one"], 0)
        disk.faults = [Fault("sync")]
        with pytest.raises(OSError, match="injected"):
            file.sync()
        file.write_at([b"two"], 3)
        file.sync()
    assert image(disk, nothing) == {"a": b"\0\0\0two"}
    assert (disk.root / "a").read_bytes() == b"onetwo"


def test_a_full_disk_takes_what_fits(disk: SimulatedDisk) -> None:
    disk.capacity_bytes = 4
    with disk.create(disk.root / "a") as file:
        with pytest.raises(OSError, match="No space"):
            file.write_at([b"onetwo"], 0)
        assert file.write_at([b"four"], 0) == 4
        file.truncate(0)
        assert file.write_at([b"4"], 3) == 1
    disk.unlink(disk.root / "a")
    with disk.create(disk.root / "b") as file:
        assert file.write_at([b"four"], 0) == 4


def test_sectors_survive_one_by_one(disk: SimulatedDisk) -> None:
    with disk.create(disk.root / "a") as file:
        disk.sync_directory(disk.root)
        file.write_at([b"x" * 20_000], 100)
    seen = set()
    for seed in range(60):
        data = image(disk, at_random(seed))["a"]
        assert set(data) <= {0, ord("x")}
        seen.add(data)
    assert len(seen) > 20
    assert any(b"x" in data and b"\0" in data[200:] for data in seen), "holes"


def test_directories(disk: SimulatedDisk) -> None:
    disk.make_directory(disk.root / "d" / "e")
    disk.create(disk.root / "d" / "e" / "f").close()
    disk.link(disk.root / "d" / "e" / "f", disk.root / "d" / "g")
    assert image(disk, everything) == {"d/e/f": b"", "d/g": b""}
    disk.sync_directory(disk.root / "d" / "e")
    assert image(disk, nothing) == {}, "the directory itself has no durable name"
    disk.sync_directory(disk.root)
    disk.sync_directory(disk.root / "d")
    assert image(disk, nothing) == {"d/e/f": b"", "d/g": b""}
    disk.remove_tree(disk.root / "d")
    assert image(disk, nothing) == {"d/e/f": b"", "d/g": b""}
    assert image(disk, everything) == {} and not (disk.root / "d").exists()


def test_a_rename_between_directories_needs_both_synced(disk: SimulatedDisk) -> None:
    for name in ("one", "two"):
        disk.make_directory(disk.root / name)
    disk.create(disk.root / "one" / "f").close()
    for name in ("one", "two", "."):
        disk.sync_directory(disk.root / name)
    disk.rename(disk.root / "one" / "f", disk.root / "two" / "f")
    disk.sync_directory(disk.root / "two")
    assert image(disk, nothing) == {"one/f": b""}
    disk.sync_directory(disk.root / "one")
    assert image(disk, nothing) == {"two/f": b""}


def test_death(disk: SimulatedDisk) -> None:
    disk.off_after = 2
    with disk.create(disk.root / "a") as file:
        file.write_at([b"one"], 0)
        for step in (file.sync, lambda: file.write_at([b"two"], 3), lambda: disk.unlink(disk.root / "a")):
            with pytest.raises(OSError, match="dead"):
                step()
    assert [type(step) for step in disk.log] == [Step, Step]
    assert (disk.root / "a").read_bytes() == b"one"
