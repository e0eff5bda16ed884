"""The sentinel at work: campaigns, decides, swaps under its term, removes who has left, and remembers why.

Runs on every member and does nothing where the node is not elected. The decisions are `sentinel.decide`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from openset.cluster.coordinator import Session
from openset.cluster.keeper import Revision
from openset.cluster.loads import Loads
from openset.cluster.map import NodeName
from openset.cluster.sentinel import Change, Health, decide, unplaced
from openset.cluster.view import Sentinel, View
from openset.errors import ConflictError, LeaseLostError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset_format.decoding import msgpack_decoder

if TYPE_CHECKING:
    from openset.cluster.member import Membership

log = get_logger("openset.cluster")

_KEPT_DECISIONS = 100
_SWAPS_AT_ONCE = 32
# Nothing has to change for somebody to have been dead for too long.
_LOOK_SECONDS = 0.5
_PAUSE_AFTER_FAILURE_SECONDS = 0.5
# After a change: what comes of it, and at the same time, is answered together.
_GATHER_SECONDS = 0.1
# How often the members are asked what their partitions weigh, and how long for an answer.
_LOADS_SECONDS = 10.0
_LOADS_MS = 2_000
LOADS_ROUTE = "load"


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the sentinel changed, or tried to. at_ms: since 1970. refused: why it was not made."""

    at_ms: int
    reason: str
    partition: int | None = None
    node: NodeName | None = None
    refused: str | None = None


Rows = Annotated[int, msgspec.Meta(ge=0)]


class Told(msgspec.Struct, frozen=True):
    """What the sentinel tells other nodes. decisions: oldest first. rows: by partition, where it knows."""

    decisions: list[Decision]
    rows: dict[int, Rows]


