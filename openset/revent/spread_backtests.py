"""Backtests over partitions that several nodes own: every owner replays its own, whoever is asked merges.

A pass is one replay of everybody; a backtest takes up to three. An owner is sent the script and all that was found out
about it by whoever was asked, so the triggers of both need not be the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np

from openset.pyql.settings import RunSettings
from openset.query.fan_out import fan_out
from openset.query.frame import (
    MAX_TIMEOUT_MS,
    Facts,
    Target,
    Tools,
    ask_bytes,
    bringing,
    differs,
    editions,
    pinned_of,
    share_of,
)
from openset.query.spread import Asking, Share, Spread, gather
from openset.query.wire.asking import Ask, request_of, schema_mark
from openset.query.wire.codec import checked, decoded, encoded
from openset.revent.backtest import BacktestWork
from openset.revent.disabling import PARTS, Failures
from openset.revent.replay import Replay, Replayed
from openset.revent.timelines import Ints
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.segment import SegmentColumn, StoredSegment
from openset.store.stamps import LAST_STAMP

KIND = "backtest"

_END_MOMENT = (LAST_STAMP + 1) * PARTS
_Stamp = Annotated[int, msgspec.Meta(ge=0, le=LAST_STAMP)]
_Int64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Moment = Annotated[int, msgspec.Meta(ge=0, lt=_END_MOMENT)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]
_EMITTED = {type(None), bool, int, float, str, list, dict}


class BacktestPass(msgspec.Struct, frozen=True):
    """What another node is sent. columns: those the script was compiled with, as it names them.

    failures: their moments, int64 each; None where none are known.  The rest: see BacktestWork.
    """

    table: str
    script: str
    columns: list[SegmentColumn]
    once: bool
    filter: str | None
    from_ms: _Stamp
    to_ms: Annotated[int, msgspec.Meta(ge=0, le=LAST_STAMP + 1)]
    timeout_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_TIMEOUT_MS)]
    failures: bytes | None = None
    last_moment: _Moment | None = None


class _Sent(msgspec.Struct, frozen=True, array_like=True):
    """A Replay. emissions: (stamp, person, name, value). failed: int64[n]; successes: bool[moments of failures]."""

    emissions: list[tuple[_Stamp, str | _Int64, _Name, Any]]
    people: _Count
    runs: _Count
    failed: bytes
    last_failure: tuple[_Moment, str] | None
    successes: bytes | None


class ReplayCodec:
    """moments: how many moments of failures were sent along, None when none were."""

    def __init__(self, moments: int | None):
        self._moments = moments

    def merged(self, results: Sequence[Replay]) -> Replay:
        """Raises RunTimeError when it is too much."""
        replay = Replay()
        for result in results:
            replay.merge(result)
        return replay

    def encode(self, result: Replay) -> bytes:
        failed = np.concatenate([np.zeros(0, np.int64), *result.failed])
        return encoded(
            _Sent(
                [(one.stamp_ms, one.person, one.name, one.value) for one in result.emissions],
                result.people,
                result.runs,
                failed.astype("<i8").tobytes(),
                result.last_failure,
                None if result.successes is None else result.successes.tobytes(),
            )
        )

    def decode(self, data: bytes) -> Replay:
        """Raises WireError."""
        sent: _Sent = decoded(data, _Sent)
        checked((sent.last_failure is None) == (not sent.failed), "runs failed and it does not say why")
        checked(_can_be_emitted([value for *_, value in sent.emissions]), "nobody can emit one of its values")
        successes = None
        if sent.successes is not None:
            checked(len(sent.successes) == self._moments, "it is about other failures")
            successes = np.frombuffer(sent.successes, np.uint8) != 0
        failed = [_moments(sent.failed)] if sent.failed else []
        emissions = [Replayed(*one) for one in sent.emissions]
        return Replay(emissions, sent.people, sent.runs, failed, sent.last_failure, successes)


def _can_be_emitted(values: Sequence[Any]) -> bool:
    """Whether all are what `openset.pyql.actions.plain` makes of values; msgpack has more. Level by level: they may be
    nested as deep as the decoder takes.
    """
    level = values
    while level:
        kinds = set(map(type, level))
        lists = [one for one in level if type(one) is list] if list in kinds else []
        dicts = [one for one in level if type(one) is dict] if dict in kinds else []
        fits = int not in kinds or all(-(1 << 63) <= one < 1 << 63 for one in level if type(one) is int)
        if not (fits and kinds <= _EMITTED and all(type(key) is str for one in dicts for key in one)):
            return False
        level = [held for one in lists for held in one] + [held for one in dicts for held in one.values()]
    return True


def _moments(data: bytes) -> Ints:
    """Raises WireError."""
    checked(len(data) % 8 == 0, "its moments are none")
    moments = np.frombuffer(data, "<i8").astype(np.int64)
    checked(bool(np.all((moments >= 0) & (moments < _END_MOMENT))), "a moment is at no time")
    return moments


def sent_failures(failures: Failures | None) -> bytes | None:
    """As a pass has them. How many runs failed at a moment matters to whoever asks alone."""
    return None if failures is None else failures.moments.astype("<i8").tobytes()


def _failures(asked: BacktestPass) -> Failures | None:
    """Raises WireError."""
    if asked.failures is None:
        return None
    moments = _moments(asked.failures)
    checked(len(moments) > 0 and bool(np.all(moments[1:] > moments[:-1])), "its failures are none, or in no order")
    return Failures(moments, np.ones(len(moments), np.int64))


async def replay_spread(
    tools: Tools,
    spread: Spread,
    schema: TableSchema,
    asked: BacktestPass,
    found: Mapping[str, StoredSegment],
    facts: Facts,
) -> Replay:
    """One pass over everybody. found: the segment of the filter, held by whoever asks.

    Raises OutdatedError when the table or the segment was changed meanwhile, and what a query raises.
    """
    names = [] if asked.filter is None else [asked.filter]
    target = Target(KIND, encoded(asked), schema_mark(schema), editions(names, found))
    deadline = facts.started + asked.timeout_ms / 1_000

    async def here(numbers: Sequence[int]) -> Share[Replay]:
        return await _pass_here(tools, asked, facts, target, numbers, spread.may_answer)

    asking = Asking(
        spread,
        _codec(asked),
        here,
        lambda numbers: ask_bytes(target, facts, deadline, numbers),
        deadline,
        asked.timeout_ms,
        partial=False,
        bring=bringing(tools, spread, found),
    )
    gathered = await gather(asking, range(tools.store.partitions or 0))
    return Replay() if gathered.result is None else gathered.result


def _codec(asked: BacktestPass) -> ReplayCodec:
    return ReplayCodec(None if asked.failures is None else len(asked.failures) // 8)


async def answer_pass(tools: Tools, ask: Ask, may_answer: Callable[[int], bool]) -> tuple[Share[Any], ReplayCodec]:
    """This node's share of a backtest that another node was asked for. Raises WireError, and what a query raises."""
    asked = request_of(ask.request, BacktestPass)
    checked(asked.from_ms <= asked.to_ms, "it asks for no time")
    facts = Facts(ask.now_ms, time.monotonic() - (asked.timeout_ms - ask.left_ms) / 1_000)
    target = Target(ask.kind, ask.request, ask.schema, ask.segments)
    return await _pass_here(tools, asked, facts, target, ask.partitions, may_answer), _codec(asked)


