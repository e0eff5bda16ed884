"""The running node as the handlers see it: the store once recovery is done, the executor, limits, what is running."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openset.cluster.cluster_node import ClusterNode
from openset.cluster.options import ClusterOptions
from openset.cluster.peers import Address
from openset.errors import ConfigError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset.query.compactor import Compactor
from openset.query.disk_guard import DiskGuard
from openset.query.executor import Executor
from openset.query.frame import Tools
from openset.query.refresher import Refresher
from openset.query.spread import Spread
from openset.query.work import PlanCache
from openset.revent.board import Board
from openset.revent.changes import LocalChanges, TriggerChanges
from openset.revent.deliveries import Deliveries
from openset.revent.disabling import ERRORS_UNTIL_DISABLED
from openset.revent.letters import Letters, LocalLetters, SharedLetters
from openset.revent.registry import Registry
from openset.revent.runner import Runner
from openset.revent.subscriptions import GatheredSubscriptions, LocalSubscriptions, Subscriptions
from openset.revent.watcher import Watcher
from openset.revent.webhooks import AllowList, Webhooks
from openset.store.compaction import Policy
from openset.store.ingest import Insert
from openset.store.scrub import Scrubber, Scrubbing
from openset.store.store import Store
from openset_format.files import FILES, FileLayer

if TYPE_CHECKING:
    from openset.cluster.member import DataPlane, Membership
    from openset.http.member_data import MemberData
    from openset.http.resource import Resource

log = get_logger("openset.node")

MAX_BODY_BYTES = 64 << 20
MAX_INFLATED_BYTES = 256 << 20
MAX_SCRIPT_BYTES = 1 << 20
_LOOK_SECONDS = 0.5
# So long a node that becomes a member waits for the requests that run.
_REQUESTS_SECONDS = 20.0


class Node:
    """State shared by all requests. Requests that come before the store is open wait for it in `store`."""

    def __init__(
        self,
        data_dir: Path,
        executor: Executor,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        policy: Policy | None = None,
        trigger_errors: int = ERRORS_UNTIL_DISABLED,
        webhook_allow: str = "",
        scrubbing: Scrubbing | None = None,
        files: FileLayer = FILES,
        address: Address | None = None,
        cluster: ClusterOptions | None = None,
    ):
        """address: where the daemon listens. Raises ConfigError for options that cannot be used."""
        self.data_dir = data_dir
        self._member_data: MemberData | None = None
        self.cluster = ClusterNode(data_dir, address, cluster, make_data=self._make_member_data, files=files)
        self.executor = executor
        self.plans = PlanCache()
        self.max_body_bytes = max_body_bytes
        self.max_inflated_bytes = max(MAX_INFLATED_BYTES, max_body_bytes)
        self.max_script_bytes = min(MAX_SCRIPT_BYTES, max_body_bytes)
        self.stopping = False
        self.active: set[Resource] = set()
        self._policy = policy
        self.trigger_errors = trigger_errors
        self._webhook_allow = AllowList.of(webhook_allow)
        self._scrubbing = scrubbing or Scrubbing()
        self._files = files
        self._guard: DiskGuard | None = None
        self.scrubber: Scrubber | None = None
        self._compactor: Compactor | None = None
        self._refresher: Refresher | None = None
        self._watcher: Watcher | None = None
        self._runner: Runner | None = None
        self._board: Board | None = None
        self._deliveries: Deliveries | None = None
        self._webhooks: Webhooks | None = None
        self._registry: Registry | None = None
        self._subscriptions: Subscriptions | None = None
        self._store: Store | None = None
        # The other nodes, for queries; None on a node that stands alone.
        self.spread: Spread | None = None
        # Of requests that wait for the store.
        self._waiting: set[asyncio.Task[Any]] = set()
        self._opened: asyncio.Future[Store] = asyncio.get_running_loop().create_future()

    async def open(self, init: int | None = None) -> None:
        """Opens the store (recovery included), waits for its cluster where the node is a member, and, when the store is
        fresh and `init` is given, initialises it.

        Raises OpenSetError: the data directory is locked, damaged or cannot be used.
        """
        try:
            self._store = await asyncio.to_thread(Store.open, self.data_dir, files=self._files, policy=self._policy)
            await self.cluster.start(self._store)
            if self.cluster.security is not None:
                await asyncio.to_thread(_load_member_code)
            if init is not None:
                await self._initialise(self._store, init)
        except BaseException as error:
            self._refuse(error)
            raise
        self._begin_services()

    def _trigger_changes(self, store: Store) -> TriggerChanges:
        if store.replicas is None:
            return LocalChanges(store, self.cluster.trigger_change)
        from openset.cluster.trigger_changes import MemberTriggers

        if self._member_data is None:  # the cluster has removed this node
            self._make_member_data()
        return MemberTriggers(store, self.data)

    def _refuse(self, error: BaseException) -> None:
        """Requests that wait for the store are answered with an error."""
        self._opened.set_exception(error if isinstance(error, OpenSetError) else ConfigError("the store is not open"))
        self._opened.exception()  # requests may wait for it, or none may

    def _begin_services(self) -> None:
        """What works on the store that is open, and requests."""
        store = self._store
        assert store is not None
        self._guard = DiskGuard(store)
        self.scrubber = Scrubber(self.data_dir, store.damage, self._scrubbing)
        self._compactor = Compactor(store)
        self._refresher = Refresher(lambda: self._tools(store), lambda: self._has_heard(store))
        changes = self._trigger_changes(store)
        self._watcher = Watcher(store, self.executor, self.plans, changes)
        self._runner = Runner(store, self.executor, self._watcher, changes, self.trigger_errors)
        self._board = Board(store, self._watcher, changes)
        self._deliveries = Deliveries(self._board, store.triggers.clock)
        letters: Letters
        if store.replicas is None:
            letters, self._subscriptions = LocalLetters(store.dead_letters), LocalSubscriptions(self._deliveries)
            self._registry = Registry(store, self._runner, changes)
        else:
            gathered = GatheredSubscriptions(self._deliveries, self.data)
            letters, self._subscriptions = SharedLetters(store, changes), gathered
            self._registry = Registry(store, self._runner, changes, gathered.facts)
        self._webhooks = Webhooks(
            store, self._deliveries, self._subscriptions, changes, letters, self._webhook_allow
        )  # fmt: skip
        self._opened.set_result(store)

    async def reopen_as_member(self, journal_id: str) -> None:
        """The store becomes a member's; requests wait meanwhile. Those that run are waited for.

        Raises ConfigError, InternalError, ReadOnlyError: then the node goes on as it was, if it can.
        """
        before = self._store
        assert before is not None
        if before.replicas is not None:
            return
        serving = self._opened.done()
        if serving:
            self._opened = asyncio.get_running_loop().create_future()
            try:
                await self._wait_for_requests()
                await self._wait_for_triggers(before)
            except BaseException:
                self._opened.set_result(before)
                raise
            await self._end_services()
        try:
            self._store = await asyncio.to_thread(before.as_member, journal_id)
        except BaseException:
            await asyncio.to_thread(before.close)
            self._store = await asyncio.to_thread(Store.open, self.data_dir, files=self._files, policy=self._policy)
            raise
        finally:
            if self._store is not None:
                self.cluster.use(self._store)
            if serving:
                self._begin_services()

    async def _wait_for_requests(self) -> None:
        """Until nobody uses the store that requests got so far. Raises ConfigError when that takes too long."""
        until = asyncio.get_running_loop().time() + _REQUESTS_SECONDS
        users = [resource for resource in self.active if resource.uses_store]
        while any(one.work is not None and not one.work.done() and one.work not in self._waiting for one in users):
            if asyncio.get_running_loop().time() > until:
                raise ConfigError("requests run that take too long; try again when they are done")
            await asyncio.sleep(_LOOK_SECONDS / 10)

    async def _wait_for_triggers(self, store: Store) -> None:
        """Until they have run for all inserts. Raises ConfigError when that takes too long."""
        until = asyncio.get_running_loop().time() + _REQUESTS_SECONDS
        while store.triggers.waits():
            if asyncio.get_running_loop().time() > until:
                raise ConfigError("triggers have not run for all inserts yet; try again later")
            await asyncio.sleep(_LOOK_SECONDS / 10)

    async def _initialise(self, store: Store, partitions: int) -> None:
        if store.partitions is None:
            await self.cluster.init(partitions, None)
        elif store.partitions != partitions:
            log.warning("the data directory has its partitions already", partitions=store.partitions, asked=partitions)

    def _make_member_data(self) -> DataPlane:
        # Nodes that stand alone start without what this takes.
        from openset.http.member_data import MemberData

        self._member_data = MemberData(self)
        return self._member_data

    @property
    def data(self) -> MemberData:
        """What a member does with its partitions. Raises UnreachableError where there is nothing of a cluster (yet)."""
        if self._member_data is None:
            raise UnreachableError("this node belongs to no cluster, or does not know its partitions yet")
        return self._member_data

    @property
    def membership(self) -> Membership | None:
        """None on a node that is no member of a cluster, or has not seen it yet."""
        return self.cluster.membership

    @property
    def held_store(self) -> Store | None:
        """The store that is open, whether or not requests get it yet."""
        return self._store

    @property
    def open_store(self) -> Store | None:
        """The store, None before recovery is done."""
        done = self._opened.done() and self._opened.exception() is None
        return self._opened.result() if done else None

    async def opened(self) -> Store:
        """The store, when recovery is done and a member has seen its cluster; UnreachableError when that takes long."""
        task = asyncio.current_task()
        try:
            while not self._opened.done():
                if task is not None:
                    self._waiting.add(task)
                self.cluster.check_waiting()
                await asyncio.wait({self._opened}, timeout=_LOOK_SECONDS)
        finally:
            if task is not None:
                self._waiting.discard(task)
        return self._opened.result()

    async def store(self) -> Store:
        """The store for data requests. Raises ConfigError before the cluster is initialised and after it was left."""
        store = await self.opened()
        self.cluster.check_member()
        if store.partitions is None:
            raise ConfigError("the cluster is not initialised: PUT /v1/cluster/init?partitions=N first")
        if store.replicas is not None:
            await self.data.ready()
        return store

    async def tools(self) -> Tools:
        """What queries run with, when a member that is back has heard what it missed. Raises as `store`."""
        store = await self.store()
        if self._member_data is not None and store.replicas is not None:
            await self._member_data.current()
        return self._tools(store)

    async def tools_for_nodes(self) -> Tools:
        """What queries of other nodes run with. Raises as `store`."""
        return self._tools(await self.store())

    def _has_heard(self, store: Store) -> bool:
        """Whether the stored segments are those of the other members."""
        return store.replicas is None or (self._member_data is not None and self._member_data.is_current)

    def _tools(self, store: Store) -> Tools:
        return Tools(store, self.executor, self.plans, self.spread)

    async def compactor(self) -> Compactor:
        """What compacts. Raises ConfigError before the cluster is initialised."""
        await self.store()
        assert self._compactor is not None, "it is made before the store is handed out"
        return self._compactor

    async def registry(self) -> Registry:
        """The triggers. Raises ConfigError before the cluster is initialised."""
        await self.store()
        assert self._registry is not None, "it is made before the store is handed out"
        return self._registry

    async def subscriptions(self) -> Subscriptions:
        """Raises ConfigError before the cluster is initialised."""
        await self.store()
        assert self._subscriptions is not None, "it is made before the store is handed out"
        return self._subscriptions

    async def gathered(self) -> GatheredSubscriptions:
        """What other nodes ask about triggers here. Raises as `subscriptions`, UnreachableError on a node alone."""
        found = await self.subscriptions()
        if not isinstance(found, GatheredSubscriptions):
            raise UnreachableError("this node tells others nothing of triggers")
        return found

    def owned_changed(self) -> None:
        """This node owns other partitions than before."""
        if self._watcher is not None:
            self._watcher.forget()
        if self._deliveries is not None:
            self._deliveries.owned_changed()

    def end_waiting(self) -> None:
        """Answers those who wait for messages, because the daemon stops."""
        self.stopping = True
        self.cluster.end_waiting()
        if self._compactor is not None:
            self._compactor.end_waiting()
        if self._deliveries is not None:
            self._deliveries.close()

    async def webhooks(self) -> Webhooks:
        """The webhooks of subscriptions. Raises as `deliveries`."""
        await self.store()
        assert self._webhooks is not None, "it is made before the store is handed out"
        return self._webhooks

    async def insert(self, table: str, insert: Insert) -> None:
        """Writes a prepared request: in a cluster, to the owners of its partitions. Raises OpenSetError."""
        store = await self.store()
        if store.replicas is None:
            await store.commit(table, insert)
        else:
            await self.data.insert(insert)

    async def close(self) -> None:
        """Ends the workers, then flushes and closes the store."""
        await self._end_services()
        await self.cluster.close()
        await self.executor.close()
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def _end_services(self) -> None:
        if self._webhooks is not None:
            await self._webhooks.close()
        if self._board is not None:
            self._board.close()
        if self._runner is not None:
            await self._runner.close()
        if self._watcher is not None:
            await self._watcher.close()
        if self._compactor is not None:
            await self._compactor.close()
        if self._refresher is not None:
            await self._refresher.close()
        if self._guard is not None:
            await self._guard.close()
        if self.scrubber is not None:
            await asyncio.to_thread(self.scrubber.close)


def _load_member_code() -> None:
    """What nodes that stand alone start without, where the node may be invited: whoever does that waits for it."""
    import openset.cluster.enrolment
    import openset.cluster.member
    import openset.http.member_data  # noqa: F401
