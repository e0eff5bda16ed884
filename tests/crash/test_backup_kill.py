"""Backups, prunes and restores that are killed beside a store that goes on: what is listed can be restored."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

from support.tool_cases import event, insert

from openset.store.store import Store
from openset_tools.backups.lists import CONTENTS_DIRECTORY, content_path, listed
from openset_tools.backups.places import LocalPlace
from openset_tools.backups.prune import prune
from openset_tools.backups.restore import restore
from openset_tools.verify import verify

ROUNDS = 6
PEOPLE = 2_000
_RUN = "import sys; from openset.cli import main; main(sys.argv[1:])"


def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(20261127)
    data, target = tmp_path / "data", tmp_path / "backups"
    store = Store.open(data)
    store.initialise(4)
    store.create_table("t", [("n", "int"), ("text", "text")])
    _more(store, 0)
    whole_s = _whole_run("backup", data, target)
    place, killed = LocalPlace(target), 0
    runs: list[tuple[object, ...]] = [
        ("backup", data, target),
        ("backup", "--prune", "--keep", 2, target),
        ("restore", target, tmp_path / "new"),
    ]
    for number in range(1, ROUNDS + 1):
        _more(store, number)
        arguments = runs[number % len(runs)]
        killed += _run_and_kill(*arguments, after_s=chance.uniform(0.5, 1.0) * whole_s)
        found = listed(place)
        assert found.backups and found.damaged == {}
        there = place.sizes(CONTENTS_DIRECTORY)
        for one in found.backups:
            assert all(there.get(content_path(file.content)) == file.size_bytes for file in one.files)
        if (tmp_path / "new").exists():
            assert verify(tmp_path / "new") == []
            (tmp_path / "new").rename(tmp_path / f"new-{number}")
    assert killed
    store.close()
    made = json.loads(_run("backup", data, target, "--json"))
    restore(place, tmp_path / "last", made["id"])
    assert verify(tmp_path / "last", deep=True) == []
    restored = Store.open(tmp_path / "last")
    assert sum(partition.base_rows for partition in restored._partitions.values()) == PEOPLE * (ROUNDS + 1)
    restored.close()
    prune(place, keep=1)
    restore(place, tmp_path / "kept")


def _more(store: Store, number: int) -> None:
    insert(store, "t", [event(f"p{person}", number, "view", n=person, text=f"{person}") for person in range(PEOPLE)])
    store.compact_all()


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", _RUN, *map(str, arguments)]


def _run(*arguments: object) -> str:
    return subprocess.run(_command(*arguments), capture_output=True, text=True, timeout=60, check=True).stdout


def _whole_run(*arguments: object) -> float:
    started = time.monotonic()
    _run(*arguments)
    return time.monotonic() - started


def _run_and_kill(*arguments: object, after_s: float) -> bool:
    """Whether it had not ended before."""
    with subprocess.Popen(_command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
        assert process.returncode == 0, process.stderr.read() if process.stderr is not None else ""
        return False
