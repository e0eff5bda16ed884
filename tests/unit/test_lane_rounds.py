"""How many rounds a match takes: what needs no order is run at once, however uneven people are."""

from __future__ import annotations

import pytest
from support_blocks import block_of

from openset.pyql.lanes import matching
from openset.pyql.lanes.engine import compile_plan, run
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script


def test_one_person_of_many_events_costs_the_others_no_round(monkeypatch: pytest.MonkeyPatch) -> None:
    people = 300
    rounds = 0
    expand = matching.expand

    def counted(*arguments: object) -> object:
        nonlocal rounds
        rounds += 1
        return expand(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(matching, "expand", counted)
    monkeypatch.setattr(matching, "PIECE_LANES", 4 * people)
    often = [{"person": "often", "stamp": 1_700_000_000 + n, "action": "a"} for n in range(2 * people)]
    once = [{"person": f"p{n}", "stamp": 1_700_000_000, "action": "a"} for n in range(people)]
    plan = compile_plan(parse_script("agg:\n    count stamp as events\n    people\nmatch:\n    tally('all')\n", {}))
    partial = run(plan, [block_of([*often, *once], {})], RunSettings(now_ms=0))
    assert partial.rows == 3 * people
    assert rounds == 1


def test_a_person_of_very_many_events_is_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    expand = matching.expand

    def noted(low: object, take: object) -> object:
        found = expand(low, take)  # type: ignore[arg-type]
        sizes.append(len(found[0]))
        return found

    monkeypatch.setattr(matching, "expand", noted)
    monkeypatch.setattr(matching, "PIECE_LANES", 100)
    often = [{"person": "often", "stamp": 1_700_000_000 + n, "action": "a"} for n in range(350)]
    once = [{"person": f"p{n}", "stamp": 1_700_000_000, "action": "a"} for n in range(150)]
    plan = compile_plan(parse_script("agg:\n    count stamp\nmatch:\n    tally('all')\n", {}))
    assert run(plan, [block_of([*often, *once], {})], RunSettings(now_ms=0)).rows == 500
    assert sum(sizes) == 500 and max(sizes) <= 100
