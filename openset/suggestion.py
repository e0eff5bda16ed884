"""Which known name somebody may have meant, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# What is longer is no misspelling, and comparing takes the square of its length.
_LONGEST = 100


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or nothing when no known name is like it."""
    if len(name) > _LONGEST:
        return ""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""
