"""Backtests as they are asked for: which script, which people, which time; and what is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from openset.errors import QueryError
from openset.pyql.settings import RunSettings
from openset.pyql.states import order_key
from openset.query.compare import unknown_segment
from openset.query.executor import Executor
from openset.query.fan_out import fan_out
from openset.query.frame import DEFAULT_TIMEOUT_MS, Facts, Tools
from openset.query.spread import Spread, until_agreed
from openset.revent.backtest import BacktestWork, by_day
from openset.revent.disabling import ERRORS_UNTIL_DISABLED, PARTS, Failures
from openset.revent.names import check_name
from openset.revent.replay import Replay, Replayed
from openset.revent.scripts import checked_script, schema_as_saved
from openset.revent.spread_backtests import BacktestPass, ReplayCodec, replay_spread, sent_failures
from openset.store.fold import iso_text
from openset.store.schema import TableSchema
from openset.store.segment import SegmentColumn, StoredSegment
from openset.store.snapshot import PartitionSnapshot
from openset.store.stamps import LAST_STAMP
from openset.store.trigger_catalog import Trigger

SAMPLES_SHOWN = 20
# Of so many moments of failures one pass asks whether runs succeeded between them: of few first, because most scripts
# that fail do so at once, then of as many as fit into a request to another node (32 MiB).
_FIRST_MOMENTS = 1 << 16
_MOST_MOMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class BacktestRequest:
    """script: empty takes the saved one. once, filter: None takes that of the saved trigger. to_ms: None is now.

    errors_until_disabled: so many errors in a row end it, as they would have disabled the trigger.
    """

    table: str
    name: str
    script: str
    from_ms: int | None = None
    to_ms: int | None = None
    once: bool | None = None
    filter: str | None = None
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    errors_until_disabled: int = ERRORS_UNTIL_DISABLED


@dataclass(frozen=True, slots=True)
class Backtest:
    """What came of it. emissions: by time, then person. disabled_at_ms: when errors would have ended it."""

    name: str
    from_ms: int
    to_ms: int
    replay: Replay
    emissions: list[Replayed]
    disabled_at_ms: int | None = None

    def facts(self) -> dict[str, Any]:
        """Counts, and what went wrong."""
        return {
            "trigger": self.name,
            "from": self.from_ms,
            "to": self.to_ms,
            "people": self.replay.people,
            "runs": self.replay.runs,
            "emissions": len(self.emissions),
            "emitting_people": len({(type(one.person), one.person) for one in self.emissions}),
            "errors": self.replay.errors,
            "last_error": None if self.replay.last_failure is None else self.replay.last_failure[1],
            "disabled_at": self.disabled_at_ms,
            "disabled_at_iso": None if self.disabled_at_ms is None else iso_text(self.disabled_at_ms),
        }

    def shown(self) -> dict[str, Any]:
        """Facts, days and samples."""
        return {
            **self.facts(),
            "days": list(by_day(self.emissions)),
            "sample": [self._message(one) for one in self.emissions[:SAMPLES_SHOWN]],
        }

    def lines(self) -> bytes:
        """Every emission as a line of JSON."""
        return b"".join(msgspec.json.encode(self._message(one)) + b"\n" for one in self.emissions)

    def _message(self, one: Replayed) -> dict[str, Any]:
        return {"stamp": one.stamp_ms, "stamp_iso": iso_text(one.stamp_ms), "person": one.person, "trigger": self.name,
                "name": one.name, "value": one.value}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class _Settled:
    """What is replayed, found out once: the script and the table it is compiled for, and for whom it runs."""

    schema: TableSchema
    script: str
    as_saved: TableSchema
    once: bool
    filter: str | None
    segments: Mapping[str, StoredSegment]
    from_ms: int
    to_ms: int


async def backtest(tools: Tools, request: BacktestRequest) -> Backtest:
    """Replays history; nothing is emitted. Raises ParseError, QueryError, RunTimeError; in a cluster as queries do."""
    check_name(request.name, "trigger")
    facts = Facts(tools.store.triggers.clock())

    async def tested() -> Backtest:
        with ExitStack() as held:
            return await _tested(tools, request, facts, held)

    return await until_agreed(tested, facts.started + request.timeout_ms / 1_000)


async def _tested(tools: Tools, request: BacktestRequest, facts: Facts, held: ExitStack) -> Backtest:
    """Raises OutdatedError when other nodes know the table or the segment in another form."""
    store = tools.store
    from_ms, to_ms = _window(request, facts.now_ms)
    schema, snapshots = held.enter_context(store.pinned_table(request.table, facts.now_ms))
    saved = next(
        (one for one in store.triggers.of_table(schema.id) if one.name == request.name and not one.watched), None
    )
    script, as_saved = _script(schema, saved, request)
    await asyncio.to_thread(checked_script, script, as_saved)
    once = (True if saved is None else saved.once) if request.once is None else request.once
    wanted = (None if saved is None else saved.filter) if request.filter is None else request.filter or None
    # Segments are looked up by the clock they are made with.
    now_ms = time.time_ns() // 1_000_000 if tools.spread is None else facts.now_ms
    found = held.enter_context(store.segments.pinned(schema.id, [] if wanted is None else [wanted], now_ms))
    if wanted is not None and wanted not in found:
        raise unknown_segment(wanted, [stored.segment.name for stored in store.segments.all(schema.id, now_ms)])
    settled = _Settled(schema, script, as_saved, once, wanted, found, from_ms, to_ms)
    if tools.spread is None:
        one_pass = _local_passes(tools.executor, snapshots, settled, request.timeout_ms, facts)
    else:
        one_pass = _spread_passes(tools, tools.spread, settled, request, facts)
    replay, disabled_at_ms = await _replayed(one_pass, request.errors_until_disabled)
    return await asyncio.to_thread(_backtest, request.name, from_ms, to_ms, replay, disabled_at_ms)


# One replay of everybody: with the failures of a replay before, up to a moment.
Pass = Callable[[Failures | None, int | None], Awaitable[Replay]]


def _local_passes(
    executor: Executor, snapshots: Sequence[PartitionSnapshot], settled: _Settled, timeout_ms: int, facts: Facts
) -> Pass:
    settings = RunSettings(
        now_ms=facts.now_ms, deadline=facts.started + timeout_ms / 1_000, timeout_ms=timeout_ms
    )  # fmt: skip
    people = None if settled.filter is None else settled.segments[settled.filter].ref

    async def one_pass(failures: Failures | None, last_moment: int | None) -> Replay:
        work = BacktestWork(
            settled.script, settled.as_saved, snapshots, settings, settled.once, people,
            settled.from_ms, _end(settled, last_moment), failures, last_moment,
        )  # fmt: skip
        return ReplayCodec(None).merged(await fan_out(executor, work))

    return one_pass


def _spread_passes(tools: Tools, spread: Spread, settled: _Settled, request: BacktestRequest, facts: Facts) -> Pass:
    columns = [SegmentColumn(one.id, one.name, one.type) for one in settled.as_saved.columns]

    async def one_pass(failures: Failures | None, last_moment: int | None) -> Replay:
        asked = BacktestPass(
            request.table, settled.script, columns, settled.once, settled.filter, settled.from_ms,
            _end(settled, last_moment), request.timeout_ms, sent_failures(failures), last_moment,
        )  # fmt: skip
        return await replay_spread(tools, spread, settled.schema, asked, settled.segments, facts)

    return one_pass


def _end(settled: _Settled, last_moment: int | None) -> int:
    """Before when events are inserts: none is after the last moment."""
    return settled.to_ms if last_moment is None else last_moment // PARTS + 1


async def _replayed(one_pass: Pass, errors_until_disabled: int) -> tuple[Replay, int | None]:
    """The replay, up to the moment at which too many errors in a row end it, and that moment.

    Only the errors of everybody together say when that is, and only where errors are do the other runs matter.
    """
    replay = await one_pass(None, None)
    if replay.errors < errors_until_disabled:
        return replay, None
    last_moment = await _last_moment(one_pass, Failures.of(np.concatenate(replay.failed)), errors_until_disabled)
    if last_moment is None:
        return replay, None
    return await one_pass(None, last_moment), last_moment // PARTS


async def _last_moment(one_pass: Pass, failures: Failures, errors_until_disabled: int) -> int | None:
    """The moment that `Failures.disabled_at` finds, asked for piece by piece: a pass ends where its piece does."""
    gaps = np.zeros(0, np.bool_)
    while len(gaps) < len(failures.moments):
        # A piece begins with the last moment before it: what succeeded before that is known.
        first = max(len(gaps) - 1, 0)
        piece = failures.part(first, len(gaps) + (_MOST_MOMENTS if len(gaps) else _FIRST_MOMENTS))
        successes = (await one_pass(piece, int(piece.moments[-1]))).successes
        if successes is None:  # there is nobody any more whom a run could have succeeded for
            successes = np.zeros(len(piece.moments), np.bool_)
        gaps = np.concatenate([gaps, successes[len(gaps) - first :]])
        last_moment = failures.part(0, len(gaps)).disabled_at(gaps, errors_until_disabled)
        if last_moment is not None:
            return last_moment
    return None


def _backtest(name: str, from_ms: int, to_ms: int, replay: Replay, disabled_at_ms: int | None) -> Backtest:
    emissions = sorted(replay.emissions, key=lambda one: (one.stamp_ms, order_key(one.person), one.name))
    return Backtest(name, from_ms, to_ms, replay, emissions, disabled_at_ms)


def _window(request: BacktestRequest, now_ms: int) -> tuple[int, int]:
    """From when to before when. Raises QueryError when it ends before it begins."""
    from_ms = 0 if request.from_ms is None else request.from_ms
    to_ms = now_ms if request.to_ms is None else min(request.to_ms, LAST_STAMP + 1)
    if from_ms > to_ms:
        end = "now" if request.to_ms is None else "to"
        raise QueryError(f"from ({iso_text(from_ms)}) is later than {end} ({iso_text(to_ms)})")
    return from_ms, to_ms


def _script(schema: TableSchema, saved: Trigger | None, request: BacktestRequest) -> tuple[str, TableSchema]:
    """The script, and the table it is compiled for. Raises QueryError."""
    if request.script.strip():
        return request.script, schema
    if saved is None:
        raise QueryError(f"there is no trigger {request.name!a} in table {schema.name!r}; send a script to try one")
    return saved.script, schema_as_saved(saved, schema)
