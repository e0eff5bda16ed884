"""The journal: append, sync, read back; recovery from torn tails; damage reported; failures not hidden."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.format_models import FailingFiles

from openset_format.errors import (
    DamageError,
    JournalFailedError,
    MissingSegmentError,
    UnsupportedFormatError,
    WriteError,
)
from openset_format.files import FILES
from openset_format.hashing import checksum
from openset_format.journal import MARK_NAME, Journal
from openset_format.segment import RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, RecordRef, read_record, read_records
from openset_format.verify import verify_segment

PAYLOADS = [b"first", b"", b"third record", bytes(range(256))]


def payloads_of(journal: Journal) -> list[bytes]:
    return [bytes(journal.read(ref)) for ref, _, _ in journal.records()]


def filled(directory: Path, payloads: list[bytes] = PAYLOADS, sync: bool = True) -> list[RecordRef]:
    """A closed journal with these records; returns where they are."""
    journal = Journal.open(directory)
    refs = [journal.append(1, 7, payload) for payload in payloads]
    if sync:
        journal.sync()
    journal.close()
    return refs


def damage(directory: Path, ref: RecordRef, at: int = RECORD_HEADER_BYTES) -> None:
    path = directory / ref.segment
    data = bytearray(path.read_bytes())
    data[ref.offset + at] ^= 0x10
    path.write_bytes(data)


def test_records_come_back_after_a_restart(tmp_path: Path) -> None:
    refs = filled(tmp_path)
    journal = Journal.open(tmp_path)
    assert payloads_of(journal) == PAYLOADS
    assert [entry[0] for entry in journal.records()] == refs
    assert [ref.sequence for ref in refs] == [1, 2, 3, 4]
    assert {entry[1:] for entry in journal.records()} == {(1, 7)}
    assert (journal.first_sequence, journal.last_sequence, journal.synced_sequence) == (1, 4, 4)
    assert journal.torn_tail is None
    assert journal.append(2, 8, b"fifth").sequence == 5
    assert [entry[0].sequence for entry in journal.records(after=3)] == [4, 5]
    assert list(journal.records(after=99)) == []


def test_the_journal_keeps_its_id(tmp_path: Path) -> None:
    first = Journal.open(tmp_path / "one")
    again = Journal.open(tmp_path / "one")
    other = Journal.open(tmp_path / "two")
    assert first.id == again.id != other.id
    assert len(first.id) == 32


def test_workers_read_records_by_reference(tmp_path: Path) -> None:
    refs = filled(tmp_path)
    kind, table_id, payload = read_record(tmp_path, refs[2])
    assert (kind, table_id, bytes(payload)) == (1, 7, b"third record")
    assert [bytes(found[2]) for found in read_records(tmp_path, refs)] == PAYLOADS
    with pytest.raises(MissingSegmentError):
        read_record(tmp_path, RecordRef(1, "00000000000000000099.journal", 64, 72))
    damage(tmp_path, refs[3])
    with pytest.raises(DamageError, match=f"offset {refs[3].offset}"):
        read_record(tmp_path, refs[3])


def test_segments_are_started_and_dropped(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, segment_bytes=400)
    for number in range(20):
        journal.append(1, 1, bytes([number]) * 100)
    segments = sorted(path.name for path in tmp_path.glob("*.journal"))
    assert len(segments) == 10
    assert journal.synced_sequence == 18, "a segment is synced before the next one exists"
    assert journal.size_bytes == sum((tmp_path / name).stat().st_size for name in segments)
    assert journal.drop_segments(5) == 2
    assert journal.first_sequence == 5
    journal.close()
    journal = Journal.open(tmp_path, segment_bytes=400)
    assert [payload[0] for payload in payloads_of(journal)] == list(range(4, 20))
    assert journal.drop_segments(20) == 7, "the segment in use stays"
    journal.rotate()
    journal.rotate()
    assert journal.drop_segments(20) == 1
    assert payloads_of(journal) == []
    journal.close()
    journal = Journal.open(tmp_path)
    assert journal.append(1, 1, b"").sequence == 21


def test_a_record_larger_than_a_segment(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, segment_bytes=100)
    refs = [journal.append(1, 1, b"x" * 1000), journal.append(1, 1, b"y" * 1000)]
    assert refs[0].segment != refs[1].segment
    assert payloads_of(journal) == [b"x" * 1000, b"y" * 1000]


@pytest.mark.parametrize("sync", [True, False])
def test_torn_at_every_byte_a_prefix_is_recovered(tmp_path: Path, sync: bool) -> None:
    refs = filled(tmp_path / "whole", sync=sync)
    data = (tmp_path / "whole" / refs[0].segment).read_bytes()
    ends = [SEGMENT_HEADER_BYTES] + [ref.offset + ref.size_bytes for ref in refs]
    torn = tmp_path / "torn"
    for size in range(SEGMENT_HEADER_BYTES, len(data) + 1):
        torn.mkdir()
        (torn / refs[0].segment).write_bytes(data[:size])
        (torn / MARK_NAME).write_bytes((tmp_path / "whole" / MARK_NAME).read_bytes())
        journal = Journal.open(torn)
        kept = sum(size >= end for end in ends) - 1
        assert payloads_of(journal) == PAYLOADS[:kept]
        if size != ends[kept]:
            assert journal.torn_tail is not None
            assert (journal.torn_tail.offset, journal.torn_tail.size_bytes) == (ends[kept], size - ends[kept])
        acknowledged = 0 if journal.torn_tail is None else journal.torn_tail.acknowledged
        assert acknowledged == (len(PAYLOADS) - kept if sync else 0), "what had been promised is counted"
        journal.append(1, 1, b"next")
        journal.sync()
        journal.close()
        assert payloads_of(Journal.open(torn)) == [*PAYLOADS[:kept], b"next"]
        for path in torn.iterdir():
            path.unlink()
        torn.rmdir()


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    refs = filled(tmp_path)
    path = tmp_path / refs[0].segment
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x40]) + data[place + 1 :])
        assert verify_segment(path)
        with pytest.raises(DamageError) as caught:
            Journal.open(tmp_path)
        assert str(path) in str(caught.value)


def test_a_damaged_end_that_was_never_synced_is_cut(tmp_path: Path) -> None:
    refs = filled(tmp_path, sync=False)
    damage(tmp_path, refs[-1])
    journal = Journal.open(tmp_path)
    assert payloads_of(journal) == PAYLOADS[:-1]
    assert journal.torn_tail is not None
    assert journal.torn_tail.acknowledged == 0
    assert journal.torn_tail.reason == "a record payload that does not match its hash"


def test_damage_before_sound_records_names_file_and_offset(tmp_path: Path) -> None:
    refs = filled(tmp_path)
    damage(tmp_path, refs[2])
    with pytest.raises(DamageError) as caught:
        Journal.open(tmp_path)
    assert caught.value.file == str(tmp_path / refs[2].segment)
    assert caught.value.offset == refs[2].offset
    assert f"with sound records behind it (from offset {refs[3].offset})" in str(caught.value)
    (problem,) = verify_segment(tmp_path / refs[2].segment)
    assert problem.offset == refs[2].offset


def test_a_later_sync_proves_damage_without_the_note(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    first = journal.append(1, 1, b"one")
    journal.sync()
    journal.append(1, 1, b"two")
    journal.close()
    (tmp_path / MARK_NAME).unlink()
    damage(tmp_path, first)
    with pytest.raises(DamageError, match="sound records behind"):
        Journal.open(tmp_path)


def test_a_group_that_was_never_synced_may_reach_the_disk_in_any_order(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.append(1, 1, b"promised")
    journal.sync()
    lost = journal.append(1, 1, b"lost")
    journal.append(1, 1, b"survived, but behind a hole")
    journal.close()
    damage(tmp_path, lost)
    journal = Journal.open(tmp_path)
    assert payloads_of(journal) == [b"promised"]
    assert journal.torn_tail is not None and journal.torn_tail.acknowledged == 0


def test_a_missing_or_foreign_segment_is_reported(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "one", segment_bytes=100)
    refs = [journal.append(1, 1, bytes(50)) for _ in range(3)]
    journal.close()
    other = filled(tmp_path / "two", [b""])
    (tmp_path / "one" / refs[1].segment).rename(tmp_path / "kept")
    with pytest.raises(DamageError, match="records 2 to 2 before this segment are missing"):
        Journal.open(tmp_path / "one")
    (tmp_path / "two" / other[0].segment).rename(tmp_path / "one" / refs[1].segment)
    with pytest.raises(DamageError, match="another journal"):
        Journal.open(tmp_path / "one")


def test_a_torn_segment_that_others_follow_is_damage(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, segment_bytes=100)
    refs = [journal.append(1, 1, bytes(50)) for _ in range(3)]
    journal.close()
    path = tmp_path / refs[1].segment
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamageError):
        Journal.open(tmp_path)


def test_a_record_in_a_payload_is_no_record(tmp_path: Path) -> None:
    refs = filled(tmp_path / "one", [b"inner"])
    inner = (tmp_path / "one" / refs[0].segment).read_bytes()[SEGMENT_HEADER_BYTES:]
    refs = filled(tmp_path / "two", [b"12345678" * 8 + inner], sync=False)
    damage(tmp_path / "two", refs[0])
    journal = Journal.open(tmp_path / "two")
    assert payloads_of(journal) == []


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    refs = filled(tmp_path)
    path = tmp_path / refs[0].segment
    data = bytearray(path.read_bytes())
    data[8] = 9
    data[56:64] = checksum(bytes(data[:56])).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(UnsupportedFormatError, match="journal version 9"):
        Journal.open(tmp_path)


def test_a_failed_sync_poisons(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.append(1, 1, b"good")
    journal.sync()
    journal._files = files = FailingFiles(0, ("sync",))
    journal._file = files.open(tmp_path / "00000000000000000001.journal")
    journal.append(1, 1, b"doubtful")
    with pytest.raises(JournalFailedError, match="a sync failed"):
        journal.sync()
    for attempt in (journal.sync, lambda: journal.append(1, 1, b"no"), lambda: journal.drop_segments(1)):
        with pytest.raises(JournalFailedError):
            attempt()
    assert journal.synced_sequence == 1
    journal.close()
    assert payloads_of(Journal.open(tmp_path))[0] == b"good"


def test_a_failed_write_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    Journal.open(tmp_path).close()
    files = FailingFiles(steps=("write",))
    journal = Journal.open(tmp_path, files)
    files.fail_at = len(files.taken) + 2
    journal.append(1, 1, b"one")
    journal.append(1, 1, b"two")
    with pytest.raises(WriteError, match="injected"):
        journal.append(1, 1, b"three" * 50)
    journal.append(1, 1, b"four")
    journal.sync()
    journal.close()
    assert payloads_of(Journal.open(tmp_path)) == [b"one", b"two", b"four"]


def test_any_failing_step_of_a_rotation_loses_nothing(tmp_path: Path) -> None:
    for fail_at in range(40):
        directory = tmp_path / str(fail_at)
        files = FailingFiles(fail_at)
        promised: list[bytes] = []
        try:
            journal = Journal.open(directory, files, segment_bytes=200)
        except WriteError:
            continue
        for number in range(8):
            payload = bytes([number]) * 100
            try:
                journal.append(1, 1, payload)
                journal.sync()
                promised.append(payload)
            except JournalFailedError:
                break
            except WriteError:
                continue
        journal.close()
        found = payloads_of(Journal.open(directory, FILES))
        assert found[: len(promised)] == promised
        assert len(found) <= len(promised) + 1
        assert not list(directory.glob("*.tmp"))


def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    journal.close()
    journal.close()
    with pytest.raises(JournalFailedError, match="closed"):
        journal.append(1, 1, b"")


def test_appends_and_syncs_from_many_threads(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, segment_bytes=5_000)

    def insert(thread: int) -> None:
        for number in range(60):
            ref = journal.append(thread, number, bytes([thread, number]) * 20)
            journal.sync()
            assert journal.synced_sequence >= ref.sequence

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(insert, range(4)))
    journal.close()
    journal = Journal.open(tmp_path)
    entries = list(journal.records())
    assert [entry[0].sequence for entry in entries] == list(range(1, 241))
    for thread in range(4):
        assert [table_id for _, kind, table_id in entries if kind == thread] == list(range(60))
    assert all(bytes(journal.read(ref)) == bytes([kind, table_id]) * 20 for ref, kind, table_id in entries)
