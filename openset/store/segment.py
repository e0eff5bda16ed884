"""A stored segment: what is known of it, who belongs to it, where its file is, and what erasures take from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from pyroaring import BitMap

from openset.store.members import SegmentRef
from openset.store.snapshot import TABLES_DIRECTORY
from openset_format.block import ColumnType
from openset_format.hashing import checksum
from openset_format.membership import serialized

SEGMENTS_DIRECTORY = "segments"
SEGMENT_SUFFIX = ".segment"
LEAST_REFRESH_SECONDS = 1.0
# When a computation was published, and what tells it from others of that moment.
Edition = tuple[int, str]


class SegmentColumn(msgspec.Struct, frozen=True):
    """A column that a segment's script reads, as it was when the script was compiled."""

    id: int
    name: str
    type: ColumnType


class Segment(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of a stored segment besides its people.

    script: without its @segment line. ttl_seconds: None means forever. people: how many belonged to it.
    made_at_ms: when it was computed. parameters, session_time_ms, timeout_ms, time_zone: of the request. columns: what
    its script read. journal_id, sequence: the journal record up to which it knew the events.

    In a cluster, where every partition has records of its own: known: the last of them by partition, instead of
    sequence.  published_at_ms, computation: by what nodes tell computations of a name apart (`edition`).  lost: tells
    apart whom a computation has lost since, because they were erased; equal where they are the same people.
    """

    name: str
    script: str
    ttl_seconds: float | None
    refresh_seconds: float | None
    made_at_ms: int
    people: int
    parameters: dict[str, int | float | str | bool]
    session_time_ms: int
    timeout_ms: int
    columns: tuple[SegmentColumn, ...]
    journal_id: str
    sequence: int
    time_zone: str = "UTC"
    known: dict[int, int] = {}
    published_at_ms: int = 0
    computation: str = ""
    lost: int = 0

    @property
    def edition(self) -> Edition:
        """Equal for one computation on all nodes; a later one of the same name is greater."""
        return (self.published_at_ms or self.made_at_ms, self.computation)

    def known_in(self, partition: int) -> int:
        """The record of a partition up to which it knew the events."""
        return self.known.get(partition, 0) if self.computation else self.sequence

    @property
    def expires_at_ms(self) -> float:
        """When its ttl is over."""
        return float("inf") if self.ttl_seconds is None else self.made_at_ms + 1_000 * self.ttl_seconds

    @property
    def refresh_at_ms(self) -> float:
        """When it is to be computed again; infinite when never."""
        if self.refresh_seconds is None:
            return float("inf")
        return self.made_at_ms + 1_000 * max(self.refresh_seconds, LEAST_REFRESH_SECONDS)

    @property
    def is_kept_fresh(self) -> bool:
        """Whether it is computed again before its ttl is over."""
        return self.refresh_at_ms <= self.expires_at_ms and self.refresh_seconds is not None


@dataclass(frozen=True, slots=True, eq=False)
class StoredSegment:
    """A segment and its file. version: grows with every computation in a table."""

    table_id: int
    version: int
    segment: Segment

    @property
    def ref(self) -> SegmentRef:
        """For the workers."""
        return SegmentRef(self.segment.name, segment_path(self.table_id, self.version))


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A segment that was just computed. members: serialized bitmaps by partition."""

    segment: Segment
    members: Mapping[int, bytes]


def segment_path(table_id: int, version: int) -> Path:
    """Where a segment's file is, relative to the data directory."""
    return Path(TABLES_DIRECTORY) / str(table_id) / SEGMENTS_DIRECTORY / f"{version:010d}{SEGMENT_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Erased:
    """Ordinals of a partition that a record made nobody's. of_partition: sequences count the partition's records."""

    partition: int
    ordinals: BitMap
    sequence: int
    of_partition: bool

    def is_news_to(self, segment: Segment) -> bool:
        """Whether a segment was computed without knowing."""
        if self.of_partition:
            return segment.known.get(self.partition, 0) < self.sequence
        return segment.sequence < self.sequence


def without(computed: Computed, erased: Iterable[Erased]) -> Computed:
    """A segment without some people; the same object when it has none of them."""
    members = dict(computed.members)
    removed, lost = 0, computed.segment.lost
    for each in erased:
        if each.partition not in members:
            continue
        bitmap = BitMap.deserialize(members[each.partition])
        gone = bitmap & each.ordinals
        if gone:
            removed += len(gone)
            for ordinal in gone:
                lost ^= checksum(b"%d %d" % (each.partition, ordinal))
            members[each.partition] = serialized(bitmap - gone)
    if not removed:
        return computed
    people = computed.segment.people - removed
    return Computed(msgspec.structs.replace(computed.segment, people=people, lost=lost), members)
