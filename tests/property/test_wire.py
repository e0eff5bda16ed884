"""Results of queries as bytes: what comes back is what was sent, and merges to the same; other bytes are an error."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from openset.errors import InternalError, OpenSetError, WireError
from openset.pyql import tree
from openset.pyql.partial import Partial
from openset.pyql.states import CountState, ExtremeState, LatestState, SumState, VarState
from openset.query.explain import Extent
from openset.query.membership import Scanned
from openset.query.value_counts import ValueCounts
from openset.query.wire.answers import (
    ColumnAnswer,
    ColumnCodec,
    CountsCodec,
    EventsAnswer,
    EventsCodec,
    HistogramAnswer,
    HistogramCodec,
    PartitionCounts,
)
from openset.query.wire.arrays import flags, ints, numbers, pack, pack_values, unpack_values
from openset.query.wire.codec import Codec, Lists
from openset_format.membership import serialized

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([1 << 63, -(1 << 63), -(1 << 63) - 1, 1 << 64, 10**300]),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    st.sampled_from(["a", "b"]),
)
KINDS = ("count", "sum", "avg", "min", "max", "value", "var")


def exactly(value: Any) -> Any:
    """What tells values apart that == does not, and lets nan equal itself."""
    return (type(value), struct.pack("<d", value) if isinstance(value, float) else value)


@given(st.lists(VALUES, max_size=40))
@example([1, 1.0, True, "1", None, -0.0, math.nan, math.inf, -math.inf])
def test_values_come_back_exactly(values: list[Any]) -> None:
    sent = msgspec.msgpack.encode(pack_values(values))
    found = unpack_values(msgspec.msgpack.decode(sent, type=type(pack_values([]))), len(values))
    assert list(map(exactly, found)) == list(map(exactly, values))


@given(st.lists(INT64, max_size=30), st.lists(st.floats(), max_size=30), st.lists(st.booleans(), max_size=30))
def test_arrays_come_back_exactly(whole: list[int], broken: list[float], flagged: list[bool]) -> None:
    assert ints(pack(np.array(whole, np.int64)), len(whole)).tolist() == whole
    doubles = np.array(broken, np.float64)
    assert numbers(pack(doubles), len(broken)).tobytes() == doubles.tobytes()
    assert flags(pack(np.array(flagged, np.bool_)), len(flagged)).tolist() == flagged


def test_arrays_are_as_narrow_as_they_can_be() -> None:
    assert len(pack(np.arange(100)).data) == 100
    assert len(pack(np.arange(1000)).data) == 2000
    assert len(pack(np.ones(80, np.bool_)).data) == 10
    assert len(pack_values(["a long text that is there often"] * 1000).texts) == 1


# ---------------------------------------------------------------- result trees


def aggregators(kinds: list[Any]) -> list[tree.Aggregator]:
    at = tree.Position(1, 1)
    return [tree.Aggregator(kind, f"a{number}", None, None, None, False, at=at) for number, kind in enumerate(kinds)]


SPECIAL: tuple[Any, ...] = (
    True, False, 0, 1, 1.0, 2.5, -0.0, math.inf, (1 << 63) - 1, -(1 << 63), 1 << 64, "a", "b", "ünï", "", 1e300, 7
)  # fmt: skip


def random_partial(chance: random.Random, kinds: list[Any]) -> Partial:
    """A result tree with random nodes, and random values in the states of its aggregators."""
    partial = Partial(aggregators(kinds))
    for _ in range(chance.randrange(12)):
        partial.child(chance.randrange(len(partial)), chance.choice(SPECIAL))
    for state in partial.states:
        for node in range(1, len(partial)):
            for _ in range(chance.randrange(3)):
                stamp, person = chance.randrange(-(1 << 62), 1 << 62), chance.choice(("ann", 7, "7", -3))
                add(state, node, chance.choice(SPECIAL), stamp, person)
    partial.people, partial.rows, partial.events = (chance.randrange(1 << 40) for _ in range(3))
    partial.log = ["line"] * chance.randrange(3)
    return partial


def add(state: Any, node: int, value: Any, stamp: int, person: str | int) -> None:
    """A value as a run adds it, where the aggregator takes it."""
    number = value if not isinstance(value, str) and abs(value) < 1 << 70 else 3
    match state:
        case CountState():
            state.add_value(node, value)
        case SumState():
            state.add_value(node, number)
        case ExtremeState():
            if value == value:
                state.add_value(node, value)
        case LatestState():
            state.add_latest(node, stamp, person, value)
        case VarState():
            if isinstance(value, str):
                state.latest.add_latest(node, stamp, person, value)
            else:
                state.sum.add_value(node, number)


def shown(answer: EventsAnswer) -> Any:
    """All that there is to know of an answer, comparable."""
    return [
        (
            partial.parents,
            list(map(exactly, partial.keys)),
            [[exactly(state.value(node)) for state in partial.states] for node in range(len(partial))],
            (partial.log, partial.people, partial.rows, partial.events),
        )
        for partial in answer.partials
    ] + [(answer.people, answer.events, answer.rows)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 60), st.lists(st.sampled_from(KINDS), min_size=1, max_size=3), st.integers(1, 3))
def test_events_come_back_and_merge_to_the_same(seed: int, kinds: list[Any], segments: int) -> None:
    chance = random.Random(seed)
    codec = EventsCodec(aggregators(kinds), segments)
    answers = [
        EventsAnswer([random_partial(chance, kinds) for _ in range(segments)], number, 2 * number, 3 * number)
        for number in (1, 5)
    ]
    sent = [codec.encode(answer) for answer in answers]
    for answer, each in zip(answers, sent, strict=True):
        assert shown(codec.decode(each)) == shown(answer)
    assert shown(codec.merged([codec.decode(each) for each in sent])) == shown(codec.merged(answers))


def test_nothing_is_nothing() -> None:
    codec = EventsCodec(aggregators(["sum"]), 2)
    assert shown(codec.decode(codec.encode(codec.merged([])))) == shown(codec.merged([]))


# ---------------------------------------------------------------- columns, histograms, counts, explanations

COUNTS = st.integers(0, 1 << 40)


@st.composite
def columns(draw: Any, segments: int) -> ColumnAnswer:
    texts = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), unique=True, max_size=5))
    found = np.array(sorted(set(draw(st.lists(INT64, max_size=5)))), np.int64)
    if draw(st.booleans()):
        found = np.unique(np.array(draw(st.lists(st.floats(allow_nan=False), max_size=5)), np.float64))

    def counts(*shape: int) -> Any:
        size = math.prod(shape)
        return np.array(draw(st.lists(COUNTS, min_size=size, max_size=size)), np.int64).reshape(shape)

    values = ValueCounts(
        texts, counts(segments, len(texts)), found, counts(segments, len(found)), counts(segments, 2), counts(segments)
    )
    return ColumnAnswer(values, *(draw(COUNTS) for _ in range(3)))


def shown_column(answer: ColumnAnswer) -> Any:
    counts = answer.counts
    arrays = (counts.text_counts, counts.numbers, counts.number_counts, counts.bool_counts, counts.any_value)
    described = [(array.dtype, array.shape, array.tobytes()) for array in arrays]
    return counts.texts, described, answer.people, answer.events, answer.rows


@given(st.data(), st.integers(1, 3))
def test_columns_come_back_and_merge_to_the_same(data: Any, segments: int) -> None:
    codec = ColumnCodec(segments)
    answers = [data.draw(columns(segments)) for _ in range(2)]
    found = [codec.decode(codec.encode(answer)) for answer in answers]
    assert list(map(shown_column, found)) == list(map(shown_column, answers))
    assert shown_column(codec.merged(found)) == shown_column(codec.merged(answers))


@given(st.lists(INT64, max_size=6), st.lists(st.floats(allow_nan=False), max_size=6), st.integers(1, 3))
def test_histograms_come_back(whole: list[int], broken: list[float], segments: int) -> None:
    codec = HistogramCodec(segments, in_buckets=False)
    for groups in (np.unique(np.array(whole, np.int64)), np.unique(np.array(broken, np.float64))):
        counts = np.arange(segments * len(groups), dtype=np.int64).reshape(segments, len(groups))
        found = codec.decode(codec.encode(HistogramAnswer(groups, counts, 1, 2, 3, ["line"])))
        assert found.groups.dtype == groups.dtype and found.groups.tobytes() == groups.tobytes()
        assert found.counts.tolist() == counts.tolist()
        assert (found.people, found.events, found.rows, found.log) == (1, 2, 3, ["line"])


@given(st.sets(st.integers(0, (1 << 32) - 1), max_size=20), COUNTS)
def test_counts_and_extents_come_back(people: set[int], sequence: int) -> None:
    codec = CountsCodec(2, frozenset({"a"}))
    sent = PartitionCounts(3, [1, 2], {"a": serialized(BitMap(people))}, "j", sequence, 9, Scanned(1, 2, ["line"]))
    (found,) = codec.decode(codec.encode([sent]))
    assert set(BitMap.deserialize(found.members["a"])) == people
    assert (found.partition, found.counts, found.journal_id, found.sequence) == (3, [1, 2], "j", sequence)
    assert (found.people, found.scanned) == (9, Scanned(1, 2, ["line"]))
    extents: Lists[Extent] = Lists(Extent)
    (extent,) = extents.decode(extents.encode([Extent(1, 2, 3, None, {"x": 4})]))
    assert (extent.people, extent.events, extent.rows, extent.candidates) == (1, 2, 3, None)
    assert extent.column_bytes == {"x": 4}


# ---------------------------------------------------------------- hostile bytes


def samples() -> list[tuple[Codec[Any], bytes]]:
    """A codec of each kind, and an answer as it is sent."""
    kinds: list[Any] = list(KINDS)
    partial = Partial(aggregators(kinds))
    for key in ("a", 2, 2.5, True):
        node = partial.child(0, key)
        for state in partial.states:
            add(state, partial.child(node, key), key, 7, "ann")
    counts = ValueCounts(
        ["x"], np.array([[4]]), np.array([1, 300]), np.array([[1, 2]]), np.array([[1, 0]]), np.array([8])
    )  # fmt: skip
    events, column = EventsCodec(aggregators(kinds), 1), ColumnCodec(1)
    histogram, sections = HistogramCodec(1, in_buckets=True), CountsCodec(1, frozenset({"a"}))
    extents: Lists[Extent] = Lists(Extent)
    of_partition = PartitionCounts(3, [1], {"a": serialized(BitMap([1, 5, 70_000]))}, "j", 4, 9, Scanned(1, 2, ["l"]))
    return [
        (events, events.encode(EventsAnswer([partial], 1, 2, 3))),
        (column, column.encode(ColumnAnswer(counts, 1, 2, 3))),
        (histogram, histogram.encode(HistogramAnswer(np.array([1, 2]), np.array([[3, 4]]), 1, 2, 3, ["line"]))),
        (sections, sections.encode([of_partition])),
        (extents, extents.encode([Extent(1, 2, 3, 4, {"x": 4})])),
    ]


@pytest.mark.parametrize("place", range(5))
def test_damaged_bytes_are_an_error_and_nothing_else(place: int) -> None:
    """Every cut and a change of every byte is either read as something or refused by name."""
    codec, sent = samples()[place]
    refused = 0
    damaged = [sent[:length] for length in range(len(sent))]
    damaged += [
        sent[:at] + bytes([sent[at] ^ bits]) + sent[at + 1 :] for at in range(len(sent)) for bits in (1, 0x80, 0xFF)
    ]
    for data in damaged:
        try:
            codec.merged([codec.decode(data), codec.decode(sent)])
        except WireError:
            refused += 1
    assert refused > len(sent)


@given(st.binary(max_size=60))
def test_random_bytes_are_an_error(data: bytes) -> None:
    for codec, _ in samples():
        check: Callable[[bytes], Any] = codec.decode
        try:
            check(data)
        except OpenSetError as error:
            assert isinstance(error, InternalError)


def test_trees_of_other_shapes_are_refused() -> None:
    sent = EventsCodec(aggregators(["count", "sum"]), 1).encode(
        EventsAnswer([Partial(aggregators(["count", "sum"]))], 0, 0, 0)
    )
    for kinds, segments in ((["count"], 1), (["sum", "count"], 1), (["count", "min"], 1), (["count", "sum"], 2)):
        with pytest.raises(WireError):
            EventsCodec(aggregators(list(kinds)), segments).decode(sent)
