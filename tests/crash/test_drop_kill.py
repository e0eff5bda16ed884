"""A process that is killed while it drops tables: a table is there with all its events, or gone without a trace."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

from support import drop_writer
from support.store_model import read_snapshots

from openset.store.store import Store
from openset.store.views import ViewCache

ROUNDS = 8


def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(20170102)
    number = dropped = 0
    for _ in range(ROUNDS):
        said = _run_and_kill(tmp_path, number, after_s=chance.uniform(0.05, 0.4))
        store = Store.open(tmp_path)
        tables = {table.name: table.id for table in store.tables()}
        directories = {path.name for path in (tmp_path / "tables").glob("*")}
        assert directories <= {str(table_id) for table_id in tables.values()}
        assert len(read_snapshots(ViewCache(tmp_path), store.snapshot("other"))) == 1
        last_word, last_number = said[-1] if said else ("", -1)
        rounds = _rounds(store) if "t" in tables else []
        if last_word == "made" and "t" in tables:
            assert rounds == [last_number] * drop_writer.PEOPLE
        assert set(rounds) <= {last_number, last_number + 1}, "events of an earlier table"
        assert len(rounds) in (0, drop_writer.PEOPLE)
        if last_word == "dropped":
            assert last_number not in rounds
        store.close()
        dropped += sum(word == "dropped" for word, _ in said)
        number = max(number, last_number + 1) + 1
    assert dropped > 3


def _rounds(store: Store) -> list[int]:
    found = read_snapshots(ViewCache(store.data_dir), store.snapshot("t"))
    return [row["round"] for events in found.values() for _, _, rows in events for row in rows]


def _run_and_kill(data_dir: Path, number: int, after_s: float) -> list[tuple[str, int]]:
    """Lets the writer work for a while after its first word; returns what it said."""
    command = [sys.executable, drop_writer.__file__, str(data_dir), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        lines = [line for line in (first, *process.stdout.readlines()) if line.endswith("\n")]
    return [(word, int(said)) for word, said in (line.split() for line in lines)]
