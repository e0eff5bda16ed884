"""Random scripts through the formatter: stable under a second formatting, and with the same meaning."""

from __future__ import annotations

import pytest
from support.choices import Choices
from support.event_maker import COLUMNS
from support.script_maker import make_script
from support.show_tree import show

from openset.pyql.syntax.format_script import format_script
from openset.pyql.syntax.parse import parse_script

BRACES = [
    "x = { {{whole}}: {{half}} }\ntally(len(x))\n",
    "x = { {1, 2}, {{whole}}}\ntally(1)\n",
    "x = [{ {'a': 1}: { } }]\ntally(1)\n",
]


@pytest.mark.parametrize(
    "script", [*(make_script(Choices.seeded(f"format {number}")) for number in range(250)), *BRACES]
)
def test_formatted(script: str) -> None:
    formatted = format_script(script)
    assert format_script(formatted) == formatted
    assert show(parse_script(formatted, COLUMNS)) == show(parse_script(script, COLUMNS))
