"""From a merged Partial to the JSON result tree: ordering, trimming, and the bytes of the answer.

Works down the tree without recursion, a Python step per node of the answer (never per row or person).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from openset.errors import QueryError, RunTimeError
from openset.pyql import tree
from openset.pyql.partial import ROOT, Partial
from openset.pyql.states import Value, order_key
from openset.query.parameters import suggestion

KEY_NAMES = ("g", "key")


@dataclass(frozen=True, slots=True)
class Order:
    """How siblings stand: by one aggregator (its index) or, with None, by key; and how many of them are kept."""

    aggregator: int | None = 0
    ascending: bool = False
    trim: int | None = None


def sort_index(aggregators: Sequence[tree.Aggregator], name: str | None) -> int | None:
    """The aggregator that `sort=` names: by alias, else by column; None for the key. Raises QueryError."""
    if name is None:
        return 0
    for index, aggregator in enumerate(aggregators):
        if aggregator.alias == name:
            return index
    for index, aggregator in enumerate(aggregators):
        if aggregator.column is not None and aggregator.column.name == name:
            return index
    if name in KEY_NAMES:
        return None
    names = [aggregator.alias for aggregator in aggregators]
    known = [*names, *(aggregator.column.name for aggregator in aggregators if aggregator.column), "key"]
    raise QueryError(f"sort={name}: the result has no such aggregator, it has {', '.join(names)}"
                     f"{suggestion(name, known)}")  # fmt: skip


def result_tree(partial: Partial, order: Order) -> dict[str, Any]:
    """`{"_": [{"g": key, "c": [aggregates], "_": [...]}, ...]}`, siblings in order."""
    below = partial.children()
    top: dict[str, Any] = {"_": []}
    pending: list[tuple[int, dict[str, Any]]] = [(ROOT, top)]
    while pending:
        node, entry = pending.pop()
        siblings: list[dict[str, Any]] = []
        for child, values in _ordered(partial, below[node], order):
            shown: dict[str, Any] = {"g": partial.keys[child], "c": values}
            siblings.append(shown)
            if below[child]:
                pending.append((child, shown))
        entry["_"] = siblings
    return top


def encode(answer: dict[str, Any]) -> bytes:
    """The answer as JSON. Raises RunTimeError for a tree that is nested too deeply to be written."""
    try:
        return msgspec.json.encode(answer)
    except RecursionError as error:
        raise RunTimeError("the result tree is nested too deeply: tally with fewer keys") from error


def _ordered(partial: Partial, nodes: list[int], order: Order) -> list[tuple[int, list[Value | None]]]:
    """The nodes with their values: by value, then key ascending; None last either way; cut to `trim`."""
    entries = [(node, partial.values(node)) for node in nodes]
    descending = not order.ascending
    if order.aggregator is None:
        entries.sort(key=lambda entry: order_key(partial.keys[entry[0]]), reverse=descending)
        return entries[: order.trim]
    index = order.aggregator
    entries.sort(key=lambda entry: order_key(partial.keys[entry[0]]))
    present = [entry for entry in entries if entry[1][index] is not None]
    missing = [entry for entry in entries if entry[1][index] is None]
    present.sort(key=lambda entry: order_key(entry[1][index]), reverse=descending)
    return [*present, *missing][: order.trim]
