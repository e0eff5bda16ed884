"""The text of a section, which is stored: without its header and indentation, and good for another request."""

from __future__ import annotations

import pytest

from openset.pyql.syntax.parse import parse_sections

PLAIN = "a = 1\nmatch where product is 'x':\n    if a:\n        tally"


@pytest.mark.parametrize(
    "request_text",
    [
        f"@segment s:\n{PLAIN}\n",
        "@segment s ttl=3s:\n" + "".join(f"    {line}\n" for line in PLAIN.splitlines()),
        "@segment s:\n\n" + "".join(f"\t{line}\n\n" for line in PLAIN.splitlines()) + "@segment t:\n    tally\n",
        f"@segment s: a = 1\n{PLAIN.partition(chr(10))[2]}\n",
        "  @segment s:\r\n" + "".join(f"      {line}\r\n" for line in PLAIN.splitlines()),
    ],
)
def test_a_section_can_be_sent_again(request_text: str) -> None:
    section = parse_sections(request_text, {"product": "text"})[0]
    lines = [line.rstrip() for line in section.text.splitlines() if line.strip()]
    assert "\n".join(lines) == PLAIN
    again = parse_sections(f"@segment s:\n{section.text}\n", {"product": "text"})[0]
    assert again.text == section.text


def test_comments_at_the_margin_do_no_harm() -> None:
    section = parse_sections("@segment s:\n    a = 1\n# why\n    return a\n", {})[0]
    again = parse_sections(f"@segment s:\n{section.text}\n", {})[0]
    assert again.script is not None
    assert len(again.script.body) == 2


def test_set_algebra_has_a_text_too() -> None:
    section = parse_sections("@segment s: union(a, b)\n", {})[0]
    assert section.text == "union(a, b)"
