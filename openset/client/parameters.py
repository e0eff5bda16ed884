"""Script parameters from the command line: `--param n=5` becomes the query parameter `int_n=5`.

Responsible for reading the kind of a value off its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from openset.errors import QueryError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_INT = re.compile(r"[+-]?[0-9]+\Z")
_DOUBLE = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?\Z")
_BOOLS = frozenset(("true", "false"))


def query_parameters(guessed: Iterable[str], text: Iterable[str]) -> dict[str, str]:
    """Query parameters for `name=value` texts.

    `guessed` values are int, double, true or false where they read as one, else text; `text` values are text whatever
    they read as. Raises QueryError for one that is not name=value and for a name given twice.
    """
    result: dict[str, str] = {}
    names: set[str] = set()
    for assignment, kind in [*((one, None) for one in guessed), *((one, "str") for one in text)]:
        name, equals, value = assignment.partition("=")
        if not equals or not _NAME.match(name):
            raise QueryError(f"a parameter is written name=value, not {assignment!r}")
        if name in names:
            raise QueryError(f"the parameter {name} is given twice")
        names.add(name)
        result[f"{kind or _kind(value)}_{name}"] = value.lower() if kind is None and _kind(value) == "bool" else value
    return result


def _kind(value: str) -> str:
    if value.lower() in _BOOLS:
        return "bool"
    if _INT.match(value):
        return "int"
    return "dbl" if _DOUBLE.match(value) else "str"
