"""The data of a node that is a member of a cluster: what `cluster.member` tells of the map goes to its replication.

On a node that stands alone there is nothing here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openset.cluster.keeper import Revision
from openset.cluster.member import Membership
from openset.cluster.messages import LeaseRenewed
from openset.cluster.replication import Replication
from openset.cluster.routing import Routing, insert_items
from openset.cluster.stamping import Stamping
from openset.cluster.transfers import Rate
from openset.cluster.view import View
from openset.cluster.wire import WriteItem
from openset.errors import InternalError, OpenSetError, QueryError, UnreachableError
from openset.http.member_spread import MemberSpread
from openset.log import get_logger
from openset.query.shared_segments import listed_by, take_over
from openset.store.ingest import Insert
from openset.store.records import ERASURE_RECORD

if TYPE_CHECKING:
    from openset.http.node import Node

log = get_logger("openset.cluster")

# So long queries of a node that is back wait for what it missed.
_CURRENT_SECONDS = 5.0
# So long requests wait for the partitions of a node that is becoming a member.
_READY_SECONDS = 10.0
# A node that could not be compared with another one tries again after this long, then after twice that, and so on.
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
# So long a node that stops waits for the writes that run before others may own what it owns.
_FINISH_SECONDS = 1.0
REVENT_ROUTE = "revent"


@dataclass(slots=True, eq=False)
class _Comparison:
    """Of the segments of another node with those here. since: when this node and the other one began to live."""

    since: tuple[Revision, Revision]
    task: asyncio.Task[None]
    is_heard: bool = False


class MemberData:
    """A `member.DataPlane`."""

    def __init__(self, node: Node):
        self._node = node
        self._membership: Membership | None = None
        self._replication: Replication | None = None
        self._routing: Routing | None = None
        self._stamping: Stamping | None = None
        self._has_partitions = asyncio.Event()
        # Whether this node has heard what it missed while it or another one was not alive; by node who asks it.
        self._is_current = asyncio.Event()
        self._comparisons: dict[str, _Comparison] = {}
        self._taking_over = asyncio.Lock()
        self._current_at = asyncio.get_running_loop().time() + _CURRENT_SECONDS
        self._alive_since: Revision | None = -1  # the first view is another one, whatever it says
        self._owned: frozenset[int] = frozenset()

    @property
    def membership(self) -> Membership:
        """Raises UnreachableError while the node starts."""
        if self._membership is None:
            raise UnreachableError("this node does not know its cluster yet")
        return self._membership

    @property
    def replication(self) -> Replication:
        """Raises UnreachableError while the node starts."""
        if self._replication is None:
            raise UnreachableError("this node does not know its partitions yet")
        return self._replication

    @property
    def routing(self) -> Routing:
        """Raises UnreachableError while the node starts."""
        if self._routing is None:
            raise UnreachableError("this node does not know its partitions yet")
        return self._routing

    @property
    def stamping(self) -> Stamping:
        """Raises UnreachableError while the node starts."""
        if self._stamping is None:
            raise UnreachableError("this node does not know its partitions yet")
        return self._stamping

    async def ready(self) -> None:
        """Waits for the partitions: between becoming a member and that they are not known for a moment.

        Raises UnreachableError when it takes long.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_READY_SECONDS):
                await self._has_partitions.wait()
                return
        raise UnreachableError("this node does not know its partitions yet")

    def may_answer(self, partition: int) -> bool:
        """Whether this node may answer queries about a partition."""
        return self._replication is not None and self._replication.may_answer(partition)

    async def insert(self, insert: Insert) -> None:
        """Writes a prepared request to the owners of its partitions. Raises UnreachableError, ReadOnlyError."""
        stamped = await self.stamping.stamped(insert)
        await self.routing.write(await asyncio.to_thread(insert_items, stamped))

    async def write_erasure(self, partition: int, table_id: int, payload: bytes) -> None:
        """Writes an erasure to the owner of its partition. Raises as `insert`."""
        await self.routing.write([WriteItem(partition, ERASURE_RECORD, table_id, payload)])

    async def current(self) -> None:
        """Waits until the stored segments are those of the other members, but not for long."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._current_at):
                await self._is_current.wait()

    @property
    def is_current(self) -> bool:
        """Whether this node has heard from all living ones what it missed while one of the two was away."""
        return self._is_current.is_set()

    def _look_alive(self, view: View) -> None:
        """A node that joins, starts or is back and the others ask each other what was computed or removed."""
        assert self._membership is not None
        name = self._membership.node
        since = view.alive.get(name)
        if since != self._alive_since:
            self._alive_since = since
            self._current_at = asyncio.get_running_loop().time() + _CURRENT_SECONDS
        # By node, what tells apart the times during which both live.
        living = {} if since is None else {node: (since, view.alive[node]) for node in view.alive.keys() & view.members}
        living.pop(name, None)
        for node, comparison in list(self._comparisons.items()):
            if living.get(node) != comparison.since:
                comparison.task.cancel()
                del self._comparisons[node]
        for node in sorted(living.keys() - self._comparisons.keys()):
            self._comparisons[node] = _Comparison(living[node], asyncio.create_task(self._catch_up(node)))
        self._look_heard()

    def _look_heard(self) -> None:
        if self._alive_since is not None and all(one.is_heard for one in self._comparisons.values()):
            self._is_current.set()
        else:
            self._is_current.clear()

    async def _catch_up(self, node: str) -> None:
        """Takes over what another node has, as often as it takes; cancelled when one of the two is away."""
        pause_seconds = _FIRST_PAUSE_SECONDS
        try:
            while not await self._has_taken_over(node):
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)
        except Exception:  # nobody awaits this task
            log.exception("a defect in comparing stored segments", node=node)
        self._comparisons[node].is_heard = True
        self._look_heard()

    async def _has_taken_over(self, node: str) -> bool:
        """Whether this node has all that another one can give it."""
        store, spread = self._node.held_store, self._node.spread
        assert store is not None and spread is not None
        try:
            listed = await listed_by(spread, node)
        except OpenSetError as error:
            log.warning("stored segments could not be compared", node=node, reason=error.message)
            return False
        try:
            async with self._taking_over:  # what several nodes have is fetched once
                await take_over(store, spread, node, listed)
        except (InternalError, QueryError) as error:  # about single segments; all were tried
            log.error("stored segments could not be taken over", node=node, reason=error.message)
        except OpenSetError as error:
            log.warning("stored segments could not be compared", node=node, reason=error.message)
            return False
        return True

    # --- what triggers see of the cluster (`revent.subscriptions.Others`) -------------------------------------------

    @property
    def node(self) -> str:
        return self.membership.node

    def owners(self) -> Mapping[int, str]:
        return {number: one.placement.owner for number, one in self.membership.view.placements.items()}

    def living(self) -> Collection[str]:
        view = self.membership.view
        return view.alive.keys() & view.members.keys()

    async def ask_revent(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        return await self.membership.peers.call(node, REVENT_ROUTE, body, timeout_ms=timeout_ms)

    def _look_owned(self, view: View) -> None:
        """Tells the node when it owns other partitions than before."""
        assert self._membership is not None
        name = self._membership.node
        owned = frozenset(number for number, one in view.placements.items() if one.placement.owner == name)
        if owned != self._owned:
            self._owned = owned
            self._node.owned_changed()

    # --- DataPlane -------------------------------------------------------------------------------------------------

    def attach(self, membership: Membership) -> None:
        self._membership = membership

    async def become_member(self, view: View) -> None:
        assert view.settings is not None
        await self._node.reopen_as_member(view.settings.journal_id)

    def view(self, view: View) -> None:
        if self._replication is None:
            store, membership = self._node.held_store, self._membership
            assert membership is not None
            if store is None or store.replicas is None:
                return
            rate = Rate(self._node.cluster.options.transfer_bytes_per_second)
            self._replication = Replication(store, membership, rate=rate)
            self._routing = Routing(membership, self._replication)
            self._stamping = Stamping(membership, self._replication)
            self._node.spread = MemberSpread(membership, self)
            self._has_partitions.set()
        self._replication.view(view)
        self._look_alive(view)
        self._look_owned(view)

    def lease(self, renewed: LeaseRenewed) -> None:
        if self._replication is not None:
            self._replication.lease(renewed)

    def transfers(self) -> Sequence[Mapping[str, Any]]:
        return () if self._replication is None else self._replication.transfers()

    def stop(self) -> None:
        if self._routing is not None:
            self._routing.stop()

    async def resign(self) -> None:
        if self._replication is not None:
            self._replication.resign()
            await self._replication.finished(_FINISH_SECONDS)

    async def close(self) -> None:
        tasks = [comparison.task for comparison in self._comparisons.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        replication, self._replication, self._routing = self._replication, None, None
        if replication is not None:
            await replication.close()
