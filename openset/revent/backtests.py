"""Backtests as they are asked for: which script, which people, which time; and what is answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from openset.errors import QueryError
from openset.pyql.settings import RunSettings
from openset.pyql.states import order_key
from openset.query.compare import unknown_segment
from openset.query.executor import Executor
from openset.query.fan_out import fan_out
from openset.query.frame import DEFAULT_TIMEOUT_MS
from openset.revent.backtest import BacktestWork, by_day
from openset.revent.disabling import ERRORS_UNTIL_DISABLED, PARTS, Failures
from openset.revent.names import check_name
from openset.revent.replay import Replay, Replayed
from openset.revent.scripts import checked_script, schema_as_saved
from openset.store.fold import iso_text
from openset.store.members import SegmentRef
from openset.store.schema import TableSchema
from openset.store.stamps import LAST_STAMP
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger

SAMPLES_SHOWN = 20


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


async def backtest(store: Store, executor: Executor, request: BacktestRequest) -> Backtest:
    """Replays history; nothing is emitted. Raises ParseError, QueryError, RunTimeError."""
    check_name(request.name, "trigger")
    now_ms = store.triggers.clock()
    from_ms, to_ms = _window(request, now_ms)
    started = time.monotonic()
    with ExitStack() as held:
        schema, snapshots = held.enter_context(store.pinned_table(request.table, now_ms))
        saved = next(
            (one for one in store.triggers.of_table(schema.id) if one.name == request.name and not one.watched), None
        )
        script, as_saved = _script(schema, saved, request)
        await asyncio.to_thread(checked_script, script, as_saved)
        once = (True if saved is None else saved.once) if request.once is None else request.once
        wanted = (None if saved is None else saved.filter) if request.filter is None else request.filter or None
        people: SegmentRef | None = None
        if wanted is not None:
            found = held.enter_context(store.segments.pinned(schema.id, [wanted], time.time() * 1_000))
            if wanted not in found:
                known = [stored.segment.name for stored in store.segments.all(schema.id, time.time() * 1_000)]
                raise unknown_segment(wanted, known)
            people = found[wanted].ref
        settings = RunSettings(
            now_ms=now_ms, deadline=started + request.timeout_ms / 1_000, timeout_ms=request.timeout_ms
        )
        work = BacktestWork(script, as_saved, snapshots, settings, once, people, from_ms, to_ms)
        replay, disabled_at_ms = await _replayed(executor, work, request.errors_until_disabled)
    return await asyncio.to_thread(_backtest, request.name, from_ms, to_ms, replay, disabled_at_ms)


async def _replayed(executor: Executor, work: BacktestWork, errors_until_disabled: int) -> tuple[Replay, int | None]:
    """The replay, up to the moment at which too many errors in a row end it, and that moment.

    Only the errors of everybody together say when that is, and only where errors are do the other runs matter.
    """
    replay = _together(await fan_out(executor, work))
    if replay.errors < errors_until_disabled:
        return replay, None
    failures = Failures.of(np.concatenate(replay.failed))
    successes = _together(await fan_out(executor, replace(work, failures=failures))).successes
    assert successes is not None
    last_moment = failures.disabled_at(successes, errors_until_disabled)
    if last_moment is None:
        return replay, None
    disabled_at_ms = last_moment // PARTS
    ended = replace(work, to_ms=disabled_at_ms + 1, last_moment=last_moment)
    return _together(await fan_out(executor, ended)), disabled_at_ms


def _together(parts: Sequence[Replay]) -> Replay:
    replay = Replay()
    for part in parts:
        replay.merge(part)
    return replay


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
