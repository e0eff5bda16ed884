"""A daemon over an imported directory answers exactly as one that got the same events over HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.choices import Choices
from support.daemon import Daemon
from support.event_maker import COLUMNS, PEOPLE, Z_ORDER, make_events

SCRIPTS = [
    "agg:\n    people\n    sum amount\n    max price\n    count kind\nmatch:\n    tally(action, label)\n",
    "agg:\n    people\nmatch where kind is 'red':\n    match where action is 'buy':\n        tally(flag)\n",
]


def test_answers_are_the_same(tmp_path: Path) -> None:
    choices = Choices.seeded(20261126)
    events = [event for _ in range(12) for event in make_events(choices, PEOPLE)]
    half = len(events) // 2
    inserted = Daemon(tmp_path / "inserted", init=3)
    imported = Daemon(tmp_path / "imported", init=3)
    for daemon in (inserted, imported):
        daemon.create("t", dict(COLUMNS), list(Z_ORDER))
        daemon.insert("t", events[:half])
    inserted.insert("t", events[half:])
    assert imported.stop() == 0
    _import(imported.data, events[half:], tmp_path)
    with inserted, Daemon(imported.data) as imported:
        assert _answers(imported) == _answers(inserted)


def _import(data: Path, events: list[dict[str, Any]], place: Path) -> None:
    files = []
    for number, part in enumerate((events[: len(events) // 3], events[len(events) // 3 :])):
        files.append(place / f"{number}.ndjson")
        files[-1].write_text("".join(json.dumps(event) + "\n" for event in part))
    subprocess.run(
        [sys.executable, "-m", "openset.cli", "import", str(data), "t", *map(str, files)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip


def _answers(daemon: Daemon) -> list[Any]:
    found = [daemon.events("t", script) for script in SCRIPTS]
    found += [daemon.request("GET", f"/v1/query/t/column/{column}").json for column in COLUMNS]
    for person in PEOPLE:
        key = "id" if isinstance(person, int) else "sid"
        found.append(daemon.request("GET", "/v1/query/t/person", **{key: str(person)}).json)
    assert "error" not in str(found)
    return found
