"""Random scripts over random events: several nodes give the answer of one, whichever of them is asked."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.choices import Choices
from support.event_maker import COLUMNS, NOW_MS, Z_ORDER, Event, make_events, make_people
from support.expression_maker import PARAMETERS
from support.nodes import Nodes
from support.script_maker import make_script

from openset.query import frame

SCRIPTS = 25
# What takes one node longer is left out.
LONGEST_MS = 500
SLOW = "slow"
PREFIXES = {int: "int_", float: "dbl_", str: "str_", bool: "bool_"}


@pytest.fixture(autouse=True)
def fixed_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """One `now` for all queries; deadlines go by the real clock."""
    clock = SimpleNamespace(time_ns=lambda: NOW_MS * 1_000_000, monotonic=time.monotonic)
    monkeypatch.setattr(frame, "time", clock)


def made(directory: Path, events: list[Event], count: int, partitions: int) -> Nodes:
    nodes = Nodes.of(directory, count, partitions)
    nodes.create_table("t", list(COLUMNS.items()), Z_ORDER)
    nodes.insert("t", events)
    return nodes


def parameters_of(script: str) -> dict[str, str]:
    """The values of the placeholders that a script has."""
    used = {name: value for name, value in PARAMETERS.items() if f"{{{{{name}}}}}" in script}
    return {PREFIXES[type(value)] + name: str(value).lower() if value is True else str(value)
            for name, value in used.items()}  # fmt: skip


def plain(answer: Any) -> Any:
    """Of an error its class only: whose comes first is not fixed."""
    if "error" not in answer:
        return answer
    return SLOW if "time budget" in answer["error"]["message"] else answer["error"]["class"]


def answers(nodes: Nodes, requests: list[tuple[str, str, dict[str, str]]]) -> list[Any]:
    """What the nodes in turn answer."""

    async def all_answers() -> list[Any]:
        found = []
        for number, (path, script, parameters) in enumerate(requests):
            member = nodes.members["abcde"[number % len(nodes.members)]]
            answer = json.loads(await member.body("t", path, script, **parameters))
            found.append(plain(answer))
        return found

    return asyncio.run(all_answers())


@pytest.mark.parametrize("seed", range(4))
def test_random_scripts(seed: int) -> None:
    seeded = Choices.seeded(f"spread {seed}")
    people = make_people(seeded)
    events = make_events(seeded, people)
    requests: list[tuple[str, str, dict[str, str]]] = []
    for _ in range(SCRIPTS):
        script = make_script(seeded)
        requests.append(("events", script, {**parameters_of(script)}))
        requests.append(("histogram/h", script, {**parameters_of(script), "bucket": "2.5"}))
    for column in (*COLUMNS, "person", "action", "stamp", "session"):
        requests += [(f"column/{column}", "", given) for given in ({}, {"order": "asc", "trim": "3"}, {"bucket": "7"})]
    with tempfile.TemporaryDirectory() as directory:
        single, several = made(Path(directory) / "1", events, 1, 1), made(Path(directory) / "3", events, 3, 7)
        single.stand_alone()
        try:
            alone = answers(
                single, [(path, body, {**given, "timeout": str(LONGEST_MS)}) for path, body, given in requests]
            )
            quick = [number for number, answer in enumerate(alone) if answer != SLOW]
            asked = [requests[number] for number in quick]
            assert len(asked) > len(requests) / 2
            for number, request, together in zip(quick, asked, answers(several, asked), strict=True):
                assert alone[number] == together, request
            batch = [{"query": "events", "script": body, **given} for path, body, given in asked if path == "events"]
            whole = asyncio.run(several.members["b"].body("t", "batch", json.dumps(batch[:40])))
            wanted = [alone[number] for number in quick if requests[number][0] == "events"]
            assert [plain(answer) for answer in json.loads(whole)] == wanted
        finally:
            single.close()
            several.close()
