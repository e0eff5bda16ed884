"""The cluster as queries see it (`query.spread.Spread`): who owns what, and how they are asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from openset.query.spread import Owners

if TYPE_CHECKING:
    from openset.cluster.member import Membership
    from openset.http.member_data import MemberData

QUERY_ROUTE = "query"


class MemberSpread:
    """Of a member that serves."""

    def __init__(self, membership: Membership, data: MemberData):
        self._membership = membership
        self._data = data

    @property
    def node(self) -> str:
        return self._membership.node

    def owners(self) -> Owners:
        view = self._membership.view
        return Owners(view.revision, {number: one.placement.owner for number, one in view.placements.items()})

    def members(self) -> Collection[str]:
        return self._membership.view.members.keys()

    def may_answer(self, partition: int) -> bool:
        return self._data.may_answer(partition)

    async def ask(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        return await self._membership.peers.call(node, QUERY_ROUTE, body, timeout_ms=timeout_ms)

    async def changed(self, revision: int, timeout_ms: int) -> None:
        until = asyncio.get_running_loop().time() + timeout_ms / 1_000
        while self._membership.revision == revision:
            left_seconds = until - asyncio.get_running_loop().time()
            if left_seconds <= 0:
                return
            await self._membership.changed(left_seconds)
