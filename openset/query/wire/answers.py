"""What workers and other nodes answer to queries over all partitions, how that merges, and how it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.errors import WireError
from openset.pyql import tree
from openset.pyql.partial import Partial
from openset.pyql.settings import LOG_LIMIT_LINES
from openset.query.membership import Scanned
from openset.query.value_counts import Counts, ValueCounts, merged, merged_numbers
from openset.query.wire.arrays import Packed, ints, numbers, pack, table
from openset.query.wire.codec import Lists, checked, decoded, encoded
from openset.query.wire.partials import PackedPartial, pack_partial, unpack_partial

# ---------------------------------------------------------------- events


@dataclass(slots=True, eq=False)
class EventsAnswer:
    """What was found so far. partials: one for each compared segment, else one.

    people, events, rows: how many the answer is about, whichever segments they belong to and whether or not they had to
    be read; counted when there is to be `info`.
    """

    partials: list[Partial]
    people: int = 0
    events: int = 0
    rows: int = 0

    def merge(self, other: EventsAnswer) -> None:
        """Adds what was found among other people."""
        for mine, theirs in zip(self.partials, other.partials, strict=True):
            mine.merge(theirs)
        self.people += other.people
        self.events += other.events
        self.rows += other.rows


class _PackedEvents(msgspec.Struct, array_like=True, frozen=True):
    partials: list[PackedPartial]
    people: int
    events: int
    rows: int


@dataclass(frozen=True, slots=True, eq=False)
class EventsCodec:
    """Of answers with these aggregators and so many compared segments (1 for everyone alone)."""

    aggregators: Sequence[tree.Aggregator]
    segments: int

    def merged(self, results: Sequence[EventsAnswer]) -> EventsAnswer:
        if not results:
            return EventsAnswer([Partial(self.aggregators) for _ in range(self.segments)])
        for result in results[1:]:
            results[0].merge(result)
        return results[0]

    def encode(self, result: EventsAnswer) -> bytes:
        partials = [pack_partial(partial) for partial in result.partials]
        return encoded(_PackedEvents(partials, result.people, result.events, result.rows))

    def decode(self, data: bytes) -> EventsAnswer:
        packed: _PackedEvents = decoded(data, _PackedEvents)
        checked(len(packed.partials) == self.segments, "it compares other segments")
        _check_scanned(packed.people, packed.events, packed.rows)
        partials = [unpack_partial(partial, self.aggregators) for partial in packed.partials]
        return EventsAnswer(partials, packed.people, packed.events, packed.rows)


def _check_scanned(*counts: int) -> None:
    checked(min(counts) >= 0, "a count is negative")


# ---------------------------------------------------------------- columns


@dataclass(frozen=True, slots=True, eq=False)
class ColumnAnswer:
    """What was counted, and how many people, events and rows were looked at; zeros when nobody asks for that."""

    counts: ValueCounts
    people: int
    events: int
    rows: int


class _PackedColumn(msgspec.Struct, array_like=True, frozen=True):
    texts: list[str]
    text_counts: Packed
    numbers: Packed
    number_counts: Packed
    bool_counts: Packed
    any_value: Packed
    people: int
    events: int
    rows: int


@dataclass(frozen=True, slots=True)
class ColumnCodec:
    """Of counts for so many compared segments (1 for everyone alone)."""

    segments: int

    def merged(self, results: Sequence[ColumnAnswer]) -> ColumnAnswer:
        return ColumnAnswer(
            merged([result.counts for result in results], self.segments),
            sum(result.people for result in results),
            sum(result.events for result in results),
            sum(result.rows for result in results),
        )

    def encode(self, result: ColumnAnswer) -> bytes:
        counts = result.counts
        return encoded(
            _PackedColumn(
                counts.texts,
                pack(counts.text_counts.ravel()),
                pack(counts.numbers),
                pack(counts.number_counts.ravel()),
                pack(counts.bool_counts.ravel()),
                pack(counts.any_value),
                result.people,
                result.events,
                result.rows,
            )
        )

    def decode(self, data: bytes) -> ColumnAnswer:
        packed: _PackedColumn = decoded(data, _PackedColumn)
        _check_scanned(packed.people, packed.events, packed.rows)
        found = numbers(packed.numbers)
        counts = ValueCounts(
            packed.texts,
            table(packed.text_counts, self.segments, len(packed.texts)),
            found,
            table(packed.number_counts, self.segments, len(found)),
            table(packed.bool_counts, self.segments, 2),
            ints(packed.any_value, self.segments),
        )
        return ColumnAnswer(counts, packed.people, packed.events, packed.rows)


# ---------------------------------------------------------------- histograms


@dataclass(frozen=True, slots=True, eq=False)
class HistogramAnswer:
    """groups: numbers, or numbers of buckets, ascending. counts: int64[segments, groups].

    people, events, rows, log: what was gone through and the lines of log(); zeros and none when nobody asks for that.
    """

    groups: NDArray[Any]
    counts: Counts
    people: int
    events: int
    rows: int
    log: Sequence[str]


class _PackedHistogram(msgspec.Struct, array_like=True, frozen=True):
    groups: Packed
    counts: Packed
    people: int
    events: int
    rows: int
    log: list[str]


@dataclass(frozen=True, slots=True)
class HistogramCodec:
    """Of histograms for so many compared segments (1 for everyone alone). in_buckets: groups are numbers of buckets."""

    segments: int
    in_buckets: bool

    def merged(self, results: Sequence[HistogramAnswer]) -> HistogramAnswer:
        groups, counts = merged_numbers(
            [(result.groups, result.counts) for result in results if len(result.groups)], self.segments
        )
        return HistogramAnswer(
            groups,
            counts,
            sum(result.people for result in results),
            sum(result.events for result in results),
            sum(result.rows for result in results),
            [line for result in results for line in result.log][:LOG_LIMIT_LINES],
        )

    def encode(self, result: HistogramAnswer) -> bytes:
        return encoded(
            _PackedHistogram(
                pack(result.groups),
                pack(result.counts.ravel()),
                result.people,
                result.events,
                result.rows,
                list(result.log),
            )
        )

    def decode(self, data: bytes) -> HistogramAnswer:
        packed: _PackedHistogram = decoded(data, _PackedHistogram)
        _check_scanned(packed.people, packed.events, packed.rows)
        checked(len(packed.log) <= LOG_LIMIT_LINES, "there are too many lines of log()")
        groups = numbers(packed.groups)
        checked(not self.in_buckets or bool(np.isfinite(groups).all()), "a bucket has no number")
        counts = table(packed.counts, self.segments, len(groups))
        return HistogramAnswer(groups, counts, packed.people, packed.events, packed.rows, packed.log)


# ---------------------------------------------------------------- counts


@dataclass(frozen=True, slots=True, eq=False)
class PartitionCounts:
    """What a partition knows of the sections.

    counts: people by section.  members: serialized bitmaps of what was computed, by name.  journal_id, sequence: the
    record up to which it knew the events.  people: in the partition.  scanned: what the scripts went through.
    """

    partition: int
    counts: list[int]
    members: dict[str, bytes]
    journal_id: str
    sequence: int
    people: int
    scanned: Scanned


@dataclass(frozen=True, slots=True, eq=False)
class CountsCodec:
    """Of so many sections, of which the ones with these names are computed."""

    sections: int
    computed: frozenset[str]

    def merged(self, results: Sequence[list[PartitionCounts]]) -> list[PartitionCounts]:
        return [one for result in results for one in result]

    def encode(self, result: list[PartitionCounts]) -> bytes:
        return Lists(PartitionCounts).encode(result)

    def decode(self, data: bytes) -> list[PartitionCounts]:
        found = Lists(PartitionCounts).decode(data)
        for one in found:
            checked(len(one.counts) == self.sections and min(one.counts, default=0) >= 0, "it has other sections")
            checked(one.members.keys() == self.computed, "it has computed other sections")
            for members in one.members.values():
                check_bitmap(members)
        return found


def check_bitmap(data: bytes) -> None:
    """Raises WireError for what is no serialized bitmap."""
    try:
        BitMap.deserialize(data)
    except (ValueError, IndexError) as error:
        raise WireError("another node's answer cannot be read: a bitmap is none") from error
