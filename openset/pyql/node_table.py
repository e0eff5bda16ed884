"""Nodes of a result tree under construction: from key vectors to dense node numbers, over distinct keys only.

Numbers stay valid for all Blocks of a run. A node becomes part of the result when a tally that counts reaches it:
tallies of iterations that turn out never to have happened leave nothing behind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql.partial import ROOT, Key, Partial
from openset.pyql.texts import TextTable
from openset.pyql.vectors import (
    TEXT,
    Const,
    Positions,
    Value,
    Vec,
    factorise,
    first_of,
    scalars,
    unique_codes,
)

_LOOKUP_LIMIT = 1 << 22


class NodeTable:
    """parents[n], keys[n]: as in Partial, node 0 is the root."""

    def __init__(self) -> None:
        self.parents: list[int] = [-1]
        self.keys: list[Key | None] = [None]
        self._children: dict[tuple[object, ...], int] = {}
        # Per column dictionary (which does not grow): node by parent * size + code. The source is held so that its
        # identity stays its own.
        self._lookups: dict[int, tuple[Any, NDArray[np.int64]]] = {}
        self._partial_nodes = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self.parents)

    def _child(self, parent: int, key: Key) -> int:
        address: tuple[object, ...] = (parent, key, True) if isinstance(key, bool) else (parent, key)
        node = self._children.get(address)
        if node is None:
            node = len(self.parents)
            self._children[address] = node
            self.parents.append(parent)
            self.keys.append(key)
        elif isinstance(key, int) and isinstance(self.keys[node], float):
            self.keys[node] = key
        return node

    def children(self, parents: Positions | None, keys: Value, count: int, table: TextTable) -> Positions:
        """int64[count]: the node under each parent (None: all the root) for each key; -1 where either ends the path."""
        if isinstance(keys, Const):
            return self._constant_child(parents, keys, count)
        above = np.zeros(count, np.int64) if parents is None else parents
        going_on = keys.present()
        if parents is not None:
            going_on = going_on & (parents >= 0)
        if going_on.all():
            return self._of_all(above, keys, table)
        chosen = np.flatnonzero(going_on)
        result = np.full(count, -1, np.int64)
        if len(chosen):
            result[chosen] = self._of_all(above[chosen], keys.take(chosen), table)
        return result

    def _constant_child(self, parents: Positions | None, keys: Const, count: int) -> Positions:
        key = keys.value
        if key is None:
            return np.full(count, -1, np.int64)
        assert isinstance(key, bool | int | float | str)
        if parents is None:
            return np.full(count, self._child(ROOT, key), np.int64)
        mapping = np.full(len(self) + 1, -1, np.int64)  # the last entry serves parent -1
        for parent in np.unique(parents).tolist():
            if parent >= 0:
                mapping[parent] = self._child(parent, key)
        return mapping[parents]

    def _of_all(self, parents: Positions, keys: Vec, table: TextTable) -> Positions:
        """Children where every path goes on."""
        if keys.kind == TEXT and not isinstance(keys.table, TextTable):
            assert keys.table is not None
            if len(self) * len(keys.table) <= _LOOKUP_LIMIT:
                return self._by_text(parents, keys)
        codes, size = factorise(keys)
        distinct, inverse = unique_codes(parents * size + codes, size * len(self))
        examples = first_of(inverse, len(distinct))
        chosen_parents = parents[examples].tolist()
        chosen_keys = scalars(keys.take(examples), len(examples), table)
        nodes = np.fromiter(
            (self._child(parent, key) for parent, key in zip(chosen_parents, chosen_keys, strict=True)),  # type: ignore[arg-type]
            np.int64,
            len(distinct),
        )
        return nodes[inverse]

    def _by_text(self, parents: Positions, keys: Vec) -> Positions:
        """Text keys through a table that is kept between calls: one look-up per row once it is filled."""
        source = keys.table
        assert source is not None
        size = len(source)
        held = self._lookups.get(id(source))
        needed = len(self) * size
        if held is None or len(held[1]) < needed:
            lookup = np.full(min(2 * needed, _LOOKUP_LIMIT), -1, np.int64)
            if held is not None:
                lookup[: len(held[1])] = held[1]
            held = (source, lookup)
            self._lookups[id(source)] = held
        lookup = held[1]
        addresses = parents * size + keys.data
        nodes = lookup[addresses]
        missing = nodes < 0
        if missing.any():
            for address in np.unique(addresses[missing]).tolist():
                lookup[address] = self._child(address // size, source.text(address % size))
            nodes = lookup[addresses]
        return nodes

    def in_partial(self, nodes: Positions, partial: Partial) -> Positions:
        """The nodes of a Partial for some nodes of this table (with all above them), made where missing."""
        if len(self._partial_nodes) < len(self):
            grown = np.full(len(self), -1, np.int64)
            grown[: len(self._partial_nodes)] = self._partial_nodes
            self._partial_nodes = grown
        result = self._partial_nodes[nodes]
        for node in nodes[result < 0].tolist():
            self._publish(node, partial)
        return self._partial_nodes[nodes]

    def _publish(self, node: int, partial: Partial) -> int:
        held = int(self._partial_nodes[node])
        if held >= 0:
            return held
        key = self.keys[node]
        assert key is not None
        made = partial.child(self._publish(self.parents[node], partial), key)
        self._partial_nodes[node] = made
        return made
