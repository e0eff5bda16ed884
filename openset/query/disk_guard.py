"""The daemon's look after a full disk: tries whether there is room again, so that inserts go on by themselves."""

from __future__ import annotations

import asyncio

from openset.log import get_logger
from openset.store.store import Store

log = get_logger("openset.store")

PROBE_SECONDS = 1.0


class DiskGuard:
    """The background task. Made on the event loop, runs until `close`."""

    def __init__(self, store: Store):
        self._store = store
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                if self._store.health.condition.state == "full" and await asyncio.to_thread(self._store.probe):
                    self._store.compactions.wake.set()  # one may have failed for the same reason
            except Exception:  # the task must outlive whatever goes wrong
                log.exception("the disk could not be tried again")
