"""Every failure the fuzzer ever found: the interpreter and the engine give the answer that was decided on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.choices import Choices
from support.comparing import compare, oracle_answer, parsed, show, under
from support.event_maker import cut, whole
from support.found_cases import DIRECTORY, people_of, read_found
from support.small_limits import small_limits

CASES = sorted(DIRECTORY.glob("*.txt"))


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_found(path: Path, update: bool) -> None:
    case = read_found(path)
    people = people_of(case.events)
    with under(case.conditions):
        shown = show(oracle_answer(parsed(case.script), [whole(case.events, people)]))
        if update:
            path.write_text(replace(case, expected=shown).text())
        else:
            assert shown == case.expected
        cuts = [cut(Choices.seeded(seed), case.events, people) for seed in range(8)]
        assert compare(case.script, case.events, people, cuts) is None
        with small_limits():
            assert compare(case.script, case.events, people, []) is None
