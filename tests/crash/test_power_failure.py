"""Power failures at every step: journal, partition files and catalog hold what was promised, as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.format_models import PEOPLE, content_of
from support.power_failure import UNSYNCED, Promises, after_failure, moments
from support.simulated_disk import Fault, SimulatedDisk

from openset.store.catalog import Catalog
from openset.store.placing import finish_placing, place
from openset_format.errors import FormatError, JournalFailedError, WriteError
from openset_format.journal import Journal
from openset_format.reader import PartitionFile
from openset_format.verify import verify_partition
from openset_format.writer import write_partition

SEGMENT_BYTES = 1_500


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    (tmp_path / "live").mkdir()
    return SimulatedDisk((tmp_path / "live").resolve())


def payload(sequence: int) -> bytes:
    return sequence.to_bytes(4, "little") * (5 * sequence % 300)


class JournalRun:
    """Appends groups of records and tells what was promised when."""

    def __init__(self, disk: SimulatedDisk):
        self.disk = disk
        self.journal = Journal.open(disk.root / "journal", disk, SEGMENT_BYTES)
        disk.sync_directory(disk.root)
        # (moment, last record promised), (moment, first record that is needed)
        self.promised = [(disk.position, 0)]
        self.needed = [(disk.position, 1)]

    def append(self, records: int) -> None:
        for _ in range(records):
            self.journal.append(1, 7, payload(self.journal.last_sequence + 1))
        self.journal.sync()
        self.promised.append((self.disk.position, self.journal.synced_sequence))

    def drop(self, up_to: int) -> None:
        self.needed.append((self.disk.position, up_to + 1))
        self.journal.drop_segments(up_to)

    def check(self, position: int, name: str) -> None:
        """What a power failure leaves is a journal with everything promised, on which one can go on."""
        promised = max((last for at, last in self.promised if at <= position), default=0)
        needed = max(first for at, first in self.needed if at <= position or first == 1)
        with after_failure(self.disk, position, name) as root:
            journal = Journal.open(root / "journal", UNSYNCED, SEGMENT_BYTES)
            assert journal.torn_tail is None or not journal.torn_tail.acknowledged
            assert journal.first_sequence <= needed and journal.last_sequence >= promised, (position, name)
            for ref, kind, table_id in journal.records():
                assert (kind, table_id) == (1, 7)
                assert bytes(journal.read(ref)) == payload(ref.sequence), (position, name)
            journal.append(1, 7, payload(journal.last_sequence + 1))
            journal.sync()
            journal.close()


def test_journal_after_a_power_failure_at_every_step(disk: SimulatedDisk) -> None:
    run = JournalRun(disk)
    first = disk.position
    for records in (1, 3, 2, 1, 4, 2):
        run.append(records)
    run.drop(6)
    run.append(3)
    for position, name in moments(disk, seeds=6, first=first):
        run.check(position, name)


@pytest.mark.parametrize("kind", ["sync", "write", "truncate", "create", "rename", "sync_directory", "unlink"])
def test_journal_on_a_disk_that_fails_once(tmp_path: Path, kind: str) -> None:
    """At every step of a kind: what was promised is there after a power failure; a failed sync is never made good."""
    skip = 0
    while True:
        (tmp_path / str(skip)).mkdir()
        disk = SimulatedDisk(tmp_path / str(skip))
        run = JournalRun(disk)
        first = disk.position
        # Cutting off half a record is tried only when a write has failed.
        fault = Fault("write" if kind == "truncate" else kind, skip=skip)
        disk.faults = [fault, Fault("truncate")]
        failed = False
        for records in (1, 3, 2, 1, 4, 2, 3):
            try:
                run.append(records)
                assert not failed, "a failed sync, or half a record that stays, is final"
                run.drop(run.journal.last_sequence - 2)
            except WriteError as error:
                failed = failed or isinstance(error, JournalFailedError)
        disk.faults = []
        run.journal.close()
        for position, name in moments(disk, seeds=1, first=max(first, disk.position - 12)):
            run.check(position, name)
        _go_on_after_a_restart(run)
        if fault.times:
            break
        skip += 1
    assert skip, "nothing failed"


def _go_on_after_a_restart(run: JournalRun) -> None:
    """A new process reads what is in the page cache; what it then promises must be on the disk."""
    first = run.disk.position
    run.journal = Journal.open(run.disk.root / "journal", run.disk, SEGMENT_BYTES)
    run.promised.append((run.disk.position, run.journal.last_sequence))
    run.append(2)
    run.journal.close()
    for position, name in moments(run.disk, seeds=1, first=first):
        run.check(position, name)


def test_partition_file_after_a_power_failure_at_every_step(disk: SimulatedDisk) -> None:
    path = disk.root / "p0000.h5"
    promises = Promises([0])
    for generation in (1, 2):
        promises.begin(disk, generation)
        write_partition(path, content_of(PEOPLE, generation=generation), disk)
        promises.acknowledge(disk)
    for position, name in moments(disk, seeds=1):
        with after_failure(disk, position, name) as root:
            found = root / path.name
            if found.exists():
                assert not verify_partition(found), (position, name)
            generation = PartitionFile.open(found).generation if found.exists() else 0
            assert generation in promises.allowed(position), (position, name)


def test_partition_file_on_a_disk_that_fails_or_is_full(tmp_path: Path) -> None:
    """Whatever step fails, the file before stays, and nothing is published that was not written and synced."""
    (tmp_path / "probe").mkdir()
    probe = SimulatedDisk(tmp_path / "probe")
    write_partition(probe.root / "p.h5", content_of(PEOPLE), probe)
    size = (probe.root / "p.h5").stat().st_size
    steps = [step for step, kind in enumerate(probe.kinds) if kind != "write" or step % 5 == 0]
    cases: list[tuple[list[Fault], float]] = [([Fault(skip=step)], float("inf")) for step in steps]
    cases += [([], capacity) for capacity in range(size, 2 * size, size // 15)]
    for number, (faults, capacity) in enumerate(cases):
        root = tmp_path / str(number)
        root.mkdir()
        disk = SimulatedDisk(root)
        write_partition(root / "p.h5", content_of(PEOPLE, generation=1), disk)
        before = disk.position
        rest = probe.kinds[faults[0].skip + 1 :] if faults else ["rename"]
        disk.faults, disk.capacity_bytes = faults, capacity
        with pytest.raises(WriteError):
            write_partition(root / "p.h5", content_of(PEOPLE, generation=2), disk)
        assert [path.name for path in root.iterdir() if path.suffix == ".h5"] == ["p.h5"]
        for position, name in moments(disk, seeds=0, first=max(before, disk.position - 1)):
            with after_failure(disk, position, name) as found:
                assert not verify_partition(found / "p.h5"), (number, position, name)
                generation = PartitionFile.open(found / "p.h5").generation
                assert generation == 1 or (generation == 2 and "rename" not in rest), (number, position, name)


def test_catalog_after_a_power_failure_at_every_step(disk: SimulatedDisk) -> None:
    promises: Promises[object] = Promises([(None, [])])

    def change(catalog: Catalog, name: str, *arguments: object) -> None:
        draft = Catalog(disk.root, is_draft=True)
        getattr(draft, name)(*arguments)
        promises.begin(disk, (draft.partitions, draft.tables()))
        getattr(catalog, name)(*arguments)
        promises.acknowledge(disk)

    catalog = Catalog(disk.root, disk)
    change(catalog, "initialise", 4, "node")
    change(catalog, "create_table", "t", [("a", "int")], (), ())
    change(catalog, "add_column", "t", "b", "text", ())
    change(catalog, "drop_column", "t", "a")
    change(catalog, "create_table", "u", [], (), ())
    change(catalog, "set_retention", "u", 3.5)
    change(catalog, "drop_table", "t")
    for position, name in moments(disk, seeds=4):
        with after_failure(disk, position, name) as root:
            found = Catalog(root)
            assert (found.partitions, found.tables()) in promises.allowed(position), (position, name)


def test_placing_after_a_power_failure_at_every_step(disk: SimulatedDisk) -> None:
    """Files of an import are in place all together or not at all, once the next start has finished what was begun."""
    renames = {Path(f"{name}.next"): Path("t") / f"{name}.h5" for name in ("a", "b", "c")}
    disk.make_directory(disk.root / "t")
    for generation, folder in ((b"old", Path("t")), (b"new", Path())):
        for source, target in renames.items():
            path = disk.root / (target if folder.name else source)
            with disk.create(path) as file:
                file.write_at([generation], 0)
                file.sync()
        disk.sync_directory(disk.root / folder)
    disk.sync_directory(disk.root)
    first = disk.position
    place(disk.root, renames, disk)
    for position, name in moments(disk, seeds=20, first=first):
        with after_failure(disk, position, name) as root:
            finish_placing(root, UNSYNCED)
            found = {(root / target).read_bytes() for target in renames.values()}
            assert found in ({b"old"}, {b"new"}), (position, name)
            assert found == {b"new"} or position < disk.position


def test_every_damaged_byte_of_a_journal_is_reported_or_an_end_nobody_was_promised(tmp_path: Path) -> None:
    """No record is ever skipped or changed: what is read is a prefix, and less than was promised is an error."""
    journal = Journal.open(tmp_path / "journal", UNSYNCED)
    for sequence in range(1, 8):
        journal.append(1, 7, payload(sequence))
        journal.sync()
    journal.close()
    segment = next((tmp_path / "journal").glob("*.journal"))
    data = segment.read_bytes()
    refs = [ref for ref, _, _ in Journal.open(tmp_path / "journal", UNSYNCED).records()]
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << offset % 8
        segment.write_bytes(damaged)
        with pytest.raises(FormatError) as caught:
            Journal.open(tmp_path / "journal", UNSYNCED)
        record = next((ref for ref in reversed(refs) if ref.offset <= offset), None)
        assert str(segment) in str(caught.value)
        if record is not None:
            assert f"offset {record.offset}" in str(caught.value), offset
