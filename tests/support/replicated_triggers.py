"""Members in one process that run triggers, too: `LocalCluster` with a runner in each node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from support.replicated import LocalCluster, LocalNode

from openset.cluster.map import NodeName
from openset.cluster.trigger_changes import MemberTriggers
from openset.cluster.view import View
from openset.errors import UnreachableError
from openset.query.executor import ThreadExecutor
from openset.query.work import PlanCache
from openset.revent.registry import Options, Registry
from openset.revent.runner import Runner
from openset.revent.watcher import Watcher
from openset.store.trigger_changes import Message


class TriggerNode(LocalNode):
    """A node whose store has the triggers of a view before the view counts, as `cluster.member` sees to it."""

    registry: Registry
    changes: MemberTriggers

    @property
    def membership(self) -> Any:
        return self

    async def start(self) -> None:
        await super().start()
        store = self.store
        assert store is not None
        self._executor = ThreadExecutor(self.directory, 1)
        self.changes = MemberTriggers(store, self)  # type: ignore[arg-type]
        self._watcher = Watcher(store, self._executor, PlanCache(), self.changes)
        self._runner = Runner(store, self._executor, self._watcher, self.changes)
        self.registry = Registry(store, self._runner, self.changes)

    async def stop(self) -> None:
        await self._runner.close()
        await self._watcher.close()
        await self._executor.close()
        await super().stop()

    def _take(self, view: View) -> None:
        if self.store is not None and view.revision > self.view.revision:
            for table_id, kept in view.triggers.items():
                self.store.triggers.adopt(table_id, kept.contents)
        super()._take(view)

    async def caught_up(self, revision: int, timeout_ms: int) -> None:
        async with asyncio.timeout(timeout_ms / 1_000):
            while self.view.revision < revision:
                await self.read_now()

    async def tell_others(self, route: str) -> None:
        for node in self.network.nodes.values():
            if frozenset((node.node, self.node)) not in self.network.cut:
                await node.read_now()

    async def serve(self, sender: NodeName, route: str, body: bytes) -> bytes:
        try:
            await self.caught_up(self.network.nodes[sender].view.revision, 2_000)
        except TimeoutError as error:
            raise UnreachableError(f"{self.node} has not seen what {sender} has") from error
        return await super().serve(sender, route, body)

    def messages(self, partition: int, trigger_id: int = 1) -> list[Message]:
        """What was emitted in a partition, as this node knows it."""
        assert self.store is not None
        with self.store.triggers.state(1, partition) as state:
            return state.after(trigger_id, 0, 1_000_000)

    def has_begun(self, partition: int) -> bool:
        """Whether all triggers run for what is inserted into a partition now."""
        assert self.store is not None
        with self.store.triggers.state(1, partition) as state:
            return all(state.begin(trigger) is not None for trigger in self.store.triggers.of_table(1))

    def state(self, partition: int) -> bytes:
        """Everything about the triggers of a partition."""
        assert self.store is not None
        with self.store.triggers.state(1, partition) as state:
            return state.encode()


class TriggerCluster(LocalCluster):
    """Its nodes are `TriggerNode`s."""

    node_type = TriggerNode
    nodes: dict[NodeName, TriggerNode]  # type: ignore[assignment]

    async def save(self, node: NodeName, name: str, script: str, **options: Any) -> dict[str, Any]:
        return await self.nodes[node].registry.save("t", name, script, Options(**options))

    def living(self) -> list[TriggerNode]:
        return [node for node in self.nodes.values() if node.replication is not None]

    async def messages(self, trigger_id: int = 1, seconds: float = 20.0) -> list[Message]:
        """Of all partitions, from their owners, when triggers have run for everything."""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            owners = {
                number: node
                for node in self.living()
                for number in range(self.partitions)
                if self._answers(node.node, number)
            }
            waiting = {
                number: len(node.store.triggers.pending(1, number, 1_000_000))
                for number, node in owners.items()
                if node.store is not None
            }
            if len(owners) == self.partitions and not any(waiting.values()):
                return [one for number, node in sorted(owners.items()) for one in node.messages(number, trigger_id)]
            assert asyncio.get_running_loop().time() < until, f"triggers have not run: {waiting}"
            await asyncio.sleep(0.02)


def cluster_of(directory: Path, *names: NodeName, **options: Any) -> TriggerCluster:
    return TriggerCluster(directory, names, **options)
