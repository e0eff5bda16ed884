"""The formatter: canonical text, stable under a second formatting, with the same meaning."""

from __future__ import annotations

import pytest
from golden_runner import GOLDEN, GoldenCase, golden_cases, read_golden
from support.show_tree import show

from openset.errors import ParseError
from openset.pyql.syntax.format_script import MAX_LINE_CHARACTERS, format_script
from openset.pyql.syntax.parse import parse_script, parse_sections
from openset_format.block import ColumnType

COLUMNS: dict[str, ColumnType] = {
    "product": "text", "kind": "text", "tags": "text", "price": "double", "units": "int", "gift": "bool",
}  # fmt: skip
SCRIPTS = [
    pytest.param(case.given, case.name.startswith("segment"), id=f"{name}: {case.name}")
    for name in ("trees.txt", "format.txt", "conformance/pyql.txt")
    for case in read_golden(GOLDEN / name)
    if not case.name.startswith("error")
]


@golden_cases("format.txt")
def test_format(case: GoldenCase, update: bool) -> None:
    case.check(format_script(case.given), update=update)


@pytest.mark.parametrize(("script", "segment"), SCRIPTS)
def test_formatting_is_stable_and_keeps_the_meaning(script: str, segment: bool) -> None:
    def meaning(text: str) -> str:
        if "@segment" in text:
            return show(parse_sections(text, COLUMNS))
        return show(parse_script(text, COLUMNS, segment=segment))

    formatted = format_script(script)
    assert format_script(formatted) == formatted
    assert meaning(formatted) == meaning(script)
    assert formatted.count("#") == script.count("#")
    assert all(len(line) <= MAX_LINE_CHARACTERS + 60 for line in formatted.split("\n"))


def test_wrong_scripts_are_refused() -> None:
    with pytest.raises(ParseError, match="colon is missing"):
        format_script("match\n    tally(1)")
