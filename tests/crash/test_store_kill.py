"""A store whose process is killed while it commits and compacts has every acknowledged request, each as a whole."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from support import store_writer

from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.reader import PartitionFile

ROUNDS = 8
# On a busy machine it takes more rounds until compaction has been part of it.
MOST_ROUNDS = 40


def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(20170101)
    acknowledged: list[int] = []
    generations: set[int] = set()
    for round_number in range(MOST_ROUNDS):
        acknowledged += _run_and_kill(tmp_path, after_s=chance.uniform(0.05, 0.6))
        store = Store.open(tmp_path)
        found = store_writer.counts(store, ViewCache(tmp_path))
        assert set(found.values()) == {store_writer.PEOPLE}, "a request is there by half"
        assert set(acknowledged) <= set(found), "an acknowledged request is lost"
        assert len(acknowledged) == len(set(acknowledged))
        # At most the one request that was under way may be there without having been acknowledged.
        assert len(found) <= len(acknowledged) + round_number + 1
        leftovers = [path.name for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".next", ".old")]
        assert not leftovers
        generations |= {PartitionFile.open(path).generation for path in (tmp_path / "tables").rglob("*.h5")}
        store.close()
        if round_number + 1 >= ROUNDS and max(generations, default=0) > 3:
            break
    assert acknowledged
    assert max(generations) > 3, "compaction was part of it"


def _run_and_kill(data_dir: Path, after_s: float) -> list[int]:
    """Lets the writer work for a while after its first acknowledgement; returns what it acknowledged."""
    command = [sys.executable, store_writer.__file__, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        lines = [first, *process.stdout.readlines()]
    problems = [line for line in lines if not line.strip().isdigit() and line.endswith("\n")]
    assert not problems, problems
    return [int(line) for line in lines if line.endswith("\n")]
