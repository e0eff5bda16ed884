"""The scrub finds every damaged byte, where it is; and the health of a disk is judged by its errors."""

from __future__ import annotations

import errno
import random
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import pytest
from support.format_models import PEOPLE, content_of
from support.power_failure import UNSYNCED

import openset.store.scrub as scrubbing
from openset.errors import InternalError, ReadOnlyError
from openset.store.damage import Damage
from openset.store.health import Health, WatchedFiles
from openset.store.scrub import Scrubber, Scrubbing, Throttle, look_at, scrub
from openset_format.files import FILES
from openset_format.journal import Journal
from openset_format.problem import Problem
from openset_format.reader import PartitionFile
from openset_format.writer import write_partition

FAST = 1e12


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory with a partition file and a journal of three segments."""
    (tmp_path / "tables" / "1").mkdir(parents=True)
    write_partition(tmp_path / "tables" / "1" / "p0000.h5", content_of(PEOPLE), UNSYNCED)
    journal = Journal.open(tmp_path / "journal", UNSYNCED, segment_bytes=300)
    for number in range(6):
        journal.append(1, 1, bytes([number]) * 150)
        journal.sync()
    journal.close()
    return tmp_path


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_sound_files_have_no_problems(data: Path) -> None:
    found = Damage()
    done = scrub(data, found, Throttle(FAST))
    segments = sorted((data / "journal").glob("*.journal"))
    assert (done.files, done.damaged) == (len(segments), 0), "the partition file, and all segments but the last"
    assert found.all() == []
    assert done.size_bytes > sum(path.stat().st_size for path in segments[:-1])


def test_every_damaged_byte_of_a_partition_file_is_found_where_it_is(data: Path) -> None:
    path = data / "tables" / "1" / "p0000.h5"
    original = path.read_bytes()
    places = PartitionFile.open(path).manifest.datasets
    chance = random.Random(7)
    offsets = [place.offset + chance.randrange(place.size_bytes) for place in places.values()]
    offsets += [chance.randrange(len(original)) for _ in range(150)]
    for offset in offsets:
        flip(path, offset)
        found = Damage()
        scrub(data, found, Throttle(FAST))
        problems = found.all()
        assert problems and {problem.file for problem in problems} == {str(path)}, offset
        for name, place in places.items():
            if place.offset <= offset < place.offset + place.size_bytes:
                assert [problem.dataset for problem in problems] == [name]
                assert problems[0].offset is not None and problems[0].offset <= offset
        path.write_bytes(original)


def test_damaged_segments_are_found_and_forgotten_when_they_are_gone(data: Path) -> None:
    found = Damage()
    first, *others, last = sorted((data / "journal").glob("*.journal"))
    flip(first, 200)
    flip(others[0], 3)
    flip(last, 200)
    assert scrub(data, found, Throttle(FAST)).damaged == 2
    assert [(problem.file, problem.offset) for problem in found.all()] == [(str(first), 64), (str(others[0]), 0)]
    flip(first, 200)
    others[0].unlink()
    assert scrub(data, found, Throttle(FAST)).damaged == 0
    assert found.all() == []


def test_the_thread_keeps_to_its_rate_and_can_be_stopped(data: Path) -> None:
    fast = Scrubber(data, Damage(), Scrubbing(FAST, 0.05))
    deadline = time.monotonic() + 20
    while fast.last is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    fast.close()
    slow = Scrubber(data, Damage(), Scrubbing(1.0, 0.0))
    time.sleep(0.2)
    started = time.monotonic()
    slow.close()
    assert time.monotonic() - started < 5 and slow.last is None
    off = Scrubber(data, Damage(), Scrubbing(0, 0.0))
    off.close()


def test_what_is_suspected_is_verified_at_once(data: Path) -> None:
    path, found = data / "tables" / "1" / "p0000.h5", Damage()
    flip(path, PartitionFile.open(path).manifest.datasets["/events/stamp"].offset)
    scrubber = Scrubber(data, found, Scrubbing(0, 0.0))
    found.suspect([path.parent.parent / "2" / path.name, path.with_name("p0003.h5"), path])
    deadline = time.monotonic() + 20
    while len(found.all()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert found.partitions() == {0, 3}
    scrubber.close()
    found.suspect([path, data / "another"])
    assert found.suspects.qsize() == 1, "not again so soon"


@pytest.mark.parametrize(
    ("step", "number", "state"),
    [
        ("a write", errno.ENOSPC, "full"),
        ("a write", errno.EDQUOT, "full"),
        ("a write", errno.EFBIG, "full"),
        ("a sync", errno.ENOSPC, "full"),
        ("the sync of the directory", errno.ENOSPC, "failed"),
        ("a write", errno.EIO, "failed"),
        ("the renaming", errno.EROFS, "failed"),
        ("a sync", errno.EINVAL, "failed"),
        ("the removal", errno.ENOENT, "ok"),
        ("the creation", errno.EMFILE, "ok"),
    ],
)
def test_what_an_error_says_about_the_disk(step: str, number: int, state: str, tmp_path: Path) -> None:
    health = Health()
    health.refused(step, tmp_path / "file", OSError(number, "why"))
    assert health.condition.state == state
    if state == "ok":
        health.check()
        return
    assert health.condition.reason == f"why at {step} of {tmp_path / 'file'}"
    with pytest.raises(ReadOnlyError, match="why at"), health.writing():
        raise AssertionError("nothing is tried")


def test_it_only_gets_worse_until_a_probe_succeeds(tmp_path: Path) -> None:
    health = Health()
    health.refused("a write", tmp_path, OSError(errno.ENOSPC, "full"), 3 << 20)
    since = health.condition.since_ms
    health.refused("a write", tmp_path, OSError(errno.ENOSPC, "fuller"))
    assert health.condition.reason == f"full at a write of {tmp_path}"
    assert health.probe(tmp_path, FILES) and health.condition.state == "ok"
    assert list(tmp_path.iterdir()) == []
    health.refused("a write", tmp_path, OSError(errno.ENOSPC, "full"))
    health.watch_journal(lambda: "a sync failed")
    assert health.condition.state == "failed" and health.condition.reason == "a sync failed"
    assert health.condition.since_ms >= since
    assert not health.probe(tmp_path, FILES)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_change_becomes_the_reason_it_had(tmp_path: Path) -> None:
    health = Health()
    files = WatchedFiles(FILES, health)
    with pytest.raises(InternalError, match="nothing to do with it"), health.writing():
        raise InternalError("nothing to do with it")
    with pytest.raises(FileNotFoundError):
        files.rename(tmp_path / "missing", tmp_path / "other")
    assert health.condition.state == "ok"
    with pytest.raises(ReadOnlyError, match="why at a sync"), health.writing():
        health.refused("a sync", tmp_path, OSError(errno.EIO, "why"))
        raise InternalError("it could not be written")


def test_journals_of_a_member_are_scrubbed_and_name_their_partition(data: Path) -> None:
    directory = data / "journal" / "p0012-3"
    journal = Journal.open(directory, UNSYNCED, segment_bytes=300)
    for number in range(6):
        journal.append(1, 1, bytes([number]) * 150)
        journal.sync()
    journal.close()
    first, *_, last = sorted(directory.glob("*.journal"))
    flip(first, 200)
    flip(last, 200)
    found = Damage()
    assert scrub(data, found, Throttle(FAST)).damaged == 1
    assert [problem.file for problem in found.all()] == [str(first)]
    assert found.partitions() == {12}
    flip(data / "tables" / "1" / "p0000.h5", 9_000)
    flip(sorted((data / "journal").glob("*.journal"))[0], 200)
    look_at(data / "tables" / "1" / "p0000.h5", found)
    look_at(data / "tables" / "2" / "p0001.h5", found)  # the table was dropped
    assert found.partitions() == {0, 12}
    scrub(data, found, Throttle(FAST))
    assert found.partitions() == {0, 12}, "a journal for all partitions is of none"
    found.forget(0, but=[data / "tables" / "1" / "p0000.h5"])
    found.forget(12)
    assert found.partitions() == {0}
    found.forget(0)
    assert found.partitions() == set() and len(found.all()) == 1


def test_what_was_noted_of_a_file_that_was_replaced_then_does_not_stay(data: Path) -> None:
    path = data / "tables" / "1" / "p0000.h5"
    sound = path.read_bytes()
    flip(path, 9_000)
    noted: list[int] = []

    class Noting(Damage):
        def note(self, path: Path, problems: Iterable[Problem]) -> None:
            found = list(problems)
            noted.append(len(found))
            if len(noted) == 1:
                path.with_suffix(".new").write_bytes(sound)
                path.with_suffix(".new").rename(path)
            super().note(path, found)

    found = Noting()
    look_at(path, found)
    assert noted == [1, 0] and found.all() == []


def test_nothing_is_noted_of_what_is_gone_or_was_not_read_to_its_end(data: Path) -> None:
    path, found = data / "tables" / "1" / "p0000.h5", Damage()
    flip(path, 9_000)
    throttle = Throttle(FAST)
    throttle.stop()
    look_at(path, found, throttle)
    assert found.all() == []
    look_at(path, found)
    assert len(found.all()) == 1
    path.unlink()
    look_at(path, found)
    assert [problem.message for problem in found.all()] == ["is missing"]
    path.parent.rmdir()  # the table was dropped
    look_at(path, found)
    assert found.all() == []


def test_damage_of_a_file_that_was_replaced_meanwhile_is_not_noted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sound one of the same contents comes in its place while it is read, as that of another copy does."""
    path = data / "tables" / "1" / "p0000.h5"
    sound = path.read_bytes()
    flip(path, 9_000)
    damaged = scrubbing.damage

    def replaced(file: PartitionFile, handle: BinaryIO) -> list[Problem]:
        problems = list(damaged(file, handle))
        path.with_suffix(".new").write_bytes(sound)
        path.with_suffix(".new").rename(path)
        return problems

    monkeypatch.setattr(scrubbing, "damage", replaced)
    found = Damage()
    look_at(path, found)
    assert found.all() == []
