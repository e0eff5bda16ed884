"""The answer of a query before it is written in one of the formats a client may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class QueryAnswer:
    """body: what is written as JSON.

    aggregates: where the body is a result tree, the names of the columns its `c` (`c2`, …) become in a flat table:
    aggregators by alias, for each compared segment. None where the body is no tree.
    """

    body: dict[str, Any]
    aggregates: tuple[str, ...] | None = None


def aggregate_names(aliases: list[str], segments: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The columns of a flat table: the aliases, or `alias@segment` for each of several segments."""
    if len(segments) < 2:
        return tuple(aliases)
    return tuple(f"{alias}@{segment}" for segment in segments for alias in aliases)
