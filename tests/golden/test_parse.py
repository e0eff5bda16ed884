"""What scripts parse to, and what wrong scripts are told."""

from __future__ import annotations

import pytest
from golden_runner import GoldenCase, golden_cases
from support.show_tree import show

from openset.errors import ParseError
from openset.pyql.syntax.parse import parse_script, parse_sections, parse_trigger
from openset_format.block import ColumnType

COLUMNS: dict[str, ColumnType] = {
    "product": "text", "kind": "text", "tags": "text", "price": "double", "units": "int", "gift": "bool",
}  # fmt: skip


def parse(case: GoldenCase) -> object:
    if case.options == "counts":
        return parse_sections(case.given, COLUMNS)
    if case.options == "trigger":
        return parse_trigger(case.given, COLUMNS)
    return parse_script(case.given, COLUMNS, segment=case.options == "segment")


@golden_cases("trees.txt")
def test_trees(case: GoldenCase, update: bool) -> None:
    case.check(show(parse(case)), update=update)


@golden_cases("errors.txt")
def test_errors(case: GoldenCase, update: bool) -> None:
    with pytest.raises(ParseError) as raised:
        parse(case)
    error = raised.value
    case.check(f"line {error.line}, column {error.column}: {error.message}\n{error.detail}", update=update)
