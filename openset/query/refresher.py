"""Background refresh of stored segments, one at a time on the query workers, and removal of those beyond their ttl.

A refresh that fails is shown in the listing of segments and tried again after its time; the earlier computation stays
until its ttl is over.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from openset.errors import OpenSetError, QueryError
from openset.log import get_logger
from openset.query.counts import prepared_counts
from openset.query.frame import Common, Facts, Prepared, Tools, run_query
from openset.query.shared_segments import is_refreshed_here, publish_failure
from openset.query.stored_segments import definition_of
from openset.store.schema import TableSchema
from openset.store.segment import StoredSegment

log = get_logger("openset.segments")

WAKE_SECONDS = 0.2
EXPIRY_CHECK_SECONDS = 5.0


class Refresher:
    """The daemon's background task. Made on the event loop, runs until `close`."""

    def __init__(self, tools: Callable[[], Tools], is_current: Callable[[], bool] = lambda: True):
        """tools: as they are when they are needed; a node may come to be one of several.

        is_current: whether this node has heard what it missed. Before, it refreshes nothing, for that would make what
        was removed meanwhile anew, as the latest computation.
        """
        self._tools_now = tools
        self._is_current = is_current
        self._segments = tools().store.segments
        self._task = asyncio.create_task(self._run())

    @property
    def _tools(self) -> Tools:
        return self._tools_now()

    async def close(self) -> None:
        """Ends the task; a refresh that runs is given up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        checked = time.monotonic()
        while True:
            try:
                if not await self._refresh_next():
                    await asyncio.sleep(WAKE_SECONDS)
                if time.monotonic() > checked + EXPIRY_CHECK_SECONDS:
                    checked = time.monotonic()
                    await asyncio.to_thread(self._segments.remove_expired, _now_ms())
            except Exception:  # the task must outlive whatever goes wrong with one segment
                log.exception("segments could not be looked after")
                await asyncio.sleep(EXPIRY_CHECK_SECONDS)

    async def _refresh_next(self) -> bool:
        """Whether a segment was due."""
        stored = self._segments.next_refresh(_now_ms(), self._is_ours) if self._is_current() else None
        if stored is None:
            return False
        name = stored.segment.name
        started = time.monotonic()
        try:
            await self._refresh(stored)
        except Exception as error:
            reason = error.message if isinstance(error, OpenSetError) else f"a defect of OpenSet: {error}"
            self._segments.refresh_failed(stored, reason, _now_ms())
            await self._tell_others(stored, reason)
            log.error("refresh failed", segment=name, reason=reason, exc_info=not isinstance(error, OpenSetError))
        else:
            log.info("refreshed", segment=name, ms=round(1000 * (time.monotonic() - started), 1))
        return True

    def _is_ours(self, stored: StoredSegment) -> bool:
        spread, partitions = self._tools.spread, self._tools.store.partitions
        return spread is None or (partitions is not None and is_refreshed_here(spread, partitions, stored))

    async def _tell_others(self, stored: StoredSegment, reason: str) -> None:
        if self._tools.spread is None:
            return
        with suppress(OpenSetError):  # a member that is not told keeps the segment for longer than its ttl
            await publish_failure(self._tools.spread, stored, reason)

    async def _refresh(self, stored: StoredSegment) -> None:
        """Raises OpenSetError."""
        schema = next((schema for schema in self._tools.store.tables() if schema.id == stored.table_id), None)
        if schema is None:
            return  # dropped since
        await run_query(self._tools, RefreshRequest(schema.name, Common(stored.segment.timeout_ms), stored))


@dataclass(frozen=True, slots=True, eq=False)
class RefreshRequest:
    """The counts query that computes a stored segment again."""

    kind: ClassVar[str] = "refresh"
    table: str
    common: Common
    stored: StoredSegment
    segments: None = None

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared:
        """Raises ParseError, QueryError."""
        if schema.id != self.stored.table_id:
            raise QueryError(f"the table of segment {self.stored.segment.name!r} was dropped")
        definition = await definition_of(tools.plans, schema, self.stored)
        return prepared_counts(tools, definition, self.common, facts)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
