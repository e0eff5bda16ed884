"""Writers killed with SIGKILL at random moments: what was promised is there, and nothing half-written is seen."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from openset_format.journal import Journal
from openset_format.reader import PartitionFile
from openset_format.verify import verify_partition

APPEND_LOOP = """
import sys
from openset_format.journal import Journal
journal = Journal.open(sys.argv[1], segment_bytes=20_000)
while True:
    for _ in range(5):
        sequence = journal.last_sequence + 1
        journal.append(1, sequence % 7, sequence.to_bytes(8, "little") * (sequence % 50))
    journal.sync()
    print(journal.synced_sequence, flush=True)
"""

WRITE_LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from openset_format.writer import write_partition
from support.format_models import PEOPLE, content_of
generation = int(sys.argv[3])
while True:
    generation += 1
    write_partition(sys.argv[1], content_of(PEOPLE, generation=generation))
    print(generation, flush=True)
"""


def killed(script: str, *arguments: str) -> int:
    """Run a loop, kill it a moment after its first line; returns the number on the last line it wrote."""
    process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    assert process.wait() == -signal.SIGKILL
    complete = [line for line in (first + rest).splitlines(keepends=True) if line.endswith("\n")]
    return int(complete[-1])


def test_what_the_journal_promised_survives(tmp_path: Path) -> None:
    for _ in range(6):
        promised = killed(APPEND_LOOP, str(tmp_path))
        journal = Journal.open(tmp_path)
        assert journal.last_sequence >= promised
        assert journal.torn_tail is None or journal.torn_tail.acknowledged == 0
        entries = list(journal.records())
        assert [entry[0].sequence for entry in entries] == list(range(1, journal.last_sequence + 1))
        for ref, kind, table_id in entries:
            assert (kind, table_id) == (1, ref.sequence % 7)
            assert bytes(journal.read(ref)) == ref.sequence.to_bytes(8, "little") * (ref.sequence % 50)
        journal.close()


def test_a_partition_is_always_one_whole_generation(tmp_path: Path) -> None:
    path = tmp_path / "p0000.h5"
    tests = str(Path(__file__).parent.parent)
    generation = 0
    for _ in range(4):
        written = killed(WRITE_LOOP, str(path), tests, str(generation))
        assert verify_partition(path) == []
        generation = PartitionFile.open(path).generation
        assert generation >= written
