"""What members of a cluster remember of removed segments: over restarts, for how long, and what it hides."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pyroaring import BitMap
from support.format_models import FailingFiles

from openset.errors import ConfigError, InternalError
from openset.store import removals as module
from openset.store.removals import REMEMBERED_MS, Removal, read_removals, removals_path
from openset.store.sealed_json import encode_sealed
from openset.store.segment import Computed, Segment, StoredSegment
from openset.store.segments import Segments
from openset_format.files import FILES, FileLayer
from openset_format.membership import serialized
from openset_tools.strangers import strangers
from openset_tools.verify import verify

TABLE = 3
NOW = 4_000_000_000_000  # beyond the clock of the machine, so that a restart finds nothing expired


def opened(data_dir: Path, files: FileLayer = FILES) -> Segments:
    """As on a member."""
    return Segments(data_dir, [TABLE], "", None, files)


def computed(
    name: str, at: int = 0, ttl_seconds: float | None = None, refresh_seconds: float | None = None
) -> Computed:
    """A shared computation of a moment after NOW."""
    segment = Segment(
        name, "tally", ttl_seconds, refresh_seconds, NOW + at, 1, {}, 1, 1, (), "", 0, "UTC", {}, NOW + at, "x"
    )  # fmt: skip
    return Computed(segment, {0: serialized(BitMap([at]))})


def names(stored: Segments) -> list[str]:
    return [each.segment.name for each in stored.all(TABLE, NOW)]


def removed(stored: Segments, now_ms: float = NOW) -> dict[str, int]:
    """By name up to which moment after NOW."""
    return {name: removal.edition[0] - NOW for (_, name), removal in stored.removed(now_ms).items()}


def until(at: int = 0) -> Removal:
    """The removal of a computation of a moment after NOW, at that moment."""
    return Removal((NOW + at, "x"), NOW + at + REMEMBERED_MS)


def the_one(stored: Segments) -> StoredSegment:
    (found,) = stored.all(TABLE, NOW)
    return found


def test_what_was_removed_is_refused_after_a_restart(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", 1), computed("b", 1)])
    stored.remove(TABLE, "a", NOW)
    for again in (stored, opened(tmp_path)):
        assert again.removed(NOW) == {(TABLE, "a"): Removal((NOW + 1, "x"), NOW + REMEMBERED_MS)}
        assert again.receive(TABLE, [computed("a", 1), computed("a", 0)]) == ["a", "a"]
        assert names(again) == ["b"]
    assert opened(tmp_path).receive(TABLE, [computed("a", 2)]) == []
    assert names(opened(tmp_path)) == ["a", "b"], "it was computed later"


def test_what_others_have_removed_is_remembered_where_it_never_was(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", 5), computed("b", 5)])
    stored.hear_removed(TABLE, {"a": until(4), "b": until(6), "c": until(2)}, NOW + 10)
    for again in (stored, opened(tmp_path)):
        assert names(again) == ["a"], "it was computed later than what was removed"
        assert removed(again) == {"b": 6, "c": 2}, "the later computation needs no removal"
        assert again.receive(TABLE, [computed("c", 2)]) == ["c"]


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    news = {"a": until(1), "b": until(2)}
    stored.hear_removed(TABLE, news, NOW + 10)
    path = tmp_path / removals_path(TABLE)
    before = path.stat().st_ino, path.read_bytes()
    for again in (stored, opened(tmp_path)):
        again.hear_removed(TABLE, news, NOW + 20)
        again.hear_removed(TABLE, {"a": until(0)}, NOW + 20)
        assert (path.stat().st_ino, path.read_bytes()) == before
    stored.hear_removed(TABLE, {"a": until(3)}, NOW + 20)
    assert removed(opened(tmp_path)) == {"a": 3, "b": 2}


def test_a_removal_is_forgotten_when_its_time_is_over(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a"), computed("b"), computed("c")])
    stored.remove(TABLE, "a", NOW)
    stored.remove(TABLE, "b", NOW + 1_000)
    assert removed(stored, NOW + REMEMBERED_MS - 1) == {"a": 0, "b": 0}
    assert removed(stored, NOW + REMEMBERED_MS) == {"b": 0}
    stored.remove(TABLE, "c", NOW + REMEMBERED_MS)
    assert read_removals(tmp_path / removals_path(TABLE)).keys() == {"b", "c"}
    # Nodes that tell each other do not keep it alive.
    stored.hear_removed(TABLE, {"a": until()}, NOW + REMEMBERED_MS)
    assert read_removals(tmp_path / removals_path(TABLE)).keys() == {"b", "c"}
    # A clock of another node that is wrong does not either.
    stored.hear_removed(TABLE, {"d": Removal((NOW, "x"), 1 << 60)}, NOW)
    assert stored.removed(NOW)[TABLE, "d"].until_ms == NOW + REMEMBERED_MS


@pytest.mark.parametrize(
    ("ttl_seconds", "refresh_seconds", "is_forgotten"),
    [(None, None, True), (REMEMBERED_MS / 1_000, None, True), (60.0, 30.0, True), (60.0, None, False)],
)
def test_a_later_computation_replaces_a_removal_when_it_stays_for_as_long(
    tmp_path: Path, ttl_seconds: float | None, refresh_seconds: float | None, is_forgotten: bool
) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a"), computed("b")])
    stored.remove(TABLE, "a", NOW)
    stored.put(TABLE, [computed("a", 1, ttl_seconds, refresh_seconds)])
    stored.remove(TABLE, "b", NOW)
    for again in (stored, opened(tmp_path)):
        assert removed(again) == {"b": 0} if is_forgotten else {"a": 0, "b": 0}
        assert again.receive(TABLE, [computed("a")]) == ["a"]
    assert stored.remove(TABLE, "a", NOW) is not None
    assert removed(opened(tmp_path)) == {"a": 1, "b": 0}


def test_a_table_keeps_its_last_removals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED_PER_TABLE", 3)
    stored = opened(tmp_path)
    stored.hear_removed(TABLE, {f"s{at}": until(at) for at in (4, 2, 1, 3)}, NOW + 10)
    assert removed(stored).keys() == {"s2", "s3", "s4"}
    stored.put(TABLE, [computed("a")])
    stored.remove(TABLE, "a", NOW + 10)
    assert removed(opened(tmp_path)).keys() == {"s3", "s4", "a"}


def test_a_computation_that_a_crash_left_is_gone_when_its_removal_is_known(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", 1)])
    path = tmp_path / the_one(stored).ref.file
    data = path.read_bytes()
    stored.remove(TABLE, "a", NOW)
    path.write_bytes(data)
    assert names(opened(tmp_path)) == [] and not path.exists()


@pytest.mark.parametrize("step", ["create", "write", "sync", "rename", "sync_directory", "unlink"])
def test_a_removal_that_cannot_be_written_is_reported(tmp_path: Path, step: str) -> None:
    opened(tmp_path).put(TABLE, [computed("a", 1)])
    failing = opened(tmp_path, FailingFiles(0, [step]))
    with pytest.raises(InternalError):
        failing.remove(TABLE, "a", NOW)
    # Written down it counts, whatever becomes of the file; else it is there, and the removal can be asked for again.
    counts = step == "unlink"
    assert names(failing) == ([] if counts else ["a"])
    if not counts:
        assert failing.remove(TABLE, "a", NOW) is not None
    assert names(opened(tmp_path)) == []
    assert removed(opened(tmp_path)) == {"a": 1}


def test_a_node_alone_remembers_nothing(tmp_path: Path) -> None:
    stored = Segments(tmp_path, [TABLE], "", 0)
    one = computed("a")
    stored.put(TABLE, [Computed(msgspec.structs.replace(one.segment, computation=""), one.members)])
    assert stored.remove(TABLE, "a", NOW) is not None
    assert not stored.removed(NOW) and not (tmp_path / removals_path(TABLE)).exists()


def test_a_dropped_table_has_no_removals(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.hear_removed(TABLE, {"a": until()}, NOW)
    stored.drop_table(TABLE)
    (tmp_path / removals_path(TABLE)).unlink()
    assert not stored.removed(NOW)
    stored.hear_removed(TABLE, {"b": until()}, NOW)
    assert not stored.removed(NOW) and not (tmp_path / removals_path(TABLE)).exists()


def test_damage_is_told_and_what_is_newer_is_refused(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a"), computed("b")])
    stored.remove(TABLE, "a", NOW)
    path = tmp_path / removals_path(TABLE)
    assert not [problem for problem in verify(tmp_path) if problem.file == str(path)]
    assert not [line for line in strangers(tmp_path) if str(path) in line]
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"a"', b'"b"'))
    assert [problem.message for problem in verify(tmp_path) if problem.file == str(path)] == [
        "is damaged: its checksum does not match"
    ]
    again = opened(tmp_path)
    assert not again.removed(NOW) and names(again) == ["b"]
    again.remove(TABLE, "b", NOW)
    assert removed(opened(tmp_path)) == {"b": 0}
    path.write_bytes(encode_sealed("removed", {"segments": {}, "format_version": 2}))
    with pytest.raises(ConfigError, match="format version 2"):
        opened(tmp_path)