async def _pass_here(
    tools: Tools,
    asked: BacktestPass,
    facts: Facts,
    target: Target,
    numbers: Sequence[int],
    may_answer: Callable[[int], bool],
) -> Share[Replay]:
    """A pass over those of the partitions that this node may answer for. Raises WireError, OpenSetError."""
    allowed = [number for number in numbers if may_answer(number)]
    if not allowed:
        return Share(None, refused=numbers)
    failures = _failures(asked)
    names = [] if asked.filter is None else [asked.filter]
    store = tools.store
    with ExitStack() as held:
        schema, snapshots = held.enter_context(store.pinned_table(asked.table, facts.now_ms))
        differing = differs(tools, schema, target, facts)
        if differing is not None:
            return differing
        segments = held.enter_context(store.segments.pinned(schema.id, names, facts.now_ms))
        differing = differs(tools, schema, target, facts)  # what was pinned is between the two
        if differing is not None:
            return differing
        known = {(column.id, column.type) for column in schema.columns}
        checked(
            all((column.id, column.type) in known for column in asked.columns),
            "its script reads columns that there are not",
        )
        checked(asked.filter is None or asked.filter in segments, "it is about a segment that there is not")
        columns = tuple(ColumnSchema(one.id, one.name, one.type) for one in asked.columns)
        settings = RunSettings(
            now_ms=facts.now_ms,
            deadline=facts.started + asked.timeout_ms / 1_000,
            timeout_ms=asked.timeout_ms,
        )
        own = pinned_of(snapshots, allowed)
        work = BacktestWork(
            asked.script,
            replace(schema, columns=columns, version=0),
            own,
            settings,
            asked.once,
            None if asked.filter is None else segments[asked.filter].ref,
            asked.from_ms,
            asked.to_ms,
            failures,
            asked.last_moment,
        )
        results = await fan_out(tools.executor, work)
    merged = await asyncio.to_thread(_codec(asked).merged, results)
    return share_of(merged, len(own), numbers, allowed, may_answer)
