"""The result tree of a run: nodes by (parent, key), and per aggregator one state with an entry per node.

Partials of disjoint sets of people merge in any grouping to the same result. Node 0 is the root, which is never
counted; its children are the first keys of tallies.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openset.pyql import tree
from openset.pyql.settings import LOG_LIMIT_LINES
from openset.pyql.states import NodeIds, State, Value, new_state

Key = Value
ROOT = 0
_INT64_EDGE = float(1 << 63)


def shown_key(key: Key) -> Key:
    """A key as results show it: a whole double is the int it equals."""
    if isinstance(key, float) and key.is_integer() and -_INT64_EDGE <= key < _INT64_EDGE:
        return int(key)
    return key


class Partial:
    """A mergeable result tree.

    parents[n]: the node above n (-1 for the root).  keys[n]: the key of n.  states[i]: of aggregator i, by node.
    log: lines of log(), bounded.  people: how many people the script ran for.  rows: how many rows those have.
    """

    def __init__(self, aggregators: Sequence[tree.Aggregator]):
        self.parents: list[int] = [-1]
        self.keys: list[Key | None] = [None]
        self.states: list[State] = [new_state(aggregator) for aggregator in aggregators]
        self.log: list[str] = []
        self.people = 0
        self.rows = 0
        self.events = 0
        self._capacity = 1
        self._children: dict[tuple[object, ...], int] | None = None

    def __len__(self) -> int:
        """How many nodes, the root counted."""
        return len(self.parents)

    def child(self, parent: int, key: Key) -> int:
        """The node under `parent` for a key, made when missing. 1 and 1.0 are one key, True is another."""
        children = self._index() if self._children is None else self._children
        key = shown_key(key)
        address: tuple[object, ...] = (parent, key, True) if isinstance(key, bool) else (parent, key)
        node = children.get(address)
        if node is None:
            node = len(self.parents)
            children[address] = node
            self.parents.append(parent)
            self.keys.append(key)
            if node >= self._capacity:
                self.reserve(max(64, 2 * node))
        return node

    @property
    def indexed(self) -> bool:
        """Whether nodes have been made one by one, by `child`."""
        return self._children is not None

    def _index(self) -> dict[tuple[object, ...], int]:
        """Nodes by parent and key, made when first asked for."""
        self._children = {
            (parent, key, True) if isinstance(key, bool) else (parent, key): node
            for node, (parent, key) in enumerate(zip(self.parents, self.keys, strict=True))
            if node
        }
        return self._children

    def extend(self, count: int) -> int:
        """Makes room for new nodes whose parents and keys the caller sets; returns the first. Not once indexed."""
        assert not self.indexed
        first = len(self.parents)
        self.parents.extend([ROOT] * count)
        self.keys.extend([None] * count)
        if len(self.parents) > self._capacity:
            self.reserve(max(64, 2 * len(self.parents)))
        return first

    def reserve(self, capacity: int) -> None:
        """Makes room in every state for nodes below `capacity`."""
        if capacity > self._capacity:
            self._capacity = capacity
            for state in self.states:
                state.reserve(capacity)

    def add_log(self, line: str) -> None:
        """Keeps a log line while there is room."""
        if len(self.log) < LOG_LIMIT_LINES:
            self.log.append(line)

    def merge(self, other: Partial) -> None:
        """Adds another Partial of the same aggregators over other people."""
        assert len(self.states) == len(other.states)
        mapping = [ROOT] * len(other)
        for node in range(1, len(other)):
            key = other.keys[node]
            assert key is not None
            mapping[node] = self.child(mapping[other.parents[node]], key)
        nodes: NodeIds = np.asarray(mapping, dtype=np.int64)
        for mine, theirs in zip(self.states, other.states, strict=True):
            assert type(mine) is type(theirs)
            mine.merge(theirs, nodes)  # type: ignore[arg-type]
        for line in other.log:
            self.add_log(line)
        self.people += other.people
        self.rows += other.rows
        self.events += other.events

    def children(self) -> list[list[int]]:
        """For every node the nodes below it, in the order they were made."""
        below: list[list[int]] = [[] for _ in self.parents]
        for node in range(1, len(self.parents)):
            below[self.parents[node]].append(node)
        return below

    def values(self, node: int) -> list[Value | None]:
        """The aggregates of one node, in the order of the agg: section."""
        return [state.value(node) for state in self.states]
