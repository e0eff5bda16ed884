"""Random scripts about facts: whom the people index rules out, the script does nothing for; whom it takes in belongs.

The index is a look through all rows here; that the real one knows the same is tested with the store.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from pyroaring import BitMap
from support.choices import Choices
from support.comparing import Skipped, difference, oracle_answer, parsed, settings, show
from support.event_maker import COLUMNS, make_events, make_people, whole
from support.expression_maker import PARAMETERS, Features
from support.script_maker import ScriptMaker

from openset.pyql.lanes.engine import compile_plan, outcomes
from openset.pyql.syntax.parse import parse_script
from openset.query.index_only import candidates, membership
from openset.store.views import PartitionView
from openset_format.block import Block

FEATURES = Features(parameters=True, text=True, inline=True)


class RowsView:
    """What `people_with` of a partition's view says, by a look at every row."""

    def __init__(self, block: Block):
        self._block = block

    def people_with(self, name: str, value: object) -> BitMap | None:
        column = self._block.columns.get(name)
        if column is None:
            return BitMap()
        expected = {"text": str, "int": int, "bool": bool}.get(column.type)
        if type(value) is not expected:
            return None
        rows = [row for row in range(self._block.rows) if column.value(row) == value]
        return BitMap(self._block.person_of_row[rows].tolist())


def view_of(block: Block) -> PartitionView:
    return cast(PartitionView, RowsView(block))


@pytest.mark.parametrize("batch", range(3))
def test_whoever_is_left_out_changes_nothing(batch: int) -> None:
    asked = 0
    for number in range(450):
        choices = Choices.seeded(f"candidates {batch}/{number}")
        script = parsed(ScriptMaker(choices, replace(FEATURES, mistakes=choices.chance(20))).inside_matches())
        people = make_people(choices)
        block = whole(make_events(choices, people), people)
        allowed = candidates(script)
        known = None if allowed is None else allowed.people(view_of(block), PARAMETERS)
        if known is None:
            continue
        asked += 1
        include = np.zeros(block.people, np.bool_)
        include[list(known)] = True
        try:
            everyone = oracle_answer(script, [block])
            few = oracle_answer(script, [replace(block, include=include)])
        except Skipped:
            continue
        counts = {"people": few.people, "rows": few.rows, "events": few.events}
        found = difference(replace(everyone, **cast(Any, counts)), few)
        assert found is None, f"{found}\n{script.text}\n{show(everyone)}"
    assert asked > 25


@pytest.mark.parametrize("batch", range(2))
def test_whoever_is_taken_in_belongs(batch: int) -> None:
    asked = 0
    for number in range(200):
        choices = Choices.seeded(f"membership {batch}/{number}")
        maker = ScriptMaker(choices, FEATURES)
        lines = []
        for _ in range(choices.integer(1, 2)):
            facts = [maker.expressions.column_test() for _ in range(choices.integer(1, 2))]
            lines.append(f"match {choices.pick(('', '2 '))}where {' or '.join(facts)}:")
            lines.append(f"    {choices.pick(('tally', 'tally(kind)', 'return True', 'return 1', 'return 0', 'exit'))}")
            lines += choices.pick(([], ["    break"], ["    exit"]))
        script = parse_script("\n".join(lines) + "\n", COLUMNS, segment=True)
        fact = membership(script)
        people = make_people(choices)
        block = whole(make_events(choices, people), people)
        members = None if fact is None else fact.people(view_of(block), PARAMETERS)
        if members is None:
            continue
        asked += 1
        found = outcomes(compile_plan(script), block, settings())
        assert sorted(members) == found.people[found.member].tolist(), script.text
    assert asked > 10
