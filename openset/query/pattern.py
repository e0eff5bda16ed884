"""Regular expressions in ECMAScript's syntax, searched for in texts without a pattern being able to hang a worker.

A pattern is translated into what RE2 understands, whose time grows with the length of the text only. Look-around and
references back to groups are beyond RE2: patterns with them run in a backtracking engine under a time limit. Case
matters, `^` and `$` stand for the ends of the value; of the flags there is `(?i:…)`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import re2

from openset.errors import QueryError, RunTimeError
from openset.query.pattern_syntax import PatternError, Translation, translate

# What a backtracking pattern may take for one value.
TEXT_TIMEOUT_SECONDS = 1.0
RE2_MEMORY_BYTES = 32 << 20
LENGTH_LIMIT = 10_000

Search = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that is known to be valid; it crosses to workers as its text."""

    source: str

    @classmethod
    def parse(cls, source: str) -> Pattern:
        """Raises QueryError for what is no pattern, with the place where it stops being one."""
        if len(source) > LENGTH_LIMIT:
            raise QueryError(f"rx= has more than {LENGTH_LIMIT:,} characters")
        try:
            _search(source)
        except PatternError as error:
            place = f"{source}\n{' ' * error.offset}^"
            raise QueryError(f"rx= is no regular expression: {error.reason}", detail=place) from None
        return cls(source)

    def found_in(self, text: str, deadline: float | None) -> bool:
        """Whether it matches anywhere in a text. deadline: time.monotonic() seconds. Raises RunTimeError."""
        if deadline is not None and time.monotonic() > deadline:
            raise RunTimeError("the query ran longer than its time budget (timeout=) while rx= was searched for")
        return _search(self.source)(text)


@lru_cache(maxsize=64)
def _search(source: str) -> Search:
    """Raises PatternError."""
    translation = translate(source)
    linear = None if translation.backtracks else _linear(translation)
    return linear or _backtracking(translation)


def _linear(translation: Translation) -> Search | None:
    """RE2; None where the pattern takes more memory or repeats more often than it allows."""
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = RE2_MEMORY_BYTES
    try:
        compiled = re2.compile(translation.linear, options)
    except re2.error:
        return None
    return lambda text: compiled.search(text) is not None


def _backtracking(translation: Translation) -> Search:
    import regex  # here, because few patterns need it and every start of the daemon would wait for it

    try:
        compiled: Any = regex.compile(translation.backtracking, regex.V0 | regex.ASCII)
    except (regex.error, OverflowError, RecursionError) as error:
        raise PatternError(f"it cannot be compiled ({error})", 0) from error

    def search(text: str) -> bool:
        try:
            return cast(Any, compiled.search(text, timeout=TEXT_TIMEOUT_SECONDS)) is not None
        except TimeoutError as error:
            raise RunTimeError(
                f"rx= needs more than its time budget of {TEXT_TIMEOUT_SECONDS:g} s for one value: "
                "repetitions inside repetitions make it try too much"
            ) from error

    return search
