"""Nodes of a result tree under construction: from key vectors to dense node numbers, over distinct keys only.

Numbers stay valid for all Blocks of a run. A node becomes part of the result when a tally that counts reaches it:
tallies of iterations that turn out never to have happened leave nothing behind.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql.lanes.texts import TextSource, TextTable
from openset.pyql.lanes.vectors import (
    TEXT,
    Const,
    Positions,
    Value,
    Vec,
    distinct_values,
    factorise,
    first_of,
    scalars,
    unique_codes,
)
from openset.pyql.partial import ROOT, Key, Partial, shown_key

# A look-up table has at most so many entries (parents times texts).
_LOOKUP_LIMIT = 1 << 22


class _TextLookup:
    """Nodes by (parent, code of one dictionary). Parents get slots when they are first seen with the dictionary.

    nodes: int64[slots * size], -1 where not known.
    """

    def __init__(self, source: TextSource):
        self.source = source
        self.size = len(source)
        self.nodes = np.zeros(0, np.int64)
        self._slots = np.full(1, -1, np.int64)
        self._parents: list[int] = []

    def addresses(self, parents: Positions, codes: NDArray[Any], known_nodes: int) -> Positions | None:
        """Where in `nodes` the child of each parent for each code stands; None where there are too many parents."""
        if len(self._slots) < known_nodes:
            self._slots = np.append(self._slots, np.full(2 * known_nodes - len(self._slots), -1, np.int64))
        slots: Positions = self._slots[parents]
        missing = slots < 0
        if missing.any():
            new = distinct_values(parents[missing]).tolist()
            if (len(self._parents) + len(new)) * self.size > _LOOKUP_LIMIT:
                return None
            for parent in new:
                self._slots[parent] = len(self._parents)
                self._parents.append(parent)
            slots = self._slots[parents]
            short = len(self._parents) * self.size - len(self.nodes)
            if short > 0:
                self.nodes = np.append(self.nodes, np.full(short + len(self.nodes), -1, np.int64))
        addresses: Positions = slots * self.size + codes
        return addresses

    def parent_of(self, addresses: Positions) -> Positions:
        """The parent whose slot an address is in."""
        return np.asarray(self._parents, np.int64)[addresses // self.size]


class NodeTable:
    """parents[n], keys[n]: as in Partial, node 0 is the root."""

    def __init__(self) -> None:
        self.parents: list[int] = [-1]
        self.keys: list[Key | None] = [None]
        self._children: dict[tuple[object, ...], int] = {}
        # By identity of the column dictionary, which the look-up holds so that the identity stays its own.
        self._lookups: dict[int, _TextLookup] = {}

    def __len__(self) -> int:
        return len(self.parents)

    def _child(self, parent: int, key: Key) -> int:
        key = shown_key(key)
        address: tuple[object, ...] = (parent, key, True) if isinstance(key, bool) else (parent, key)
        node = self._children.get(address)
        if node is None:
            node = len(self.parents)
            self._children[address] = node
            self.parents.append(parent)
            self.keys.append(key)
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
        seen = np.zeros(len(mapping), np.bool_)
        seen[parents] = True
        for parent in np.flatnonzero(seen[:-1]).tolist():
            mapping[parent] = self._child(parent, key)
        return mapping[parents]

    def _of_all(self, parents: Positions, keys: Vec, table: TextTable) -> Positions:
        """Children where every path goes on."""
        if keys.kind == TEXT and not isinstance(keys.table, TextTable):
            assert keys.table is not None
            nodes = self._by_text(parents, keys)
            if nodes is not None:
                return nodes
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

    def _by_text(self, parents: Positions, keys: Vec) -> Positions | None:
        """Text keys through a table that is kept between calls: two look-ups per row once it is filled.

        None where the table would become too large.
        """
        source = keys.table
        assert source is not None
        held = self._lookups.get(id(source))
        if held is None:
            held = self._lookups[id(source)] = _TextLookup(source)
        addresses = held.addresses(parents, keys.data, len(self))
        if addresses is None:
            return None
        nodes = held.nodes[addresses]
        missing = nodes < 0
        if missing.any():
            new = distinct_values(addresses[missing])
            above = held.parent_of(new).tolist()
            texts = [source.text(code) for code in (new % len(source)).tolist()]
            held.nodes[new] = [self._child(parent, text) for parent, text in zip(above, texts, strict=True)]
            nodes = held.nodes[addresses]
        return nodes


class PublishedNodes:
    """The nodes of a NodeTable that are in a Partial."""

    def __init__(self, table: NodeTable, partial: Partial):
        self._table = table
        self._partial = partial
        self._nodes = np.zeros(1, np.int64)

    def of(self, nodes: Positions) -> Positions:
        """The nodes of the Partial for nodes of the table, ascending, with all above them; made where missing."""
        if len(self._nodes) < len(self._table):
            grown = np.full(len(self._table), -1, np.int64)
            grown[: len(self._nodes)] = self._nodes
            self._nodes = grown
        new = nodes[self._nodes[nodes] < 0]
        partial = self._partial
        if partial.indexed:  # the interpreter may have made some of them
            for node in new.tolist():
                self._publish(node)
        elif len(new):
            first = partial.extend(len(new))
            self._nodes[new] = np.arange(first, first + len(new))
            chosen = new.tolist()
            above = np.fromiter((self._table.parents[node] for node in chosen), np.int64, len(chosen))
            partial.parents[first:] = self._nodes[above].tolist()
            partial.keys[first:] = [self._table.keys[node] for node in chosen]
        return self._nodes[nodes]

    def _publish(self, node: int) -> int:
        held = int(self._nodes[node])
        if held >= 0:
            return held
        key = self._table.keys[node]
        assert key is not None
        made = self._partial.child(self._publish(self._table.parents[node]), key)
        self._nodes[node] = made
        return made
