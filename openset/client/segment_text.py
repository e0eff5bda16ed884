"""Stored segments as text: a line per segment, its script below it.

Responsible for the form `openset segments` prints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"))


def segment_lines(segments: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Lines for the listing of segments: `{"name", "people", "age", "ttl", "refresh", "script", "error"?}` each."""
    for segment in segments:
        facts = [f"{segment['people']:,} people", f"computed {span(segment['age'])} ago"]
        facts.append("kept forever" if segment["ttl"] is None else f"ttl {span(segment['ttl'])}")
        if segment["refresh"] is not None:
            facts.append(f"refresh {span(segment['refresh'])}")
        yield f"{segment['name']}: {', '.join(facts)}"
        yield from (f"  {line}" for line in segment["script"].splitlines())
        if "error" in segment:
            yield f"  cannot be computed again: {segment['error']}"


def span(seconds: float) -> str:
    """A time in the largest unit that divides it, whole seconds else: `5m`, `90s`."""
    whole = round(seconds)
    for size, unit in _UNITS:
        if whole >= size and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s"
