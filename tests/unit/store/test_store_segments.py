"""Stored segments: their files, versions, times to live, pins, what a restart and a failing disk leave."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pyroaring import BitMap
from support.format_models import FailingFiles

from openset.errors import InternalError, QueryError
from openset.store import segments as module
from openset.store.members import MemberCache
from openset.store.segment import Computed, Segment, SegmentColumn, segment_path
from openset.store.segments import Segments
from openset.store.unfinished import UNFINISHED_NAME, begin
from openset_format.errors import DamageError, UnsupportedFormatError
from openset_format.files import FileLayer
from openset_format.membership import MembershipFile, bitmap_of, serialized, write_membership

TABLE = 3
NOW = 4_000_000_000_000  # beyond the clock of the machine, so that a restart finds nothing expired


def segment(name: str, **changes: Any) -> Segment:
    made = Segment(
        name=name,
        script="tally",
        ttl_seconds=None,
        refresh_seconds=None,
        made_at_ms=NOW,
        people=3,
        parameters={"whole": 1, "part": 1.0, "flag": True, "text": "ü"},
        session_time_ms=1_800_000,
        timeout_ms=30_000,
        columns=(SegmentColumn(1, "product", "text"),),
        journal_id="j",
        sequence=7,
    )
    return msgspec.structs.replace(made, **changes)


def computed(name: str, people: dict[int, list[int]], **changes: Any) -> Computed:
    members = {partition: serialized(BitMap(ordinals)) for partition, ordinals in people.items()}
    return Computed(segment(name, **changes), members)


def opened(data_dir: Path, files: FileLayer | None = None, journal_id: str = "j", last_sequence: int = 7) -> Segments:
    return Segments(data_dir, [TABLE], journal_id, last_sequence, files or FileLayer())


def names(stored: Segments, now_ms: float = NOW) -> list[str]:
    return [each.segment.name for each in stored.all(TABLE, now_ms)]


def people(stored: Segments, data_dir: Path, name: str, partition: int) -> list[int]:
    with stored.pinned(TABLE, [name], NOW) as found:
        return list(MemberCache(data_dir).bitmap(found[name].ref, partition))


def files_of(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "tables" / str(TABLE) / "segments").glob("*"))


def test_what_is_stored_is_found_again(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1, 5], 2: [9]}), computed("b", {})])
    for again in (stored, opened(tmp_path)):
        assert names(again) == ["a", "b"]
        found = again.all(TABLE, NOW)[0].segment
        assert found == segment("a")
        assert [type(value) for value in found.parameters.values()] == [int, float, bool, str]
        assert people(again, tmp_path, "a", 0) == [1, 5]
        assert people(again, tmp_path, "a", 1) == []
        assert people(again, tmp_path, "b", 0) == []


def test_a_newer_computation_replaces_an_older_one(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1]})])
    stored.put(TABLE, [computed("a", {0: [2]})])
    assert files_of(tmp_path) == ["0000000002.segment"]
    again = opened(tmp_path)
    assert people(again, tmp_path, "a", 0) == [2]
    again.put(TABLE, [computed("c", {})])
    assert files_of(tmp_path)[-1] == "0000000003.segment"


def test_pinned_files_stay_until_the_last_reader_is_done(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1]})])
    with stored.pinned(TABLE, ["a", "a", "none"], NOW) as first:
        assert list(first) == ["a"]
        with stored.pinned(TABLE, ["a"], NOW):
            stored.put(TABLE, [computed("a", {0: [2]})])
        assert list(MemberCache(tmp_path).bitmap(first["a"].ref, 0)) == [1]
        assert len(files_of(tmp_path)) == 2
    assert files_of(tmp_path) == ["0000000002.segment"]


def test_after_a_crash_the_newest_of_a_name_counts(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1]})])
    with stored.pinned(TABLE, ["a"], NOW):
        stored.put(TABLE, [computed("a", {0: [2]})])
        (tmp_path / segment_path(TABLE, 9)).with_suffix(".segment.1-2.tmp").write_bytes(b"torn")
        again = opened(tmp_path)
        assert files_of(tmp_path) == ["0000000002.segment"]
    assert people(again, tmp_path, "a", 0) == [2]


def test_times_to_live(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(
        TABLE, [computed("short", {}, ttl_seconds=2.0), computed("long", {}), computed("none", {}, ttl_seconds=0)]
    )
    assert names(stored, NOW + 1_999) == ["long", "short"]
    assert names(stored, NOW + 2_000) == ["long"]
    with stored.pinned(TABLE, ["short"], NOW + 2_000) as found:
        assert not found
    assert stored.remove(TABLE, "short", NOW + 2_000) is None
    stored.remove_expired(NOW + 2_000)
    assert files_of(tmp_path) == ["0000000002.segment"]


def test_what_expired_before_a_start_is_gone(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("old", {}, made_at_ms=1_000, ttl_seconds=60.0, refresh_seconds=30.0)])
    assert names(stored) == ["old"], "its refresh is due"
    assert names(opened(tmp_path)) == []
    assert files_of(tmp_path) == []


def test_refreshes_come_due_in_turn_and_leave_no_gap(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    fresh = {"ttl_seconds": 10.0, "refresh_seconds": 10.0}
    stored.put(TABLE, [computed("late", {}, ttl_seconds=10.0, refresh_seconds=20.0), computed("a", {}, **fresh),
                       computed("b", {}, **fresh), computed("often", {}, refresh_seconds=0.0)])  # fmt: skip
    assert stored.next_refresh(NOW + 999) is None
    due = stored.next_refresh(NOW + 1_000)
    assert due is not None and due.segment.name == "often", "once a second at most"
    stored.refresh_failed(due, "it rains", NOW + 1_000)
    assert stored.failure(due) == "it rains"
    assert stored.next_refresh(NOW + 1_999) is None
    assert stored.next_refresh(NOW + 2_000) is due
    stored.remove(TABLE, "often", NOW)
    assert names(stored, NOW + 60_000) == ["a", "b"]
    due = stored.next_refresh(NOW + 60_000)
    assert due is not None and due.segment.name == "a"
    stored.refresh_failed(due, "no", NOW + 60_000)
    assert names(stored, NOW + 60_000) == ["b"], "nothing renews the ttl of what fails"
    due = stored.next_refresh(NOW + 60_000)
    assert due is not None and due.segment.name == "b"
    stored.put(TABLE, [computed("b", {0: [4]}, made_at_ms=NOW + 60_000, **fresh)], replaces=due)
    assert stored.next_refresh(NOW + 60_001) is None
    stored.put(TABLE, [computed("b", {0: [5]})], replaces=due)
    assert people(stored, tmp_path, "b", 0) == [4], "a refresh that comes too late replaces nothing"


def test_another_description_keeps_the_people(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1], 4: [2, 3]})])
    first = stored.all(TABLE, NOW)[0]
    stored.put(TABLE, [], described=[(first, segment("a", ttl_seconds=5.0))])
    assert stored.all(TABLE, NOW)[0].segment.ttl_seconds == 5.0
    assert people(stored, tmp_path, "a", 4) == [2, 3]
    stored.put(TABLE, [], described=[(first, segment("a", ttl_seconds=6.0))])
    assert stored.all(TABLE, NOW)[0].segment.ttl_seconds == 5.0, "it was replaced meanwhile"


def test_removing_takes_the_file_at_once(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1]})])
    with stored.pinned(TABLE, ["a"], NOW) as found:
        assert stored.remove(TABLE, "a", NOW) is found["a"]
        assert files_of(tmp_path) == []
        with pytest.raises(QueryError, match="'a' was removed while the query ran"):
            MemberCache(tmp_path).bitmap(found["a"].ref, 0)
    assert stored.remove(TABLE, "a", NOW) is None


@pytest.mark.parametrize("journal_id, last_sequence", [("other", 7), ("j", 6)])
def test_segments_that_know_lost_events_are_removed(tmp_path: Path, journal_id: str, last_sequence: int) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1]}), computed("empty", {}, sequence=0, journal_id="")])
    assert names(opened(tmp_path, journal_id=journal_id, last_sequence=last_sequence)) == ["empty"]
    assert files_of(tmp_path) == ["0000000002.segment"]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1, 2, 3]}), computed("b", {0: [1]})])
    path = tmp_path / stored.all(TABLE, NOW)[0].ref.file
    path.chmod(0o644)
    sound = path.read_bytes()
    head_bytes = MembershipFile.open(path)._body_offset
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 0x55]) + sound[place + 1 :])
        if place < head_bytes:
            with pytest.raises((DamageError, UnsupportedFormatError)):
                MembershipFile.open(path)
        else:
            with pytest.raises(DamageError, match="partition 0"):
                MembershipFile.open(path).members(0)
    for size in range(len(sound)):
        path.write_bytes(sound[:size])
        with pytest.raises(DamageError):
            MembershipFile.open(path)
    assert names(opened(tmp_path)) == ["b"], "what cannot be read is left out"
    assert path.exists()
    with pytest.raises(InternalError, match="'a' cannot be read"):
        MemberCache(tmp_path).bitmap(stored.all(TABLE, NOW)[0].ref, 0)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.segment"
    write_membership(path, b"{}", {})
    raw = bytearray(path.read_bytes())
    raw[8] = 2
    path.chmod(0o644)
    path.write_bytes(raw)
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        MembershipFile.open(path)


@pytest.mark.parametrize("step", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_failing_disk_leaves_the_segments_as_they_were(tmp_path: Path, step: str) -> None:
    fine = opened(tmp_path)
    fine.put(TABLE, [computed("a", {0: [1]})])
    for fail_at in range(2 if step != "sync_directory" else 1):
        stored = opened(tmp_path, FailingFiles(fail_at, [step]))
        with pytest.raises(InternalError, match="injected"):
            stored.put(TABLE, [computed("a", {0: [2]}), computed("b", {0: [3]})])
        for after in (stored, opened(tmp_path)):
            assert names(after) == ["a"]
            assert people(after, tmp_path, "a", 0) == [1]
        assert len(files_of(tmp_path)) == 1, "no leftovers"
        stored.put(TABLE, [computed("b", {0: [3]})])
        stored.remove(TABLE, "b", NOW)


def test_a_removal_that_is_not_durable_is_reported(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [1]})])
    failing = opened(tmp_path, FailingFiles(0, ["sync_directory"]))
    with pytest.raises(InternalError, match="may come back"):
        failing.remove(TABLE, "a", NOW)


def test_there_is_a_limit_of_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENTS_PER_TABLE", 2)
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {}), computed("b", {})])
    stored.put(TABLE, [computed("b", {0: [1]})])
    with pytest.raises(QueryError, match="at most 2 segments"):
        stored.put(TABLE, [computed("c", {})])


def test_a_worker_forgets_what_it_used_least(tmp_path: Path) -> None:
    stored = opened(tmp_path)
    stored.put(TABLE, [computed(name, {0: [1000]}) for name in ("a", "b", "c")])
    refs = [each.ref for each in stored.all(TABLE, NOW)]
    cache = MemberCache(tmp_path, kept_bytes=2_500)
    kept = cache.bitmap(refs[0], 0)
    cache.bitmap(refs[1], 0)
    assert cache.bitmap(refs[0], 0) is kept
    cache.bitmap(refs[2], 0)
    assert cache.bitmap(refs[0], 0) is kept
    for path in tmp_path.rglob("*.segment"):
        path.unlink()
    with pytest.raises(QueryError):
        cache.bitmap(dataclasses.replace(refs[1]), 0)


@pytest.mark.parametrize("ordinals", [[], [0], [5, 6, 7], [1, 2**32 - 1], [7, 3, 5], [3, 4, 6]])
def test_bitmaps_of_ordinals(ordinals: list[int]) -> None:
    assert list(bitmap_of(np.array(ordinals, np.int64))) == sorted(ordinals)


def test_segments_of_one_request_are_there_together(tmp_path: Path) -> None:
    """Whichever step fails: those from before are there, and after a start as well."""
    for failing in range(60):
        data = tmp_path / str(failing)
        opened(data).put(TABLE, [computed("a", {0: [1]})])
        files = FailingFiles(failing)
        stored = opened(data, files)
        try:
            stored.put(TABLE, [computed(name, {0: [7]}) for name in ("a", "b", "c")])
        except InternalError:
            assert names(stored) == ["a"] and people(stored, data, "a", 0) == [1]
            again = opened(data)
            found = {name: people(again, data, name, 0) for name in names(again)}
            # The last step is the sync behind the removal of the list: then they may be there, but all of them.
            assert found in ({"a": [1]}, {"a": [7], "b": [7], "c": [7]}), failing
            assert UNFINISHED_NAME not in files_of(data)
            again.put(TABLE, [computed(name, {0: [8]}) for name in ("b", "c")])
            assert people(opened(data), data, "c", 0) == [8]
        else:
            break
    assert failing > 10
    assert names(opened(data)) == ["a", "b", "c"] and UNFINISHED_NAME not in files_of(data)


def test_what_a_crash_left_unfinished_is_removed(tmp_path: Path) -> None:
    opened(tmp_path).put(TABLE, [computed("a", {0: [1]})])
    stored = opened(tmp_path)
    stored.put(TABLE, [computed("a", {0: [2]}), computed("b", {0: [2]})])
    directory = tmp_path / "tables" / str(TABLE) / "segments"
    shutil.copy(directory / "0000000003.segment", directory / "0000000001.segment")
    begin(directory, [path.name for path in directory.glob("*[23].segment")], FileLayer())
    # A second attempt does not make the first one count.
    shutil.copy(directory / "0000000001.segment", directory / "0000000004.segment")
    begin(directory, ["0000000004.segment"], FileLayer())
    again = opened(tmp_path)
    assert files_of(tmp_path) == ["0000000001.segment"] and names(again) == ["b"]
    (directory / UNFINISHED_NAME).write_bytes(b"damaged")
    assert names(opened(tmp_path)) == ["b"] and UNFINISHED_NAME not in files_of(tmp_path)
