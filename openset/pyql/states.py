"""What each aggregator keeps per node of a result tree, and how two of them merge.

A state holds arrays indexed by node. Vector methods take `nodes` (int64, each node at most once per call) and one
value per node; `add_value` is the scalar form for the interpreter. Merging is associative and commutative, sums of
doubles included as far as results show (`precise`). Integer sums wrap in 64 bits and are exact when the true sum fits;
beyond that the double sum is the answer, as the language says for int overflow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql import precise, tree

Value = str | int | float | bool
PersonId = str | int
Doubles = NDArray[np.float64]
NodeIds = NDArray[np.int64]

_WRAP = 1 << 64
_WRAPPED = float(1 << 62)


def order_key(value: Value | None) -> tuple[int, Any]:
    """Sorts keys and ids of different kinds: bool, then number, then text, None last."""
    if value is None:
        return (3, 0)
    if isinstance(value, bool):
        return (0, value)
    if isinstance(value, str):
        return (2, value)
    return (1, value)


def _wrapped(value: int) -> int:
    """A Python int reduced to a signed 64-bit one."""
    return (value + (1 << 63)) % _WRAP - (1 << 63)


class CountState:
    """How many were counted."""

    def __init__(self) -> None:
        self.counts = np.zeros(1, dtype=np.int64)

    def reserve(self, capacity: int) -> None:
        self.counts = _grown(self.counts, capacity)

    def add(self, nodes: NodeIds, counts: NDArray[np.int64]) -> None:
        self.counts[nodes] += counts

    def add_value(self, node: int, value: Value) -> None:
        self.counts[node] += 1

    def merge(self, other: CountState, nodes: NodeIds) -> None:
        self.add(nodes, other.counts[: len(nodes)])

    def value(self, node: int) -> Value | None:
        return int(self.counts[node])


class SumState:
    """Sum and number of values; `mean` makes the result an average.

    ints: int64, wrapping sum of the int values.  totals, rests: float64, sum of all values and what rounding took.
    counted: int64, how many.  doubles: bool, whether a double was among them.
    """

    def __init__(self, mean: bool = False) -> None:
        self.mean = mean
        self.ints = np.zeros(1, dtype=np.int64)
        self.totals = np.zeros(1, dtype=np.float64)
        self.rests = np.zeros(1, dtype=np.float64)
        self.counted = np.zeros(1, dtype=np.int64)
        self.doubles = np.zeros(1, dtype=np.bool_)

    def reserve(self, capacity: int) -> None:
        for name in ("ints", "totals", "rests", "counted", "doubles"):
            setattr(self, name, _grown(getattr(self, name), capacity))

    def add_ints(
        self, nodes: NodeIds, ints: NDArray[np.int64], totals: NDArray[np.float64], counted: NDArray[np.int64]
    ) -> None:
        """Sums of int values per node: the wrapping int64 sum and the same as a double."""
        self.ints[nodes] += ints
        self._add(nodes, totals, 0.0)
        self.counted[nodes] += counted

    def add_doubles(
        self, nodes: NodeIds, totals: NDArray[np.float64], rests: NDArray[np.float64], counted: NDArray[np.int64]
    ) -> None:
        """Sums of double values per node, with what rounding took."""
        self._add(nodes, totals, rests)
        self.counted[nodes] += counted
        self.doubles[nodes] |= counted > 0

    def add_value(self, node: int, value: Value) -> None:
        assert not isinstance(value, str)
        if isinstance(value, float):
            self.doubles[node] = True
        else:
            self.ints[node] = _wrapped(int(self.ints[node]) + int(value))
        self._add(node, float(value), 0.0)
        self.counted[node] += 1

    def _add(
        self, nodes: NodeIds | int, totals: NDArray[np.float64] | float, rests: NDArray[np.float64] | float
    ) -> None:
        self.totals[nodes], self.rests[nodes] = precise.add(self.totals[nodes], self.rests[nodes], totals, rests)

    def merge(self, other: SumState, nodes: NodeIds) -> None:
        count = len(nodes)
        self.ints[nodes] += other.ints[:count]
        self._add(nodes, other.totals[:count], other.rests[:count])
        self.counted[nodes] += other.counted[:count]
        self.doubles[nodes] |= other.doubles[:count]

    def value(self, node: int) -> Value | None:
        counted = int(self.counted[node])
        if not counted:
            return None if self.mean else 0
        total: int | float = self.total(node)
        result = total / counted if self.mean else total
        return finite(result)

    def total(self, node: int) -> int | float:
        """The sum: an int where every value was one and it fits 64 bits, else a double."""
        total = float(self.totals[node])
        ints = int(self.ints[node])
        return total if self.doubles[node] or sum_overflows(total, ints) else ints


def sum_overflows(total: Any, ints: Any) -> Any:
    """Whether a sum is beyond 64 bits, from its double and its wrapping int: wrapped, it is a multiple of 2^64 off."""
    return abs(total - ints) >= _WRAPPED


def finite(value: int | float) -> Value | None:
    """A result as the language has it: a non-finite double is None."""
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


class ExtremeState:
    """The least or greatest value. Values of one column are of one kind, ids may be mixed (`order_key`)."""

    def __init__(self, greatest: bool) -> None:
        self.greatest = greatest
        self.values: list[Value | None] = [None]

    def reserve(self, capacity: int) -> None:
        self.values.extend([None] * (capacity - len(self.values)))

    def add_value(self, node: int, value: Value | None) -> None:
        if value is None:
            return
        held = self.values[node]
        if held is None or (order_key(value) > order_key(held)) == self.greatest:
            self.values[node] = value

    def add_list(self, nodes: Sequence[int], values: Sequence[Value]) -> None:
        """One candidate per node."""
        for node, value in zip(nodes, values, strict=True):
            self.add_value(node, value)

    def merge(self, other: ExtremeState, nodes: NodeIds) -> None:
        for node, value in zip(nodes.tolist(), other.values, strict=False):
            self.add_value(node, value)

    def value(self, node: int) -> Value | None:
        held = self.values[node]
        return held + 0.0 if isinstance(held, float) else held  # 0.0 for -0.0: which of them came first says nothing


class LatestState:
    """The value with the greatest stamp, then the greatest person id, then tallied last."""

    def __init__(self) -> None:
        self.held: list[tuple[int, PersonId, Value] | None] = [None]

    def reserve(self, capacity: int) -> None:
        self.held.extend([None] * (capacity - len(self.held)))

    def add_latest(self, node: int, stamp: int, person: PersonId, value: Value | None) -> None:
        """A candidate; of equal stamp and person the one added last stays."""
        if value is None:
            return
        held = self.held[node]
        if held is None or (stamp, order_key(person)) >= (held[0], order_key(held[1])):
            self.held[node] = (stamp, person, value)

    def merge(self, other: LatestState, nodes: NodeIds) -> None:
        for node, held in zip(nodes.tolist(), other.held, strict=False):
            if held is not None:
                self.add_latest(node, *held)

    def value(self, node: int) -> Value | None:
        held = self.held[node]
        return None if held is None else held[2]


class VarState:
    """`var`: the sum of the numbers, or the latest text where there was a text."""

    def __init__(self) -> None:
        self.sum = SumState()
        self.latest = LatestState()

    def reserve(self, capacity: int) -> None:
        self.sum.reserve(capacity)
        self.latest.reserve(capacity)

    def merge(self, other: VarState, nodes: NodeIds) -> None:
        self.sum.merge(other.sum, nodes)
        self.latest.merge(other.latest, nodes)

    def value(self, node: int) -> Value | None:
        text = self.latest.value(node)
        if text is not None:
            return text
        return self.sum.value(node) if self.sum.counted[node] else None


State = CountState | SumState | ExtremeState | LatestState | VarState


def new_state(aggregator: tree.Aggregator) -> State:
    """The empty state of an aggregator."""
    match aggregator.kind:
        case "count":
            return CountState()
        case "sum" | "avg":
            return SumState(mean=aggregator.kind == "avg")
        case "min" | "max":
            return ExtremeState(greatest=aggregator.kind == "max")
        case "value":
            return LatestState()
        case "var":
            return VarState()


def _grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    if len(array) >= capacity:
        return array
    bigger = np.zeros(capacity, dtype=array.dtype)
    bigger[: len(array)] = array
    return bigger
