"""The histogram query: a script returns a number for each person, and people are counted by number or by bucket.

People for whom nothing is returned are left out, and so are those below `min`; numbers from `max` on count where `max`
is. With `bucket` every bucket from the first to the last is in the answer, the empty ones too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from openset.errors import QueryError
from openset.pyql.lanes.block_run import TooMuchAtOnce
from openset.pyql.lanes.engine import Members, Plan, outcomes
from openset.pyql.partial import shown_key
from openset.pyql.settings import LOG_LIMIT_LINES, SESSION_TIME_MS, RunSettings
from openset.query.answer import QueryAnswer, aggregate_names
from openset.query.compare import compared_blocks, scanned
from openset.query.fan_out import Portion, turn
from openset.query.frame import Common, Facts, Prepared, Tools
from openset.query.parameters import RequestParameters
from openset.query.result import leaf_tree
from openset.query.time_zone import UTC_NAME, zone_of
from openset.query.value_counts import Counts, bucket_key, bucket_numbers, coded, merged_numbers
from openset.query.value_filter import Number
from openset.query.wire.answers import HistogramAnswer, HistogramCodec
from openset.query.work import WorkerState
from openset.store.members import Compared
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import Block

PEOPLE = "people"
# Empty buckets are filled in up to so many in all.
MOST_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How numbers are grouped. bucket: the width; None counts each number by itself. low, high: min= and max=."""

    bucket: Number | None = None
    low: Number | None = None
    high: Number | None = None

    def __post_init__(self) -> None:
        """Raises QueryError when max is below min."""
        if self.low is not None and self.high is not None and self.high < self.low:
            raise QueryError(f"max={self.high} is below min={self.low}")

    def grouped(self, numbers: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The group of each number, and which numbers are counted at all."""
        counted = np.ones(len(numbers), np.bool_) if self.low is None else numbers >= self.low
        if self.high is not None and len(numbers):
            if isinstance(self.high, float):
                numbers = numbers.astype(np.float64)
            numbers = np.where(numbers >= self.high, self.high, numbers)
        if self.bucket is None:
            return numbers, counted
        groups, finite = bucket_numbers(numbers, self.bucket)
        return groups, counted if finite is None else counted & finite

    def filled(self, groups: NDArray[Any], counts: Counts) -> tuple[list[int | float], Counts]:
        """The keys of all groups from the first to the last, and their counts. Raises QueryError for too many."""
        if self.bucket is None:
            return [_shown(number) for number in groups.tolist()], counts
        limits = [np.array([limit]) for limit in (self.low, self.high) if limit is not None]
        edges = [bucket_numbers(limit, self.bucket)[0][0] for limit in limits]
        seen = [*edges, *groups[:1], *groups[-1:]]
        if not seen:
            return [], counts
        first, last = int(min(seen)), int(max(seen))
        if last - first >= MOST_BUCKETS:
            raise QueryError(
                f"bucket={self.bucket} makes {last - first + 1:,} buckets from the least to the greatest number; "
                f"at most {MOST_BUCKETS:,} are filled in: take wider ones, or set min= and max="
            )
        every = np.zeros((counts.shape[0], last - first + 1), np.int64)
        every[:, groups.astype(np.int64) - first] = counts
        return [_shown(bucket_key(number, self.bucket)) for number in range(first, last + 1)], every


def _shown(number: int | float) -> int | float:
    """A whole double as the integer it equals."""
    key = shown_key(number)
    assert isinstance(key, int | float)
    return key


@dataclass(frozen=True, slots=True, eq=False)
class HistogramRequest:
    """A histogram query as it was asked. `parameters` still holds the script's values and what is unknown."""

    kind: ClassVar[str] = "histogram"
    table: str
    name: str
    script: str
    common: Common
    parameters: RequestParameters
    scale: Scale
    segments: Sequence[str] | None = None
    descending: bool = False
    trim: int | None = None
    session_time_ms: int = SESSION_TIME_MS
    time_zone: str = UTC_NAME
    debug: bool = False

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared | QueryAnswer:
        """Raises ParseError, QueryError."""
        plan = await tools.plans.get_in_thread(self.script, schema)
        settings = RunSettings(
            now_ms=facts.now_ms,
            session_time_ms=self.session_time_ms,
            parameters=self.parameters.script_values(plan.script.parameters),
            deadline=facts.deadline(self.common),
            timeout_ms=self.common.timeout_ms,
            zone=zone_of(self.time_zone),
        )
        self.parameters.finish()
        if self.debug:
            return QueryAnswer({"debug": plan.describe()})
        work = HistogramWork(self.script, schema, self.scale, (), settings, self.common.info, None)
        return Prepared(work, plan.script.columns, plan.describe(), self._codec, partial(self._rendered, self._codec))

    @property
    def _codec(self) -> HistogramCodec:
        return HistogramCodec(max(1, len(self.segments or ())), self.scale.bucket is not None)

    def _rendered(self, codec: HistogramCodec, answers: Sequence[HistogramAnswer], facts: Facts) -> QueryAnswer:
        answer = codec.merged(answers)
        totals = answer.counts.sum(axis=1)
        keys, counts = self.scale.filled(answer.groups, answer.counts)
        if self.descending:
            keys, counts = keys[::-1], counts[:, ::-1]
        body = leaf_tree(self.name, totals, keys[: self.trim], counts[:, : self.trim])
        if self.common.info:
            body["info"] = facts.shown(answer.people, answer.events, answer.rows)
            body["log"] = answer.log
        return QueryAnswer(body, aggregate_names([PEOPLE], tuple(self.segments or ())))


@dataclass(frozen=True, slots=True, eq=False)
class HistogramWork:
    """One turn of a histogram query on a worker."""

    script: str
    schema: TableSchema
    scale: Scale
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    want_info: bool
    compared: Compared | None

    def run(self, state: WorkerState) -> Portion[HistogramAnswer]:
        """Raises RunTimeError."""
        plan = state.plans.plan(self.script, self.schema)
        compared: Compared = [None] if self.compared is None else self.compared
        parts: list[tuple[NDArray[Any], Counts]] = []
        log: list[str] = []
        people = events = rows = done = 0
        for snapshot in turn(self.snapshots):
            blocks = state.views.view(snapshot).blocks(plan.block_rows)
            blocks, masks = compared_blocks(state.members, compared, snapshot.partition, blocks)
            for block, members in zip(blocks, masks, strict=True):
                parts += self._counted(plan, block, members, log)
            if self.want_info:
                visited = scanned(blocks, masks)
                people, events, rows = people + visited[0], events + visited[1], rows + visited[2]
            done += 1
        groups, counts = merged_numbers(parts, len(compared))
        return Portion(HistogramAnswer(groups, counts, people, events, rows, log[:LOG_LIMIT_LINES]), done)

    def _counted(
        self, plan: Plan, block: Block, members: Sequence[Members], log: list[str]
    ) -> list[tuple[NDArray[Any], Counts]]:
        """Counts of a Block's people, by group; in several parts where one takes too much memory. Adds to the log."""
        parts: list[tuple[NDArray[Any], Counts]] = []
        waiting = [(_wanted(block, members), members)]
        while waiting:
            self.settings.check_deadline()
            part, masks = waiting.pop()
            try:
                found = outcomes(plan, part, self.settings, want_log=self.want_info and len(log) < LOG_LIMIT_LINES)
            except TooMuchAtOnce:
                middle = part.people // 2
                for first, last in ((middle, part.people), (0, middle)):
                    inside = [None if mask is None else mask[first:last] for mask in masks]
                    waiting.append((part.part(first, last), inside))
                continue
            log += found.log
            numbers, present = found.numbers()
            groups, counted = self.scale.grouped(numbers[present])
            asked = found.people[present][counted]
            if len(asked):
                parts.append(_by_group(groups[counted], asked, masks))
        return parts


def _wanted(block: Block, members: Sequence[Members]) -> Block:
    """The Block with only those included who are in any of the segments."""
    masks = [mask for mask in members if mask is not None]
    if len(masks) < len(members):
        return block
    anywhere = np.logical_or.reduce(masks)
    return replace(block, include=anywhere if block.include is None else anywhere & block.include)


def _by_group(
    groups: NDArray[Any], people: NDArray[np.int64], members: Sequence[Members]
) -> tuple[NDArray[Any], Counts]:
    distinct, codes = coded(groups)
    counts = np.zeros((len(members), len(distinct)), np.int64)
    for segment, mask in enumerate(members):
        counts[segment] = np.bincount(codes if mask is None else codes[mask[people]], minlength=len(distinct))
    some = np.flatnonzero(counts.any(axis=0))
    return distinct[some], counts[:, some]
