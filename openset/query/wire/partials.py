"""Result trees as bytes: their nodes in arrays, and per aggregator the arrays and values of its state.

Only nodes that there are are sent, not the room that states hold for further ones. Who decodes says which aggregators
the tree must have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from openset.pyql import tree
from openset.pyql.partial import ROOT, Partial
from openset.pyql.settings import LOG_LIMIT_LINES
from openset.pyql.states import CountState, ExtremeState, LatestState, State, SumState, VarState
from openset.query.wire.arrays import Packed, PackedValues, doubles, flags, ints, pack, pack_values, unpack_values
from openset.query.wire.codec import checked


class PackedState(msgspec.Struct, array_like=True, frozen=True):
    """A state: its arrays and its values in the order in which the class of the state has them."""

    arrays: list[Packed]
    values: list[PackedValues]


class PackedPartial(msgspec.Struct, array_like=True, frozen=True):
    """A Partial. parents, keys: by node, the root left out."""

    parents: Packed
    keys: PackedValues
    states: list[PackedState]
    log: list[str]
    people: int
    rows: int
    events: int


def pack_partial(partial: Partial) -> PackedPartial:
    """A Partial as it is sent."""
    count = len(partial)
    return PackedPartial(
        pack(np.array(partial.parents[1:], np.int64)),
        pack_values(partial.keys[1:]),
        [_packed_state(state, count) for state in partial.states],
        partial.log,
        partial.people,
        partial.rows,
        partial.events,
    )


def unpack_partial(packed: PackedPartial, aggregators: Sequence[tree.Aggregator]) -> Partial:
    """The Partial of these aggregators. Raises WireError."""
    partial = Partial(aggregators)
    parents = ints(packed.parents)
    count = len(parents) + 1
    above = np.arange(count - 1)
    checked(bool((parents >= ROOT).all() and (parents <= above).all()), "a node stands before the one above it")
    keys = unpack_values(packed.keys, count - 1)
    checked(None not in keys, "a node has no key")
    checked(len(packed.states) == len(partial.states), "there are more or fewer aggregators than asked for")
    checked(len(packed.log) <= LOG_LIMIT_LINES, "there are too many lines of log()")
    checked(min(packed.people, packed.rows, packed.events) >= 0, "a count is negative")
    partial.extend(count - 1)
    partial.parents[1:] = parents.tolist()
    partial.keys[1:] = keys
    for state, of_state in zip(partial.states, packed.states, strict=True):
        arrays, values = iter(of_state.arrays), iter(of_state.values)
        checked(len(of_state.arrays) == _ARRAYS[type(state)], "an aggregator has other arrays")
        checked(len(of_state.values) == _VALUES[type(state)], "an aggregator has other values")
        _fill(state, count, arrays, values)
    partial.log = packed.log
    partial.people, partial.rows, partial.events = packed.people, packed.rows, packed.events
    return partial


_ARRAYS: dict[type, int] = {CountState: 1, SumState: 5, ExtremeState: 0, LatestState: 2, VarState: 7}
_VALUES: dict[type, int] = {CountState: 0, SumState: 0, ExtremeState: 1, LatestState: 2, VarState: 2}


def _packed_state(state: State, count: int) -> PackedState:
    """The entries of the first `count` nodes."""
    match state:
        case CountState():
            return PackedState([pack(state.counts[:count])], [])
        case SumState():
            arrays = (state.ints, state.totals, state.rests, state.counted, state.doubles)
            return PackedState([pack(array[:count]) for array in arrays], [])
        case ExtremeState():
            return PackedState([], [pack_values(state.values[:count])])
        case LatestState():
            known = [held for held in state.held[:count] if held is not None]
            return PackedState(
                [
                    pack(np.array([held is not None for held in state.held[:count]], np.bool_)),
                    pack(np.array([stamp for stamp, _, _ in known], np.int64)),
                ],
                [pack_values([person for _, person, _ in known]), pack_values([value for _, _, value in known])],
            )
        case VarState():
            sums, latest = _packed_state(state.sum, count), _packed_state(state.latest, count)
            return PackedState([*sums.arrays, *latest.arrays], latest.values)


def _fill(state: State, count: int, arrays: Iterator[Packed], values: Iterator[PackedValues]) -> None:
    """Puts what was sent for the first `count` nodes into an empty state. Raises WireError."""
    match state:
        case CountState():
            state.counts[:count] = ints(next(arrays), count)
        case SumState():
            state.ints[:count] = ints(next(arrays), count)
            state.totals[:count] = doubles(next(arrays), count)
            state.rests[:count] = doubles(next(arrays), count)
            state.counted[:count] = ints(next(arrays), count)
            state.doubles[:count] = flags(next(arrays), count)
        case ExtremeState():
            state.values[:count] = unpack_values(next(values), count)
        case LatestState():
            held = np.flatnonzero(flags(next(arrays), count))
            stamps = ints(next(arrays), len(held)).tolist()
            people, latest = (unpack_values(next(values), len(held)) for _ in range(2))
            for node, stamp, person, value in zip(held.tolist(), stamps, people, latest, strict=True):
                checked(isinstance(person, str | int) and value is not None, "a latest value is of nobody")
                assert isinstance(person, str | int) and value is not None
                state.held[node] = (stamp, person, value)
        case VarState():
            _fill(state.sum, count, arrays, values)
            _fill(state.latest, count, arrays, values)
