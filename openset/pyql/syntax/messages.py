"""Words of error messages: quoting what the user wrote, and the nearest name to a misspelt one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MAX_QUOTED_CHARACTERS = 40


def quoted(text: str) -> str:
    """Text from a script as messages show it: in backquotes, shortened, control characters visible."""
    shown = text if len(text) <= _MAX_QUOTED_CHARACTERS else text[: _MAX_QUOTED_CHARACTERS - 1] + "…"
    if not shown.isprintable():
        shown = repr(shown)[1:-1]
    return f"`{shown}`"


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a misspelt name most likely means, or None where nothing is close."""
    if len(name) > 64:
        return None
    by_lower: dict[str, str] = {}
    for candidate in candidates:
        by_lower.setdefault(candidate.lower(), candidate)
    found = get_close_matches(name.lower(), sorted(by_lower), n=1, cutoff=0.65)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown name: the nearest candidate, or what else to do."""
    suggestion = nearest(name, candidates)
    return f"did you mean {quoted(suggestion)}?" if suggestion else otherwise


def listed(words: Iterable[str], last: str = "or") -> str:
    """`a, b or c`"""
    items = list(words)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def counted(number: int, noun: str) -> str:
    """`1 loop`, `2 loops`, `no loops`"""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
