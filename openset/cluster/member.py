"""A node's membership while it runs: alive by its lease, current by its watch, and the sentinel where it is elected.

Views come from the watch, and from a reading where somebody knows of a later revision than the watch has told of. What
holds the data hears of views and of the lease (`DataPlane`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from openset.cluster.coordinator import Coordinator
from openset.cluster.keeper import Revision
from openset.cluster.map import NodeName
from openset.cluster.messages import LeaseRenewed
from openset.cluster.peers import Address, Peers
from openset.cluster.presence import Presence
from openset.cluster.security import Security
from openset.cluster.sentinel_run import SentinelRun
from openset.cluster.view import KeptTriggers, View
from openset.errors import ConflictError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset.store.store import Store

log = get_logger("openset.cluster")

_FOREIGN = (
    "the coordinator does not have the cluster of this node: its data are lost, or --coordinator names another place"
)
# The watch tells of a change about as fast as a reading would, when it is not broken.
_WATCH_GRACE_SECONDS = 0.1
_PAUSE_AFTER_FAILURE_SECONDS = 1.0
_FAREWELL_SECONDS = 2.0
_NUDGE_MS = 2_000
_LOOK_AT_DISK_SECONDS = 0.5
# A disk that is full, or has room again, has been so for so long before others act on it.
_DISK_SECONDS = 2.0


class DataPlane(Protocol):
    """What keeps a member's copies of partitions in step with the map. Methods without await are called in the loop."""

    def attach(self, membership: Membership) -> None:
        """Before anything else of this membership is told."""

    async def become_member(self, view: View) -> None:
        """Makes a member's data of that of a standalone or an empty node, durably. Called again after a failure."""

    def view(self, view: View) -> None:
        """What the coordinator holds now."""

    def lease(self, renewed: LeaseRenewed) -> None:
        """How long this node is held for alive."""

    def transfers(self) -> Sequence[Mapping[str, Any]]:
        """The transfers that run, for people."""

    def stop(self) -> None:
        """The daemon stops: whoever waits does so for a few more seconds."""

    async def resign(self) -> None:
        """This node owns nothing any more, whatever the map says; returns when what is being written has been."""

    async def close(self) -> None:
        """Nothing is told any more."""


