"""The examples of spec/pyql.md: the events they are over, the scripts, the answers they show."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from openset_format.block import ColumnType

PROJECT = Path(__file__).parents[2]
REFERENCE = PROJECT / "spec" / "pyql.md"
COLUMNS: dict[str, ColumnType] = {
    "product": "text",
    "kind": "text",
    "price": "double",
    "units": "int",
    "gift": "bool",
    "link": "text",
}
Z_ORDER = ("view", "cart", "purchase")
_FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<content>.*?)^```$", re.DOTALL | re.MULTILINE)


_TRIGGER = "pyql trigger"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page: the words after the fence, the content, the line it starts on."""

    info: str
    content: str
    line: int


@dataclass(frozen=True)
class Example:
    """A script of the reference with the parameters of its request and the tree it gives."""

    line: int
    script: str
    parameters: dict[str, str]
    expected: str


def fenced_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["info"].strip(), found["content"], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


@cache
def reference_events() -> list[dict[str, Any]]:
    """The example events of the reference."""
    (block,) = [block for block in fenced_blocks(REFERENCE) if block.info == "json events"]
    events: list[dict[str, Any]] = json.loads(block.content)
    return events


def reference_examples() -> list[Example]:
    """Every example of the reference that is a query."""
    examples = []
    for block in fenced_blocks(REFERENCE):
        if block.info.split(" ")[0] == "pyql" and block.info != _TRIGGER:
            parameters = dict(parse_qsl(block.info.removeprefix("pyql").strip(), keep_blank_values=True))
            examples.append(_example(block, parameters))
    return examples


def trigger_examples() -> list[Example]:
    """The triggers of the reference; `expected` is what they do for everybody when all rows are new."""
    return [_example(block, {}) for block in fenced_blocks(REFERENCE) if block.info == _TRIGGER]


def _example(block: Block, parameters: dict[str, str]) -> Example:
    script, _, expected = block.content.partition("\n---\n")
    return Example(block.line, script + "\n", parameters, expected)