class SentinelRun:
    """decisions: the latest ones of this node, oldest first. sentinel: its term while it is elected.

    loads: what it knows of the partitions in this term.
    """

    def __init__(self, membership: Membership, gone_after_ms: int):
        """gone_after_ms: who is dead for so long is replaced as a copy."""
        self.sentinel: Sentinel | None = None
        self.decisions: deque[Decision] = deque(maxlen=_KEPT_DECISIONS)
        self._membership = membership
        self._gone_after_ms = gone_after_ms
        self._session: Session | None = None
        self._dead_since: dict[NodeName, float] = {}
        self.loads = Loads()
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0

    def told(self) -> Told:
        """What this node knows as the sentinel."""
        return Told(list(self.decisions), self.loads.rows)

    async def run(self) -> None:
        """For good."""
        try:
            await self._run()
        finally:
            self._forget_loads()

    async def _run(self) -> None:
        while True:
            try:
                made = await self._turn()
            except LeaseLostError:
                self._stand_down()
                made = 0
            except UnreachableError:  # presence tells of it
                made = 0
                await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
            if made:
                # The next decision is made on what this one has led to.
                while self._membership.revision < made and await self._membership.changed(_LOOK_SECONDS):
                    pass
                self._membership.nudge_others("map_change")
                await asyncio.sleep(_GATHER_SECONDS)
            else:
                await self._membership.changed(_LOOK_SECONDS)

    def _stand_down(self) -> None:
        if self.sentinel is not None:
            log.info("this node is not the sentinel any more", term=self.sentinel.term)
        self.sentinel = None
        self._dead_since.clear()
        self._forget_loads()

    async def _turn(self) -> Revision:
        """One look; the revision of the last change, 0 when there was none."""
        view, session = self._membership.view, self._membership.presence.session
        if session is None or self._membership.node not in view.members:
            self._stand_down()
            return 0
        if self.sentinel is None or session is not self._session:
            self._stand_down()
            if view.sentinel is not None and view.sentinel.node != self._membership.node:
                return 0
            self.sentinel = await self._membership.coordinator.campaign(session)
            self._session = session
            if self.sentinel is None:
                return 0
            log.info("this node is the sentinel", term=self.sentinel.term)
        return await self._act(view, self.sentinel)

    async def _act(self, view: View, sentinel: Sentinel) -> Revision:
        cluster = view.map
        if cluster is None:
            return 0
        alive = frozenset(view.alive)
        self._ask_loads()
        weights = self.loads.weights(view.placements.keys())
        changes = decide(cluster, Health(alive, self._gone(view), weights, self.loads.complete))
        work: list[Coroutine[Any, Any, Revision]] = [self._swap(change, sentinel) for change in changes]
        work += [
            self._remove(node, registered.revision, sentinel)
            for node, registered in view.members.items()
            if registered.member.leaving and unplaced(view.placements, node)
        ]
        return await _all(work)

    def _ask_loads(self) -> None:
        """Now and then; nothing waits for the answers but what is moved for balance the first time."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._asked_at >= _LOADS_SECONDS):
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(self._learn_loads(self.loads))

    async def _learn_loads(self, loads: Loads) -> None:
        membership = self._membership
        others = sorted(membership.view.alive.keys() & membership.view.members.keys() - {membership.node})
        answers = await asyncio.gather(*(self._rows_of(node) for node in others))
        told = {node: rows for node, rows in zip(others, answers, strict=True) if rows is not None}
        told[membership.node] = membership.rows()
        owners = {number: placed.placement.owner for number, placed in membership.view.placements.items()}
        loads.told(told, owners)

    async def _rows_of(self, node: NodeName) -> dict[int, int] | None:
        try:
            body = await self._membership.peers.call(node, LOADS_ROUTE, timeout_ms=_LOADS_MS)
            return msgpack_decoder(dict[int, Rows]).decode(body)
        except (OpenSetError, msgspec.DecodeError) as error:
            log.info("a node does not say what its partitions weigh", node=node, reason=str(error))
            return None

    def _forget_loads(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._asking, self.loads = None, Loads()

    def _gone(self, view: View) -> frozenset[NodeName]:
        now = time.monotonic()
        self._dead_since = {node: self._dead_since.get(node, now) for node in view.members if node not in view.alive}
        return frozenset(
            node for node, since in self._dead_since.items() if (now - since) * 1_000 >= self._gone_after_ms
        )

    async def _swap(self, change: Change, sentinel: Sentinel) -> Revision:
        coordinator, placement = self._membership.coordinator, change.placement
        try:
            revision = await coordinator.swap(
                change.partition,
                change.expected_revision,
                placement,
                while_dead=change.while_dead,
                sentinel=sentinel,
            )
        except ConflictError as error:
            self._note(placement.reason, partition=change.partition, refused=error.message)
            return 0
        self._note(placement.reason, partition=change.partition)
        return revision

    async def _remove(self, node: NodeName, expected: Revision, sentinel: Sentinel) -> Revision:
        reason = f"{node} leaves and holds nothing any more: it is removed"
        try:
            revision = await self._membership.coordinator.remove_member(node, expected, sentinel)
        except ConflictError as error:
            self._note(reason, node=node, refused=error.message)
            return 0
        self._note(reason, node=node)
        return revision

    def _note(
        self,
        reason: str,
        *,
        partition: int | None = None,
        node: NodeName | None = None,
        refused: str | None = None,
    ) -> None:
        self.decisions.append(Decision(time.time_ns() // 1_000_000, reason, partition, node, refused))
        log.info("the sentinel decides", reason=reason, partition=partition, node=node, refused=refused)


async def _all(work: Sequence[Coroutine[Any, Any, Revision]]) -> Revision:
    """Some at a time, all of them; the greatest revision. Raises the first error when the others are done."""
    last, failure = 0, None
    for first in range(0, len(work), _SWAPS_AT_ONCE):
        outcomes = await asyncio.gather(*work[first : first + _SWAPS_AT_ONCE], return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, int):
                last = max(last, outcome)
            else:
                failure = failure or outcome
        if failure is not None:
            for never in work[first + _SWAPS_AT_ONCE :]:
                never.close()
            raise failure
    return last
