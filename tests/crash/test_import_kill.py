"""An import that is killed: the directory is as it was, or the import is complete; a further one goes through."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support import store_model as model

from openset.store.store import Store
from openset.store.views import ViewCache
from openset_tools.verify import verify

ROUNDS = 8
EVENTS = 30_000


def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(20261126)
    data = tmp_path / "data"
    store = model.new_store(data, 4)
    model.insert(store, [_event(0, -1)])
    store.close()
    whole_s = _whole_run(tmp_path)
    round_there, complete = -1, 0
    for number in range(ROUNDS):
        source = _write(tmp_path, number)
        killed = _run_and_kill(data, source, after_s=chance.uniform(0.3, 1.0) * whole_s)
        store = Store.open(data)
        found = model.read_snapshots(ViewCache(data), store.snapshot("t"))
        store.close()
        rounds = {row["units"] for events in found.values() for _, _, rows in events for row in rows}
        if rounds == {number}:
            round_there, complete = number, complete + 1
        assert rounds == {round_there}, "an import by half"
        assert len(found) == (1 if round_there < 0 else EVENTS)
        assert killed or round_there == number
        left = [path.name for path in data.rglob("*") if path.name.endswith((".next", ".tmp"))]
        assert left == []
    last = _write(tmp_path, ROUNDS)
    result = subprocess.run(_command(data, last), capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(result.stdout)["accepted"] == EVENTS
    assert verify(data, deep=True) == []


def _event(person: int, number: int) -> dict[str, Any]:
    return {"person": person, "stamp": 10**12, "action": "view", "attr": {"units": number, "colour": "red"}}


def _write(place: Path, number: int) -> Path:
    path = place / "events.ndjson"
    path.write_text("".join(json.dumps(_event(person, number)) + "\n" for person in range(EVENTS)))
    return path


def _command(data: Path, source: Path) -> list[str]:
    return [sys.executable, "-m", "openset.cli", "import", str(data), "t", str(source), "--json"]


def _whole_run(place: Path) -> float:
    other = place / "other"
    model.new_store(other, 4).close()
    started = time.monotonic()
    subprocess.run(_command(other, _write(place, 0)), capture_output=True, timeout=60, check=True)
    return time.monotonic() - started


def _run_and_kill(data: Path, source: Path, after_s: float) -> bool:
    """Whether it had to be killed; returns when its workers have ended, too."""
    with subprocess.Popen(_command(data, source), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        time.sleep(after_s)
        workers = _children(process.pid)
        killed = process.poll() is None
        process.kill()
    deadline = time.monotonic() + 10
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the import"
        time.sleep(0.02)
    return killed


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
