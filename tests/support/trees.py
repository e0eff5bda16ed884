"""The worked cases of tests/golden/conformance, and result trees in their notation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """A case: `kind` is events, counts, histogram, compare or error."""

    name: str
    kind: str
    parameters: dict[str, str]
    script: str
    expected: str


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of a file, in order."""
    for section in ("\n" + path.read_text()).split("\n=== ")[1:]:
        title, _, rest = section.partition("\n")
        script, _, expected = rest.partition("\n---\n")
        name, _, query = title.partition("?")
        parameters = dict(part.split("=", 1) for part in query.strip().split("&")) if query else {}
        kind = name.split()[0].rstrip(":") if name.split()[0].rstrip(":") in _KINDS else "events"
        yield Case(name.strip(), kind, parameters, script + "\n", expected.strip("\n"))


_KINDS = ("counts", "histogram", "compare", "error")


def parse_tree(text: str) -> list[dict[str, Any]]:
    """The tree of a case as the interface gives it: lists of {"g", "c", "_"}."""
    top: list[dict[str, Any]] = []
    levels = [top]
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        key, _, values = line.strip().partition("  c=")
        first, *further = re.split(r" c\d+=", values)
        node: dict[str, Any] = {"g": json.loads(key), "c": json.loads(first)}
        node |= {f"c{number}": json.loads(other) for number, other in enumerate(further, 2)}
        if depth:
            levels[depth:] = [levels[depth - 1][-1].setdefault("_", [])]
        levels[depth].append(node)
    return top


def rounded(siblings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tree with doubles cut to six decimals, in the types that tell bool from number from text."""
    shown = []
    for node in siblings:
        entry: dict[str, Any] = {"g": _plain(node["g"])}
        entry |= {name: [_plain(value) for value in node[name]] for name in node if name not in ("g", "_")}
        if node.get("_"):
            entry["_"] = rounded(node["_"])
        shown.append(entry)
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, bool):
        return ("bool", value)
    return round(float(value), 6) if isinstance(value, (int, float)) else value
