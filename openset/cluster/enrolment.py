"""The coordinator as a node reaches it, and how the node enters itself there. Loaded by members only.

The coordinator is etcd, or on this node, or on the one that founded the cluster, which is then asked over HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from openset.cluster.coordinator import Coordinator
from openset.cluster.embedded import STATE_FILE, EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.embedded_messages import LONGEST_WAIT_MS
from openset.cluster.etcd import EtcdKeeper
from openset.cluster.etcd_address import EtcdAddress
from openset.cluster.identity import COORDINATOR_DIRECTORY, Identity
from openset.cluster.keeper import Keeper
from openset.cluster.map import Member
from openset.cluster.peers import Address, Peers
from openset.cluster.security import Security
from openset.cluster.view import View
from openset.errors import ConflictError, InternalError, OpenSetError, UnreachableError
from openset.store.shared_schema import SharedSchema
from openset.store.snapshot import CLUSTER_DIRECTORY
from openset.store.store import Store
from openset.store.trigger_catalog import CatalogContents
from openset_format.files import FileLayer

_HOME_ANSWERS_MS = LONGEST_WAIT_MS + 10_000


class CoordinatorAccess:
    """coordinator: to be used until `close`. has_server: the embedded one is on this node."""

    def __init__(
        self,
        data_dir: Path,
        identity: Callable[[], Identity],
        security: Security,
        etcd: EtcdAddress | None,
        lease_ms: int,
        files: FileLayer,
    ):
        """identity: the node's as it is now. Raises ConfigError, InternalError for a coordinator that is damaged."""
        self._identity = identity
        self._server: EmbeddedServer | None = None
        self._closing: asyncio.Task[None] | None = None
        self._peers: Peers | None = None
        self.coordinator = Coordinator(self._keeper(data_dir, security, etcd, files), ttl_ms=lease_ms)

    def _keeper(self, data_dir: Path, security: Security, etcd: EtcdAddress | None, files: FileLayer) -> Keeper:
        identity = self._identity()
        if identity.coordinator == "etcd":
            assert etcd is not None, "a member is started with what it needs"
            return EtcdKeeper(etcd)
        if identity.has_coordinator:
            # Only while the node becomes a member may there be none yet.
            is_new = identity.mode == "becoming"
            self._server = EmbeddedServer.open(coordinator_directory(data_dir), create=is_new, files=files)
            return EmbeddedKeeper(self._server.answer, may_lead=True)
        self._peers = Peers(security, identity.node, identity.cluster)
        return EmbeddedKeeper(self._ask_home, may_lead=False)

    @property
    def has_server(self) -> bool:
        return self._server is not None

    def end_waiting(self) -> None:
        """Answers those who wait for the embedded coordinator; it answers nobody any more."""
        if self._server is not None and self._closing is None:
            self._closing = asyncio.create_task(self._server.close())

    async def close(self) -> None:
        await self.coordinator.close()
        if self._peers is not None:
            self._peers.close()
        self.end_waiting()
        if self._closing is not None:
            await self._closing

    async def answer(self, request: bytes) -> bytes:
        """A request of some node to the coordinator on this one. Raises UnreachableError where it is not."""
        if self._server is None:
            raise UnreachableError("this node does not have the coordinator")
        return await self._server.answer(request)

    async def _ask_home(self, request: bytes) -> bytes:
        home = self._identity().home
        assert home is not None and self._peers is not None
        try:
            reply = await self._peers.ask(
                Address(home.host, home.port), "coordinator", request, to=home.node, timeout_ms=_HOME_ANSWERS_MS
            )
        except UnreachableError:
            raise
        except OpenSetError as error:
            raise UnreachableError(f"the node with the coordinator refuses: {error.message}") from error
        return reply.body


@dataclass(frozen=True, slots=True)
class Holds:
    """What a node has when it founds a cluster: its tables, their triggers by table id, the id of its journal."""

    schema: SharedSchema
    triggers: Mapping[int, CatalogContents]
    journal_id: str

    @classmethod
    def of(cls, store: Store) -> Holds:
        """What a store has now."""
        triggers = {schema.id: store.triggers.contents(schema.id) for schema in store.tables()}
        triggers = {table_id: contents for table_id, contents in triggers.items() if contents.next_id > 1}
        return cls(store.shared_schema(), triggers, store.journal_id)


class Enrolment:
    """A node's entry in the coordinator. may_be_known: whether the cluster may count it as a member already."""

    def __init__(self, identity: Identity, may_be_known: bool):
        self.may_be_known = may_be_known
        self._identity = identity

    async def made(self, coordinator: Coordinator, holds: Holds) -> View:
        """A view with the node in it; the founder makes the cluster, of what it holds.

        May be repeated.

        Raises ConflictError when it cannot be, UnreachableError, ConfigError.
        """
        identity = self._identity
        member = Member(identity.node, identity.host, identity.port)
        view = await coordinator.read()
        if view.settings is None and identity.founder:
            await self._found(coordinator, member, holds)
        elif view.settings is None or view.settings.cluster != identity.cluster:
            raise ConflictError(
                "the coordinator has another cluster already; an empty node joins it by an invitation"
                if identity.founder
                else "this node's coordinator (--coordinator) is another one than that of the cluster that invites it"
            )
        elif identity.node not in view.members:
            self.may_be_known = True
            await coordinator.add_member(member)
        return await coordinator.read()

    async def _found(self, coordinator: Coordinator, member: Member, holds: Holds) -> None:
        identity = self._identity
        session = await coordinator.open_session(member.node)
        try:
            sentinel = await coordinator.campaign(session)
            if sentinel is None:
                raise ConflictError("somebody else is initialising a cluster there")
            self.may_be_known = True
            await coordinator.initialise(
                sentinel, member, identity.partitions, identity.replicas, identity.cluster,
                holds.schema, holds.journal_id, holds.triggers,
            )  # fmt: skip
        finally:
            with suppress(UnreachableError):
                await coordinator.end_session(session)


def coordinator_directory(data_dir: Path) -> Path:
    """Where the embedded coordinator is, on the node that has it."""
    return data_dir / CLUSTER_DIRECTORY / COORDINATOR_DIRECTORY


def remove_coordinator(data_dir: Path, files: FileLayer) -> None:
    """Removes what a founding that failed has left, durably. Raises InternalError. Not for the event loop."""
    directory = coordinator_directory(data_dir)
    try:
        if directory.is_dir():
            files.discard(directory / STATE_FILE)
            files.sync_directory(directory)
    except OSError as error:
        raise InternalError(f"{directory} cannot be cleared: {error.strerror or error}") from error
