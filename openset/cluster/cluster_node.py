"""A node on its way into a cluster, in it, and out of it; what it is now is durable before anybody hears of it.

A standalone node founds a cluster when it is asked to invite another one (with etcd, when it is initialised). An empty
node joins when a member tells it to. Both become members in the same steps, each of which may be repeated: after a
crash the next start goes on, after an error the next request does.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openset.cluster.identity import AUTOMATIC_REPLICAS, MEMBER_FILE, Identity, IdentityFile, home_of
from openset.cluster.invitation import JoinRequest, check_guest, check_unique, invite
from openset.cluster.map import Member, NodeName
from openset.cluster.options import ClusterOptions
from openset.cluster.peers import Address, Peers
from openset.cluster.security import HOW_TO, Security
from openset.errors import ConfigError, ConflictError, InternodeError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset.store.catalog import new_server_name
from openset.store.store import Store
from openset_format.files import FILES, FileLayer

if TYPE_CHECKING:  # what only members need is loaded when there is one
    from openset.cluster.enrolment import CoordinatorAccess
    from openset.cluster.member import DataPlane, Membership
    from openset.cluster.schema_changes import SchemaChanges
    from openset.cluster.view import View

log = get_logger("openset.cluster")

DEFAULT_PORT = 8080
_WILDCARDS = ("", "0.0.0.0", "::")
_SEEN_MS = 5_000
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
# So long requests wait for a member that starts.
_PATIENCE_SECONDS = 3.0


class ClusterNode:
    """security: None where nothing was configured, then there are no members.  membership: None on other nodes.

    identity: what the node is; before `start` that of an empty one.
    """

    def __init__(
        self,
        data_dir: Path,
        address: Address | None = None,
        options: ClusterOptions | None = None,
        *,
        make_data: Callable[[], DataPlane],
        files: FileLayer = FILES,
    ):
        """address: where the node listens. Raises ConfigError for options that cannot be used."""
        self._options = options or ClusterOptions()
        self.security: Security | None = self._options.security()
        self._etcd = self._options.etcd()
        if self._etcd is not None and self.security is None:
            raise ConfigError(f"a cluster needs to know its nodes: {HOW_TO}")
        self._data_dir = data_dir
        self._listens = address or Address("", 0)
        self._files = files
        self._make_data = make_data
        self._data: DataPlane | None = None
        self._file: IdentityFile | None = None
        self._store: Store | None = None
        self._access: CoordinatorAccess | None = None
        self._strangers: Peers | None = None if self.security is None else Peers(self.security)
        self._membership: Membership | None = None
        # One step into or out of the cluster at one time.
        self._changing = asyncio.Lock()
        # Held while tables are changed in the store alone.
        self._local_schema = asyncio.Lock()
        self._local_triggers = asyncio.Lock()
        # Tells this process from another one that says it is the same node.
        self.process = os.urandom(8).hex()
        self._is_founding = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._waits_since: float | None = None
        self._starting: asyncio.Task[None] | None = None
        self._gives_up = False

    def use(self, store: Store) -> None:
        """The store of the node is another one."""
        self._store = store

    @property
    def address(self) -> Address:
        """Where others reach this node, as far as is known before it is a member."""
        return Address(self._options.host or self._listens.host, self._listens.port)

    @property
    def options(self) -> ClusterOptions:
        return self._options

    @property
    def identity(self) -> Identity:
        return Identity() if self._file is None else self._file.identity

    @property
    def membership(self) -> Membership | None:
        """None on a node that is no member, or has not seen its cluster yet."""
        found = self._membership
        return found if found is not None and found.revision else None

    @property
    def name(self) -> NodeName:
        """The node's, empty for one that has none yet."""
        server_name = None if self._store is None else self._store.server_name
        return self.identity.node or server_name or ""

    @property
    def is_part(self) -> bool:
        """Whether the node belongs to a cluster, be it of one node, so that it cannot join one."""
        has_data = self._store is not None and self._store.partitions is not None
        return self.identity.mode == "member" or (has_data and self.identity.mode != "removed")

    @property
    def is_open(self) -> bool:
        """Whether the node knows what it is: requests of others can be judged."""
        return self._file is not None

    @property
    def transfers(self) -> list[dict[str, object]]:
        """As the DataPlane tells of them."""
        return [] if self._data is None else [dict(each) for each in self._data.transfers()]

    def check_waiting(self) -> None:
        """Raises UnreachableError while a member that starts waits for its cluster, and has done so for a while."""
        if self._waits_since is not None and time.monotonic() - self._waits_since > _PATIENCE_SECONDS:
            known = "" if self._membership is None else self._membership.waits_for
            reason = f": {known}" if known else ""
            raise UnreachableError(f"this node has started and waits for the coordinator of its cluster{reason}")

    def check_member(self) -> None:
        """Raises ConfigError on a node that was a member and serves no data any more."""
        if self.identity.mode == "removed":
            raise ConfigError(
                "this node has left its cluster and serves no data any more; it can join again with an empty directory"
            )

    # ---------------------------------------------------------------- start and end

    async def start(self, store: Store) -> None:
        """Goes on where the node was. A member returns when it has seen the cluster, however long that takes.

        Raises ConfigError, InternalError, and UnreachableError when it is told not to wait any longer.
        """
        self._store = store
        self._file = await asyncio.to_thread(IdentityFile, self._data_dir, self._files)
        identity = self.identity
        if identity.mode == "standalone" and store.replicas is not None:
            raise ConfigError(
                f"{self._data_dir} has copies of a cluster's partitions, but no cluster/{MEMBER_FILE}, which says of "
                "which cluster: let an empty node join instead"
            )
        if identity.mode in ("standalone", "removed"):
            return
        self._check_options(identity)
        self._waits_since = time.monotonic()
        self._starting = asyncio.create_task(self._become_at_last())
        if self._gives_up:
            self._starting.cancel()
        try:
            await self._starting
        except asyncio.CancelledError as error:
            if not self._gives_up:
                raise
            raise UnreachableError("the daemon was stopped while it waited for its cluster") from error
        self._waits_since = None

    async def _become_at_last(self) -> None:
        async with self._changing:
            while True:
                try:
                    await self._become()
                    return
                except (UnreachableError, ConflictError) as error:
                    log.warning("the cluster cannot be reached yet", reason=error.message)
                await asyncio.sleep(_RETRY_SECONDS)

    def give_up_waiting(self) -> None:
        """A start that waits for the cluster ends, because the daemon stops."""
        self._gives_up = True
        if self._starting is not None:
            self._starting.cancel()

    def _check_options(self, identity: Identity) -> None:
        if self.security is None:
            raise ConfigError(f"this node belongs to a cluster and is not told how nodes know each other: {HOW_TO}")
        if identity.coordinator == "etcd" and self._etcd is None:
            raise ConfigError("this node belongs to a cluster on etcd: say where it is with --coordinator")
        if identity.coordinator == "embedded" and self._etcd is not None:
            raise ConfigError("this node belongs to a cluster with the embedded coordinator: leave --coordinator out")

    def end_waiting(self) -> None:
        """The daemon stops: who waits for the embedded coordinator is answered, others wait not much longer."""
        if self._data is not None:
            self._data.stop()
        if self._membership is not None:
            self._membership.stopping = True
        if self._access is not None:
            self._access.end_waiting()

    async def resign(self) -> None:
        """Before the requests that run are waited for: others are to own what this node owns, where there are any.

        Without the coordinator nobody can take over; where that is on this node, it goes on until the end.
        """
        if self._membership is not None and not (self._access is not None and self._access.has_server):
            if self._data is not None:
                await self._data.resign()
            await self._membership.stand_aside()

    async def close(self) -> None:
        """Says farewell to the cluster, so that others notice at once."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._membership is not None:
            has_server = self._access is not None and self._access.has_server
            await self._membership.close(leave_lease=has_server)
        if self._data is not None:
            await self._data.close()
        await self._close_coordinator()
        if self._strangers is not None:
            self._strangers.close()

    async def _close_coordinator(self) -> None:
        access, self._access = self._access, None
        if access is not None:
            await access.close()

    async def answer_coordinator(self, request: bytes) -> bytes:
        """A request to the coordinator on this node. Raises UnreachableError where it is not, or not yet."""
        if self._access is None:
            raise UnreachableError("this node has no coordinator at the moment")
        return await self._access.answer(request)

    # ---------------------------------------------------------------- initialising, inviting, leaving

    async def init(self, partitions: int, replicas: int | None) -> str:
        """Initialises an empty node, and with etcd a cluster of one; its name. Raises ConfigError, InternodeError."""
        store = self._opened()
        async with self._changing:
            self.check_member()
            if store.partitions is not None:
                raise ConfigError("the cluster is initialised already")
            if self.identity.mode == "becoming" and not self.identity.founder:
                raise ConfigError("this node is joining a cluster")
            wanted = AUTOMATIC_REPLICAS if replicas is None else replicas
            if self._etcd is not None:
                await self._found(partitions, wanted)
                return self.identity.node
            if wanted != self.identity.replicas:
                await self._write(msgspec.structs.replace(self.identity, replicas=wanted))
            return await asyncio.to_thread(store.initialise, partitions)

    async def join(self, host: str, port: int) -> NodeName:
        """Invites the empty node at an address into this node's cluster, which is founded first where it is not.

        Returns the name of the new member. Raises ConfigError, InternodeError; then there is no new member, or the
        error says that it is not known.
        """
        store = self._opened()
        async with self._changing:
            self.check_member()
            if store.partitions is None:
                raise ConfigError("the cluster is not initialised: PUT /v1/cluster/init?partitions=N first")
            if self._strangers is None:
                raise ConfigError(f"a cluster needs to know its nodes: {HOW_TO}")
            if self._membership is not None and self._membership.trouble:
                raise UnreachableError(f"nobody can join while the coordinator is away: {self._membership.trouble}")
            address = Address(host, port)
            try:
                members = () if self.membership is None else self.membership.view.members.keys()
                await check_guest(self._strangers, address, self.name, members)
                if self._membership is None:
                    await self._found(store.partitions, self.identity.replicas)
                node = await self._invite(address)
            except InternodeError as error:  # of whatever status: here it is what the client asked for that was wrong
                raise InternodeError(error.message, detail=error.detail) from error
            log.info("a node has joined", node=node, host=host, port=port)
            return node

    async def _invite(self, address: Address) -> NodeName:
        assert self._strangers is not None and self.membership is not None
        node = await invite(self._strangers, address, self.identity)
        await self.membership.until(
            lambda view: node in view.members and node in view.alive, _SEEN_MS, f"{node} has joined and is not alive"
        )
        await self.membership.tell_others("add_node", but=node)
        return node

    async def joined(self, request: JoinRequest) -> NodeName:
        """On the empty node: becomes a member; its name. May be repeated. Raises ConfigError, InternodeError."""
        async with self._changing:
            identity = self.identity
            if identity.mode == "member" and identity.cluster == request.cluster:
                return identity.node
            self.check_member()
            self._check_invitation(request)
            fresh = identity.mode == "standalone"
            if fresh:
                home = request.home
                host = self._options.host or request.host
                await self._write(
                    Identity(
                        mode="becoming",
                        node=new_server_name(),
                        cluster=request.cluster,
                        host=host,
                        port=self._listens.port,
                        coordinator="etcd" if request.home is None else "embedded",
                        home=None if home is None else Member(home.node, home.host, home.port),
                    )
                )
            await self._become(fresh=fresh)
            return self.identity.node

    def _check_invitation(self, request: JoinRequest) -> None:
        if self.identity.mode == "becoming":
            if self.identity.cluster != request.cluster:
                raise ConfigError("this node is joining another cluster")
        elif self._opened().partitions is not None or self.identity.mode == "member":
            raise ConfigError("this node is initialised already; only an empty one can join a cluster")
        if request.home is None and self._etcd is None:
            raise ConfigError("the cluster is on etcd: start this node with the same --coordinator")
        if request.home is not None and self._etcd is not None:
            raise ConfigError("the cluster has the embedded coordinator, this node was started with --coordinator")

    async def leave(self, node: NodeName) -> None:
        """Marks a member as leaving; the sentinel moves what it holds, then removes it. Raises ConfigError."""
        async with self._changing:
            membership = self.membership
            if membership is None:
                raise ConfigError("this node belongs to no cluster")
            await membership.read_now()
            view, home = membership.view, self.identity.home
            registered = view.members.get(node)
            if registered is None:
                raise ConfigError(f"{node} is no member; {', '.join(sorted(view.members))} are")
            if home is not None and node == home.node:
                raise ConfigError(f"{node} has the coordinator of the cluster, which cannot do without it")
            others = [name for name, each in view.members.items() if name != node and not each.member.leaving]
            if not others:
                raise ConfigError(f"{node} is the last member: nobody could take what it holds")
            if not registered.member.leaving:
                leaving = msgspec.structs.replace(registered.member, leaving=True)
                revision = await membership.coordinator.change_member(leaving, registered.revision)
                await membership.caught_up(revision, _SEEN_MS)
                membership.nudge_others("map_change")

    # ---------------------------------------------------------------- becoming a member

    async def _found(self, partitions: int, replicas: int) -> None:
        """This node makes a cluster of itself, and of what it holds."""
        fresh = self.identity.mode != "becoming"
        # Nothing changes between what the coordinator is told of tables and triggers and what the store has then.
        self._is_founding = True
        try:
            async with self._local_schema, self._local_triggers:
                if fresh:
                    await self._write_founder(partitions, replicas)
                await self._become(fresh=fresh)
        finally:
            self._is_founding = False

    @asynccontextmanager
    async def trigger_change(self) -> AsyncIterator[None]:
        """Around a change of triggers on a node that stands alone. Raises UnreachableError while it becomes a member.

        Nobody waits for that to be over: it waits for the requests that run.
        """
        if self._is_founding or self.identity.mode == "becoming":
            raise UnreachableError("this node is becoming a member of a cluster: try again when it is one")
        async with self._local_triggers:
            yield

    async def _write_founder(self, partitions: int, replicas: int) -> None:
        from openset.cluster.coordinator import new_cluster_name
        from openset.cluster.enrolment import remove_coordinator

        host = self._options.host or self._listens.host
        if host in _WILDCARDS:
            raise ConfigError("say with --cluster-host under which name or address other nodes reach this one")
        node = self._opened().server_name or new_server_name()
        is_embedded = self._etcd is None
        if is_embedded:
            await asyncio.to_thread(remove_coordinator, self._data_dir, self._files)
        await self._write(
            Identity(
                mode="becoming",
                replicas=replicas,
                node=node,
                cluster=new_cluster_name(),
                partitions=partitions,
                founder=True,
                host=host,
                port=self._listens.port,
                coordinator="embedded" if is_embedded else "etcd",
                home=Member(node, host, self._listens.port) if is_embedded else None,
            )
        )

    @asynccontextmanager
    async def schema_changes(self) -> AsyncIterator[SchemaChanges]:
        """How tables are changed here. Raises ConfigError, UnreachableError."""
        from openset.cluster.schema_changes import ClusterSchema, LocalSchema

        if self._membership is None:
            async with self._local_schema:
                if self._membership is None:
                    if self.identity.mode == "becoming":
                        raise ConfigError("this node is becoming a member of a cluster: try again when it is one")
                    yield LocalSchema(self._opened())
                    return
        membership = self.membership
        if membership is None:
            raise UnreachableError("this node has not seen its cluster yet")
        yield ClusterSchema(membership, self._opened())

    async def _become(self, *, fresh: bool = False) -> None:
        """From wherever the node is to a running membership. Raises UnreachableError, ConfigError, InternalError.

        fresh: it has only just decided to become one.
        """
        if self._membership is not None:
            return
        from openset.cluster.member import Membership

        view = await self._enrolled(fresh) if self.identity.mode == "becoming" else None
        coordinator = self._opened_access().coordinator
        identity, security = self.identity, self.security
        assert security is not None
        data = self._plane()
        if view is not None:
            assert view.settings is not None
            store = self._opened()
            if store.partitions is None:
                await asyncio.to_thread(store.initialise, view.settings.partitions, identity.node)
            await data.become_member(view)
            await self._write(msgspec.structs.replace(identity, mode="member"))
        membership = Membership(
            identity.node, identity.cluster, coordinator, security, self._opened(), self._options.gone_after_ms
        )
        data.attach(membership)
        self._membership = membership
        membership.on_view(data.view)
        membership.on_lease(data.lease)
        membership.on_view(self._follow)
        await membership.start(self._check_unique)

    async def _check_unique(self, view: View) -> None:
        """Raises ConfigError where another process is this node already, with a copy of its directory."""
        name, registered = self.identity.node, view.members.get(self.identity.node)
        if registered is None or name not in view.alive or self._strangers is None:
            return
        there = Address(registered.member.host, registered.member.port)
        await check_unique(self._strangers, there, name, self.process)

    def _plane(self) -> DataPlane:
        """Made when it is needed: a node that stands alone does without what it takes."""
        if self._data is None:
            self._data = self._make_data()
        return self._data

    def _opened_access(self) -> CoordinatorAccess:
        if self._access is None:
            from openset.cluster.enrolment import CoordinatorAccess

            assert self.security is not None
            self._access = CoordinatorAccess(
                self._data_dir,
                lambda: self.identity,
                self.security,
                self._etcd,
                self._options.lease_ms,
                self._files,
            )
        return self._access

    async def _enrolled(self, fresh: bool) -> View:
        """A view in which the node is a member; where it surely did not become one, it is what it was before."""
        from openset.cluster.enrolment import Enrolment, Holds

        identity = self.identity
        enrolment = Enrolment(identity, may_be_known=not fresh)
        try:
            coordinator = self._opened_access().coordinator
            return await enrolment.made(coordinator, Holds.of(self._opened()))
        except OpenSetError as error:
            # Whatever a founder has told its own coordinator is removed when it founds a cluster again.
            is_alone = identity.has_coordinator
            if fresh and (is_alone or not enrolment.may_be_known or isinstance(error, ConflictError)):
                await self._close_coordinator()
                await self._write(Identity(replicas=identity.replicas))
            if isinstance(error, ConflictError):
                raise ConfigError(error.message) from error
            raise

    # ---------------------------------------------------------------- following the map

    def _follow(self, view: View) -> None:
        identity = self.identity
        registered = view.members.get(identity.node)
        if registered is None:
            self._begin(self._removed())
            return
        host = self._options.host or identity.host
        if (registered.member.host, registered.member.port) != (host, self._listens.port):
            moved = msgspec.structs.replace(registered.member, host=host, port=self._listens.port)
            self._begin(self._announce(moved, registered.revision))
        home = None if identity.home is None else view.members.get(identity.home.node)
        if home is not None and identity.home != home_of(home.member):
            self._begin(self._note_home(home.member))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._in_background(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with self._changing:
                await work
        except OpenSetError as error:
            log.warning("a change of the cluster could not be followed", reason=error.message)
        finally:
            work.close()

    async def _removed(self) -> None:
        """The cluster does not count on this node any more."""
        membership = self._membership
        if membership is None or self.identity.node in membership.view.members:
            return
        await self._write(msgspec.structs.replace(self.identity, mode="removed"))
        self._membership = None
        await membership.close()
        await self._close_coordinator()
        log.warning("this node is no member of the cluster any more", node=self.identity.node)

    async def _announce(self, moved: Member, expected: int) -> None:
        """The node listens somewhere else than the cluster knows."""
        assert self._membership is not None
        with suppress(ConflictError):  # the next view shows what it is now
            await self._membership.coordinator.change_member(moved, expected)
        if (self.identity.host, self.identity.port) != (moved.host, moved.port):
            await self._write(msgspec.structs.replace(self.identity, host=moved.host, port=moved.port))

    async def _note_home(self, home: Member) -> None:
        await self._write(msgspec.structs.replace(self.identity, home=home_of(home)))

    # ---------------------------------------------------------------- what it stands on

    def _opened(self) -> Store:
        assert self._store is not None, "it has started"
        return self._store

    async def _write(self, identity: Identity) -> None:
        assert self._file is not None
        await asyncio.to_thread(self._file.write, identity)
