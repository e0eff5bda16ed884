"""What a trigger does for people: what it emits, schedules and cancels."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import (
    CONTAINERS,
    DictValue,
    SetValue,
    Value,
    check_depth,
    elements_of,
    value_of,
)
from openset.pyql.meaning.text import to_text
from openset.pyql.settings import MOST_SPAN_MS

MOST_VALUE_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Emission:
    """emit(name[, value]). person: the position in the Block. value: what JSON has; a set is a list."""

    person: int
    name: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class Scheduling:
    """schedule(span_ms, function), or, without a span, cancel(function)."""

    person: int
    function: str
    span_ms: int | None


@dataclass(slots=True)
class Actions:
    """What happened to the people of a Block, people ascending; schedulings in the order of each person's script.

    failures: people for whom the script failed, with the reason; nothing happened to them.  log: lines of log().
    """

    emissions: list[Emission] = field(default_factory=list)
    schedulings: list[Scheduling] = field(default_factory=list)
    failures: list[tuple[int, RunTimeError]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def checked_name(name: Any) -> str:
    """The name of an emission. Raises RunTimeError for what is none."""
    if not isinstance(name, str) or not name:
        raise RunTimeError("emit(…) needs the name of what happened, a text that is not empty")
    return name


def checked_span(span: Any) -> int:
    """The span of a schedule in ms. Raises RunTimeError for what is none."""
    if isinstance(span, float) and span.is_integer():
        span = int(span)
    if isinstance(span, bool) or not isinstance(span, int) or not 0 <= span <= MOST_SPAN_MS:
        raise RunTimeError("schedule(…) needs a span in milliseconds, from 0 to 100 years")
    return span


def checked_value(value: Value) -> Any:
    """The value of an emission, as `plain`.

    Raises RunTimeError for containers of more than 64 KB as JSON, or nested too deeply.
    """
    if not isinstance(value, CONTAINERS):
        return value
    # An element takes two bytes at least; a list may hold one list many times over, so elements are counted first.
    if _elements(value, MOST_VALUE_BYTES // 2, 1) < 0:
        raise _too_large()
    made = plain(value)
    text = json.dumps(made, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode("utf-8", "surrogatepass")) > MOST_VALUE_BYTES:
        raise _too_large()
    return made


def _elements(value: Value, left: int, depth: int) -> int:
    """How many elements may still come after those of a value; below 0 when there are too many.

    Raises RunTimeError for containers that are nested too deeply.
    """
    if not isinstance(value, CONTAINERS):
        return left
    check_depth(depth)
    left -= len(value) if isinstance(value, list) else len(value.entries)
    inner = value if isinstance(value, list) else value.entries.values() if isinstance(value, DictValue) else ()
    for held in inner:
        if left < 0:
            break
        left = _elements(held, left, depth + 1)
    return left


def _too_large() -> RunTimeError:
    return RunTimeError(f"the value of emit(…) takes more than {MOST_VALUE_BYTES:,} bytes as JSON")


def plain(value: Value) -> Any:
    """A value as JSON has it: a set is a list, the keys of a dict are texts."""
    if isinstance(value, DictValue):
        return {to_text(value_of(key)): plain(held) for key, held in value.entries.items()}
    if isinstance(value, list | SetValue):
        return [plain(held) for held in elements_of(value)]
    return value