class Membership:
    """node: this node's name.  view: the latest, there from `start` on.  sentinel_run: its part when it is elected."""

    def __init__(
        self,
        node: NodeName,
        cluster: str,
        coordinator: Coordinator,
        security: Security,
        store: Store,
        gone_after_ms: int,
    ):
        """store: gets the tables of the cluster, before anybody hears of a view that has them."""
        self.node = node
        self._cluster = cluster
        self._store = store
        self.coordinator = coordinator
        self.peers = Peers(security, node, cluster, self.address_of, lambda: self.revision)
        self.presence = Presence(coordinator, node, self._renewed, self._trouble, self._lease_lasts)
        self.sentinel_run = SentinelRun(self, gone_after_ms)
        self._view: View | None = None
        # The revisions of the schema, and of the triggers by table id, that the store has.
        self._adopted: Revision = 0
        self._adopted_triggers: dict[int, Revision] = {}
        # Why it has no later one.
        self._refused = ""
        self._on_view: list[Callable[[View], None]] = []
        self._on_lease: list[Callable[[LeaseRenewed], None]] = []
        self._changed = asyncio.Event()
        self._taking = asyncio.Lock()
        self._reading: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        # Those of them without which the node is not alive.
        self._living: list[asyncio.Task[None]] = []
        self._nudges: set[asyncio.Task[None]] = set()
        self._troubled = ""
        # What the coordinator has is not this node's cluster.
        self._is_foreign = False
        # When this node began to live, for the coordinator.
        self._alive_since: Revision | None = None
        # The daemon stops, and with it perhaps the coordinator: nothing to report.
        self.stopping = False

    @property
    def view(self) -> View:
        assert self._view is not None, "it has started"
        return self._view

    @property
    def revision(self) -> Revision:
        """Of the view, 0 before there is one."""
        return 0 if self._view is None else self._view.revision

    @property
    def waits_for(self) -> str:
        """What a start waits for, as far as is known."""
        return self.trouble or (f"the cluster's tables cannot be taken over: {self._refused}" if self._refused else "")

    @property
    def trouble(self) -> str:
        """Why the coordinator cannot be used at the moment, "" when it can."""
        return _FOREIGN if self._is_foreign else self._troubled

    def address_of(self, node: NodeName) -> Address | None:
        """Where a member is reached, None for who is none."""
        registered = None if self._view is None else self._view.members.get(node)
        return None if registered is None else Address(registered.member.host, registered.member.port)

    def on_view(self, told: Callable[[View], None]) -> None:
        """Calls it for every view from now on, and for the present one at once where there is one."""
        self._on_view.append(told)
        if self._view is not None:
            told(self._view)

    def on_lease(self, told: Callable[[LeaseRenewed], None]) -> None:
        """Calls it whenever the lease is renewed."""
        self._on_lease.append(told)

    def rows(self) -> dict[int, int]:
        """About how many rows the partitions have that are here; those without any record may be missing."""
        assert self._store.replicas is not None
        return self._store.compactions.rows(self._store.replicas.journals.numbers())

    def _damaged(self) -> tuple[int, ...]:
        assert self._store.copies is not None
        return self._store.copies.damaged()

    # ---------------------------------------------------------------- running

    async def start(self, check: Callable[[View], Awaitable[None]]) -> None:
        """Returns when there is a view whose tables the store has, however long that takes; it is alive soon after.

        check: raises where the node must not live.
        """
        self._tasks.append(asyncio.create_task(self._for_good("watch", self._watch)))
        self._tasks.append(asyncio.create_task(self._for_good("tables", self._adopt_again)))
        while self._view is None or self._lacks_tables:
            await self._changed.wait()
        await check(self._view)
        self._living = [
            asyncio.create_task(self._for_good("presence", self.presence.run)),
            asyncio.create_task(self._for_good("sentinel", self.sentinel_run.run)),
        ]
        self._tasks += self._living
        self._tasks.append(asyncio.create_task(self._for_good("disk", self._tell_of_disk)))

    async def _tell_of_disk(self) -> None:
        """Has the cluster know whether this node's disk takes anything, once that has been so for a while.

        And of which partitions the copy here is damaged.
        """
        since, was_full = 0.0, False
        while True:
            await asyncio.sleep(_LOOK_AT_DISK_SECONDS)
            is_full = self._store.health.condition.state == "full"
            now = asyncio.get_running_loop().time()
            if is_full != was_full:
                since, was_full = now, is_full
            registered = self.view.members.get(self.node)
            if registered is None:
                continue
            known = registered.member
            full = known.full if now - since < _DISK_SECONDS else is_full
            told = msgspec.structs.replace(known, full=full, damaged=self._damaged())
            if told == known:
                continue
            with suppress(ConflictError):  # the next view shows what it is now
                revision = await self.coordinator.change_member(told, registered.revision)
                if full != known.full:
                    log.warning("the disk is full: others are to own partitions" if full else "the disk has room again")
                if told.damaged != known.damaged:
                    log.warning("damaged copies of partitions, to be replaced where there are others", now=told.damaged)
                await self.caught_up(revision, _NUDGE_MS)
                await self.tell_others("map_change")

    async def close(self, *, leave_lease: bool = False) -> None:
        """leave_lease: says nothing to the coordinator, which may be gone already. It is not closed."""
        tasks = [*self._tasks, *self._nudges]
        if self._reading is not None:
            tasks.append(self._reading)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not leave_lease:
            await self._say_farewell()
        self.peers.close()

    async def stand_aside(self) -> None:
        """Others take over what this node owns; it still hears of the map, and is not alive until it starts again."""
        for task in self._living:
            task.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        await self._say_farewell()

    async def _say_farewell(self) -> None:
        with suppress(TimeoutError, OpenSetError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await self.presence.end()

    async def _for_good(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Operating errors end an attempt, not the node: the coordinator may be set right while it runs."""
        while True:
            try:
                await run()
            except OpenSetError as error:
                self._report(what, error)
            except Exception:
                log.exception("a defect in the membership of the cluster", part=what)
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)

    def _trouble(self, error: UnreachableError) -> None:
        self._report("coordinator", error)

    def _report(self, what: str, error: OpenSetError) -> None:
        """Once for each reason, until all is well again."""
        if error.message != self._troubled and not self.stopping:
            self._troubled = error.message
            log.warning("the cluster's coordinator cannot be used", part=what, reason=error.message)

    def _renewed(self, renewed: LeaseRenewed) -> None:
        if self._troubled:
            self._troubled = ""
            log.info("the cluster's coordinator can be used again")
        if renewed.revision != self._alive_since:
            # The lease before was lost, and with it maybe everything: the watch waits for what comes next.
            self._alive_since = renewed.revision
            self._in_background(self.read_now())
        self._lease_lasts(renewed)

    def _lease_lasts(self, renewed: LeaseRenewed) -> None:
        for told in self._on_lease:
            told(renewed)

    # ---------------------------------------------------------------- views

    async def _watch(self) -> None:
        async for view in self.coordinator.views(self._trouble):
            await self._take(view)

    async def _take(self, view: View) -> None:
        async with self._taking:
            # What it says then is about others: who is no member there was not removed.
            is_foreign = view.settings is None or view.settings.cluster != self._cluster
            if is_foreign and not self._is_foreign:
                log.error("the cluster's coordinator cannot be used", reason=_FOREIGN, cluster=self._cluster)
            self._is_foreign = is_foreign
            if is_foreign or view.revision <= self.revision:
                return
            await self._adopt(view)
            self._view = view
            for told in self._on_view:
                told(view)
            self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    @property
    def _lacks_tables(self) -> bool:
        return self._view is not None and (
            self._adopted < self._view.schema_revision or bool(self._new_triggers(self._view))
        )

    def _new_triggers(self, view: View) -> dict[int, KeptTriggers]:
        """Those that the store does not have yet."""
        return {key: kept for key, kept in view.triggers.items() if kept.revision > self._adopted_triggers.get(key, 0)}

    async def _adopt(self, view: View) -> None:
        """Gives the store the tables of a view, and their triggers.

        Where the disk refuses that is tried again, and map and lease go on.
        """
        try:
            if view.schema is not None and view.schema_revision > self._adopted:
                await asyncio.to_thread(self._store.adopt_schema, view.schema)
                self._adopted = view.schema_revision
            for table_id, kept in self._new_triggers(view).items():
                await asyncio.to_thread(self._store.triggers.adopt, table_id, kept.contents)
                self._adopted_triggers[table_id] = kept.revision
        except OpenSetError as error:
            if error.message != self._refused:
                log.error("the cluster's tables could not be taken over", reason=error.message, detail=error.detail)
            self._refused = error.message
            return
        self._refused = ""

    async def _adopt_again(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
            async with self._taking:
                if self._lacks_tables:
                    await self._adopt(self.view)
                    self._wake()

    async def changed(self, seconds: float) -> bool:
        """Waits for the next view; False when there is none in that time."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def until(self, is_so: Callable[[View], bool], timeout_ms: int, otherwise: str) -> None:
        """Waits for a view. Raises UnreachableError with what is otherwise the case."""
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                while not is_so(self.view):
                    if not await self.changed(_WATCH_GRACE_SECONDS):
                        await self.read_now()
        except TimeoutError as error:
            raise UnreachableError(otherwise) from error

    async def caught_up(self, revision: Revision, timeout_ms: int) -> None:
        """Returns when the view is of that revision or a later one, and the store has its tables.

        Raises UnreachableError when it takes too long.
        """
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                while self.revision < revision or self._lacks_tables:
                    if not await self.changed(_WATCH_GRACE_SECONDS):
                        await self.read_now()
        except TimeoutError as error:
            raise UnreachableError(
                f"{self.node} is at revision {self.revision} of the cluster, not {revision}, after {timeout_ms:,} ms"
            ) from error

    async def read_now(self) -> None:
        """Takes what the coordinator has now; shared by all who want that. Where it is not reachable, nothing."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        with suppress(UnreachableError):
            await self._take(await self.coordinator.read())

    # ---------------------------------------------------------------- others

    async def tell_others(self, route: str, *, but: NodeName = "") -> None:
        """Has the living members catch up with this node's view, and waits for that, 2 s at most."""
        others = [node for node in self.view.members if node in self.view.alive and node not in (self.node, but)]
        await asyncio.gather(*(self._tell(node, route) for node in others))

    def nudge_others(self, route: str) -> None:
        """`tell_others`, without waiting."""
        self._in_background(self.tell_others(route))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._nudges.add(task)
        task.add_done_callback(self._nudges.discard)

    async def _tell(self, node: NodeName, route: str) -> None:
        try:
            await self.peers.call(node, route, timeout_ms=_NUDGE_MS)
        except OpenSetError as error:
            log.info("a member could not be told", node=node, route=route, reason=error.message)
