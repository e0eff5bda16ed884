"""Daemons with different numbers of workers and partitions, filled by requests of different sizes, give one answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.choices import Choices
from support.comparing import Skipped, oracle_answer, parsed
from support.daemon import Daemon
from support.event_maker import COLUMNS, Z_ORDER, make_events, make_people, whole
from support.expression_maker import PARAMETERS
from support.found_cases import people_of
from support.script_maker import make_script

SCRIPTS = 60
# Workers, partitions, events of a request.
DAEMONS = ((1, 1, 1_000), (2, 5, 3), (3, 16, 11))
_PREFIXES = {bool: "bool", int: "int", float: "dbl", str: "str"}


@pytest.fixture(scope="module")
def scripts_and_daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[str], list[Daemon]]]:
    """Scripts that are not too heavy and do not ask what time it is, and daemons that hold the same events."""
    choices = Choices.seeded("daemons")
    events = [event for _ in range(4) for event in make_events(choices, make_people(choices))]
    block = whole(events, people_of(events))
    scripts: list[str] = []
    while len(scripts) < SCRIPTS:
        text = make_script(choices)
        if "now" in text:
            continue
        try:
            oracle_answer(parsed(text), [block])
        except Skipped:
            continue
        scripts.append(text)
    with ExitStack() as stack:
        daemons = []
        for workers, partitions, batch in DAEMONS:
            directory: Path = tmp_path_factory.mktemp("daemon") / "data"
            daemon = stack.enter_context(Daemon(directory, init=partitions, workers=workers))
            daemon.create("t", dict(COLUMNS), list(Z_ORDER))
            for first in range(0, len(events), batch):
                daemon.insert("t", events[first : first + batch])
            daemons.append(daemon)
        yield scripts, daemons


def test_daemons_answer_alike(scripts_and_daemons: tuple[list[str], list[Daemon]]) -> None:
    scripts, daemons = scripts_and_daemons
    answered = 0
    for text in scripts:
        parameters = {
            f"{_PREFIXES[type(PARAMETERS[name])]}_{name}": str(PARAMETERS[name]).lower()
            for name in parsed(text).parameters
        }
        answers = [daemon.request("POST", "/v1/query/t/events", text, **parameters) for daemon in daemons]
        assert len({answer.status for answer in answers}) == 1, text
        if answers[0].status == 200:
            first, *others = (answer.json for answer in answers)
            assert all(rounded(other) == rounded(first) for other in others), text
            answered += 1
        else:
            assert {answer.error["class"] for answer in answers} == {"run_time"}, text
    assert answered > SCRIPTS // 2


def rounded(tree: Any) -> Any:
    """A result with doubles of 9 digits, siblings in their order."""
    if isinstance(tree, float):
        return float(f"{tree:.9g}")
    if isinstance(tree, dict):
        return {name: rounded(value) for name, value in tree.items()}
    return [rounded(value) for value in tree] if isinstance(tree, list) else tree
