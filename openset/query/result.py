"""From a merged Partial to the JSON result tree: ordering, trimming, and the bytes of the answer.

Works down the tree without recursion, a Python step per node of the answer (never per row or person).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openset.errors import QueryError, RunTimeError
from openset.pyql import tree
from openset.pyql.partial import ROOT, Partial
from openset.pyql.states import Value, order_key
from openset.suggestion import suggestion

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
    return compared_tree([partial], order)


def compared_tree(partials: Sequence[Partial], order: Order) -> dict[str, Any]:
    """The tree of several segments: `c` has the aggregates of the first, `c2` of the second, and so on.

    Every node of any of them is there; its place among its siblings is by the first segment. The partials are filled up
    with each other's nodes.
    """
    first = partials[0]
    others = _aligned(partials)
    below = first.children()
    top: dict[str, Any] = {"_": []}
    pending: list[tuple[int, dict[str, Any]]] = [(ROOT, top)]
    while pending:
        node, entry = pending.pop()
        siblings: list[dict[str, Any]] = []
        for child in _ordered(first, below[node], order):
            shown: dict[str, Any] = {"g": first.keys[child], "c": first.values(child)}
            for name, partial, places in others:
                shown[name] = partial.values(places[child])
            siblings.append(shown)
            if below[child]:
                pending.append((child, shown))
        entry["_"] = siblings
    return top


def _aligned(partials: Sequence[Partial]) -> list[tuple[str, Partial, list[int]]]:
    """Per further partial its name (`c2`, …), itself, and its node for each node of the first."""
    first = partials[0]
    for other in partials[1:]:
        _nodes_in(first, other)
    return [(f"c{number}", other, _nodes_in(other, first)) for number, other in enumerate(partials[1:], 2)]


def _nodes_in(target: Partial, source: Partial) -> list[int]:
    """For each node of `source` the one of the same keys in `target`, made where it is missing."""
    nodes = [ROOT] * len(source)
    for node in range(1, len(source)):
        key = source.keys[node]
        assert key is not None
        nodes[node] = target.child(nodes[source.parents[node]], key)
    return nodes


def leaf_tree(name: str, totals: NDArray[np.int64], keys: Sequence[Value], counts: NDArray[np.int64]) -> dict[str, Any]:
    """A tree of one root and leaves below it, in the order they are given, with one aggregate.

    totals: int64[segments], of the root. counts: int64[segments, keys].
    """
    names = ["c", *(f"c{number}" for number in range(2, len(totals) + 1))]
    leaves: list[dict[str, Any]] = [{"g": key} for key in keys]
    root: dict[str, Any] = {"g": name}
    for aggregates, total, row in zip(names, totals.tolist(), counts.tolist(), strict=True):
        root[aggregates] = [total]
        for leaf, count in zip(leaves, row, strict=True):
            leaf[aggregates] = [count]
    root["_"] = leaves
    return {"_": [root]}


def encode(answer: Any) -> bytes:
    """The answer as JSON. Raises RunTimeError for a tree that is nested too deeply to be written."""
    try:
        return msgspec.json.encode(answer)
    except RecursionError as error:
        raise RunTimeError("the result tree is nested too deeply: tally with fewer keys") from error


def _ordered(partial: Partial, nodes: list[int], order: Order) -> list[int]:
    """The nodes by value, then key ascending; None last either way; cut to `trim`."""
    descending = not order.ascending
    if order.aggregator is None:
        return _sorted(nodes, [partial.keys[node] for node in nodes], descending)[: order.trim]
    state = partial.states[order.aggregator]
    nodes = _sorted(nodes, [partial.keys[node] for node in nodes], False)
    values = [state.value(node) for node in nodes]
    missing = [node for node, value in zip(nodes, values, strict=True) if value is None]
    if missing:
        nodes = [node for node, value in zip(nodes, values, strict=True) if value is not None]
        values = [value for value in values if value is not None]
    return [*_sorted(nodes, values, descending), *missing][: order.trim]


def _sorted(nodes: list[int], by: Sequence[Value | None], descending: bool) -> list[int]:
    """The nodes in the order of their values; those of equal values stay as they stand."""
    kinds = set(map(type, by))
    # Values of kinds that compare among themselves need no wrapping, which is most of the time of a long sort.
    ranks: Sequence[Any] = by if kinds <= {int, float} or len(kinds) == 1 else [order_key(value) for value in by]
    positions = sorted(range(len(nodes)), key=ranks.__getitem__, reverse=descending)
    return [nodes[position] for position in positions]
