"""The worked cases, answered by the scalar interpreter in this process, without a store or a daemon."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.trees import Case, parse_tree, read_cases, rounded
from support_blocks import block_of

from openset.errors import ParseError
from openset.pyql.interpreter.interpreter import evaluate_people, interpret
from openset.pyql.meaning.values import is_true
from openset.pyql.partial import Partial
from openset.pyql.settings import ParameterValue, RunSettings
from openset.pyql.syntax.parse import parse_script, parse_sections
from openset.query.result import Order, result_tree, sort_index
from openset_format.block import Block, ColumnType

DIRECTORY = Path(__file__).parent / "conformance"
CASES = list(read_cases(DIRECTORY / "pyql.txt"))
NOW_MS = 1_718_000_000_000


def load() -> tuple[dict[str, ColumnType], Block]:
    content = json.loads((DIRECTORY / "events.json").read_text())
    columns = {column["name"]: column["type"] for column in content["table"]["columns"]}
    return columns, block_of(content["events"], columns, content["table"]["z-order"])


COLUMNS, BLOCK = load()


def of_kind(kind: str) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in CASES if case.kind == kind]


def settings_of(parameters: dict[str, str]) -> RunSettings:
    values: dict[str, ParameterValue] = {}
    for name, text in parameters.items():
        if name.startswith("str_"):
            values[name[4:]] = text
        elif name.startswith("int_"):
            values[name[4:]] = int(text)
    return RunSettings(now_ms=NOW_MS, parameters=values)


def answer(case: Case) -> list[dict[str, Any]]:
    script = parse_script(case.script, COLUMNS)
    partial = Partial(script.aggregators)
    interpret(script, BLOCK, settings_of(case.parameters), partial)
    trim = case.parameters.get("trim")
    order = Order(
        sort_index(script.aggregators, case.parameters.get("sort", script.sort)),
        case.parameters.get("order") == "asc",
        None if trim is None else int(trim),
    )
    siblings: list[dict[str, Any]] = result_tree(partial, order)["_"]
    return siblings


@pytest.mark.parametrize("case", of_kind("events"))
def test_events(case: Case) -> None:
    assert rounded(answer(case)) == rounded(parse_tree(case.expected))


@pytest.mark.parametrize("case", of_kind("counts"))
def test_counts(case: Case) -> None:
    members: dict[str, set[int]] = {}
    everyone = set(BLOCK.runnable.tolist())
    for section in parse_sections(case.script, COLUMNS):
        if section.script is not None:
            outcomes = evaluate_people(section.script, BLOCK, settings_of(case.parameters))
            members[section.name] = {
                person for person, outcome in outcomes if outcome.tallied or is_true(outcome.returned)
            }
        else:
            assert section.algebra is not None
            operands = [members[name] for name in section.algebra.operands if isinstance(name, str)]
            complement = section.algebra.operation == "complement"
            members[section.name] = everyone - operands[0] if complement else operands[0] - operands[1]
    assert [{"g": name, "c": [len(people)]} for name, people in members.items()] == parse_tree(case.expected)


@pytest.mark.parametrize("case", of_kind("histogram"))
def test_histogram(case: Case) -> None:
    width = int(case.parameters["bucket"])
    script = parse_script(case.script, COLUMNS)
    outcomes = evaluate_people(script, BLOCK, settings_of({}))
    numbers = [outcome.returned for _, outcome in outcomes if isinstance(outcome.returned, (int, float))]
    buckets = Counter(math.floor(number / width) * width for number in numbers)
    (root,) = parse_tree(case.expected)
    assert root["c"] == [len(numbers)]
    assert {node["g"]: node["c"][0] for node in root["_"]} == {node["g"]: buckets[node["g"]] for node in root["_"]}


@pytest.mark.parametrize("case", of_kind("error"))
def test_errors_have_a_place(case: Case) -> None:
    with pytest.raises(ParseError) as raised:
        parse_script(case.script, COLUMNS)
    assert f"line {raised.value.line}" in case.expected
