"""Every example of the language reference gives the answer it shows, by the interpreter and by the engine."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.reference import COLUMNS, Z_ORDER, Example, reference_events, reference_examples, trigger_examples
from support.trees import parse_tree, rounded
from support_blocks import block_of

from openset.pyql import names
from openset.pyql.interpreter.interpreter import interpret, trigger_people
from openset.pyql.lanes import engine
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.partial import Partial
from openset.pyql.settings import ParameterValue, RunSettings
from openset.pyql.syntax.parse import parse_script, parse_trigger
from openset.pyql.tree import Script
from openset.query.result import Order, result_tree, sort_index
from openset_format.block import Column

EXAMPLES = reference_examples()
NOW_MS = 1_720_000_000_000
_KINDS: dict[str, Any] = {"str": str, "int": int, "dbl": float, "bool": bool}


@pytest.mark.parametrize("runs", ["interpreter", "engine"])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: f"line {example.line}")
def test_an_example_of_the_reference_gives_the_answer_it_shows(example: Example, runs: str) -> None:
    script = parse_script(example.script, COLUMNS)
    block = block_of(reference_events(), COLUMNS, Z_ORDER)
    settings = RunSettings(now_ms=NOW_MS, parameters=script_values(example))
    if runs == "interpreter":
        partial = Partial(script.aggregators)
        interpret(script, block, settings, partial)
    else:
        partial = engine.run(engine.compile_plan(script), [block], settings)
    answer = result_tree(partial, order_of(script, example))["_"]
    assert answer, "an example of the reference shows an answer"
    assert rounded(answer) == rounded(parse_tree(example.expected))


@pytest.mark.parametrize("runs", ["interpreter", "engine"])
@pytest.mark.parametrize("example", trigger_examples(), ids=lambda example: f"line {example.line}")
def test_a_trigger_of_the_reference_does_what_it_shows(example: Example, runs: str) -> None:
    script = parse_trigger(example.script, COLUMNS)
    block = block_of(reference_events(), COLUMNS, Z_ORDER)
    new = Column("bool", np.ones(block.rows, np.uint8))
    block = replace(block, columns={**block.columns, names.IS_NEW: new})
    settings = RunSettings(now_ms=NOW_MS)
    if runs == "interpreter":
        actions = trigger_people(script, names.ON_INSERT, block, settings, block.runnable.tolist())
    else:
        actions = trigger_actions(engine.compile_plan(script), block, settings)
    lines = []
    for person in block.runnable.tolist():
        deeds = [f"schedule {each.function} {each.span_ms}" for each in actions.schedulings if each.person == person]
        deeds += [f"emit {each.name} {json.dumps(each.value)}" for each in actions.emissions if each.person == person]
        lines.append(f"{block.person_id(person)}: {', '.join(deeds)}\n")
    assert not actions.failures
    assert "".join(lines) == example.expected


@pytest.mark.parametrize("name", [*names.TRIGGER_CALLS, names.ON_INSERT, names.IS_NEW])
def test_every_word_of_triggers_has_an_example(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", example.script) for example in trigger_examples())


@pytest.mark.parametrize(
    "name",
    [*names.FUNCTIONS, *names.FUNCTION_SYNONYMS, *names.MOVES, *names.STATEMENT_CALLS, *names.METHODS,
     *names.AGGREGATORS, *names.INLINE_AGGREGATIONS],
)  # fmt: skip
def test_every_name_has_an_example(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", example.script) for example in EXAMPLES)


def script_values(example: Example) -> dict[str, ParameterValue]:
    """The values of an example's placeholders."""
    values: dict[str, ParameterValue] = {}
    for given, text in example.parameters.items():
        kind, _, name = given.partition("_")
        if kind in _KINDS:
            values[name] = _KINDS[kind](text)
    return values


def order_of(script: Script, example: Example) -> Order:
    """How an example asks for its answer to be ordered and cut."""
    options = example.parameters
    trim = int(options["trim"]) if "trim" in options else None
    return Order(sort_index(script.aggregators, options.get("sort", script.sort)), options.get("order") == "asc", trim)
