"""Keeps a node alive in the eyes of the coordinator, whatever happens to sessions and connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from openset.cluster.coordinator import Coordinator, Session
from openset.cluster.map import NodeName
from openset.cluster.messages import LeaseRenewed
from openset.errors import AbsentError, LeaseLostError, UnreachableError

_RENEWALS_PER_LEASE = 4
_RETRIES_PER_LEASE = 20


class Presence:
    """Keeps a node alive: opens a session, renews it, opens another one when it is lost. session: the present one."""

    def __init__(
        self,
        coordinator: Coordinator,
        node: NodeName,
        renewed: Callable[[LeaseRenewed], None],
        trouble: Callable[[UnreachableError], None] | None = None,
        extended: Callable[[LeaseRenewed], None] | None = None,
    ):
        """renewed: hears of every renewal, as the node's state has to. trouble: of every attempt that failed.

        extended: of a lease that lasts on because the coordinator is not running.
        """
        self.session: Session | None = None
        self._coordinator = coordinator
        self._node = node
        self._renewed = renewed
        self._trouble = trouble
        self._extended = extended
        self._until_ms = 0

    async def run(self) -> None:
        """For good, until it is cancelled; after that `end` may be called. ConfigError and ConflictError end it."""
        while True:
            ttl_ms = self._coordinator.ttl_ms if self.session is None else self.session.ttl_ms
            pause_ms = ttl_ms / _RENEWALS_PER_LEASE
            asked_ms = self._coordinator.now_ms()
            try:
                if self.session is None:
                    self.session = await self._coordinator.open_session(self._node)
                    renewed = LeaseRenewed(self.session.until_ms, self.session.since)
                else:
                    renewed = await self._coordinator.renew(self.session)
                self._until_ms = renewed.until_ms
                self._renewed(renewed)
            except LeaseLostError:
                self.session = None
                pause_ms = ttl_ms / _RETRIES_PER_LEASE
            except UnreachableError as error:
                pause_ms = ttl_ms / _RETRIES_PER_LEASE
                if isinstance(error, AbsentError):
                    self._extend(asked_ms)
                if self._trouble is not None:
                    self._trouble(error)
            await asyncio.sleep(pause_ms / 1_000)

    def _extend(self, asked_ms: int) -> None:
        """The embedded coordinator is not running: where it ends with its process, no lease has ended since.

        When it starts again, every lease that it knows lasts its full time from then. So one that lasts when nobody
        listens in the coordinator's place lasts as long as one that was renewed at that moment.
        """
        if self.session is None or self._coordinator.now_ms() >= self._until_ms:
            return
        self._until_ms = max(self._until_ms, self._coordinator.until_ms(asked_ms, self.session.ttl_ms))
        if self._extended is not None:
            self._extended(LeaseRenewed(self._until_ms, self.session.since))

    async def end(self) -> None:
        """Leaves, so that others notice at once; where the coordinator is not reachable, after the lease."""
        session, self.session = self.session, None
        if session is not None:
            with suppress(UnreachableError):
                await self._coordinator.end_session(session)
