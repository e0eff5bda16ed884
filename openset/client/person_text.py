"""A person's events as text: a line per event, its attributes below it, groups indented.

Responsible for the form `openset person` prints.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from openset.client.tree_table import readable_key

_INDENT = "  "


def person_lines(answer: dict[str, Any]) -> Iterator[str]:
    """Lines for a person query's answer: `{"person": id, "events": [{"stamp_iso", "action", "attr"}, ...]}`."""
    events = answer["events"]
    yield f"{readable_key(answer['person'])}: {len(events):,} event{'' if len(events) == 1 else 's'}"
    for event in events:
        yield f"{event['stamp_iso']}  {readable_key(event['action'])}"
        yield from _group_lines(event.get("attr", {}), 1)


def _group_lines(group: dict[str, Any], depth: int) -> Iterator[str]:
    flat = {name: value for name, value in group.items() if name != "_"}
    if flat:
        yield _INDENT * depth + ", ".join(f"{name}: {_value(value)}" for name, value in flat.items())
    for inner in group.get("_", ()):
        lines = list(_group_lines(inner, depth + 1))
        if lines:
            yield _INDENT * depth + "- " + lines[0].lstrip()
            yield from lines[1:]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_value(element) for element in value)}]"
    return "none" if value is None else readable_key(value)
