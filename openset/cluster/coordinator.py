"""Where a cluster is decided: its map, changed by compare-and-swap; its members, alive by lease; its elected sentinel.

One interface over whatever keeps the values (`keeper`). Nodes and sentinel hold views, which follow each other by
revision. A change names what it replaces; one that the sentinel makes names its term besides, so that a sentinel whose
lease has ended changes nothing, however late its request arrives.

Whoever gets an UnreachableError does not know whether a change was made, and reads before trying again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass

import msgspec

from openset.cluster.keeper import (
    MOST_VALUE_BYTES,
    NO_LEASE,
    Change,
    CompactedError,
    Expected,
    Item,
    Keeper,
    LeaseId,
    Refused,
    Revision,
    commit_of,
)
from openset.cluster.map import Member, NodeName, Placement, encode_placement
from openset.cluster.messages import LeaseRenewed
from openset.cluster.sentinel import first_placements
from openset.cluster.view import (
    SCHEMA_KEY,
    SENTINEL_KEY,
    SETTINGS_KEY,
    Alive,
    Sentinel,
    Settings,
    View,
    alive_key,
    encode,
    is_share_key,
    member_key,
    placement_key,
    triggers_key,
    view_of,
    viewed,
)
from openset.errors import ConfigError, ConflictError, LeaseLostError, UnreachableError
from openset.store.shared_schema import SharedSchema
from openset.store.trigger_catalog import CatalogContents

# Of the lease that the coordinator grants, what a node believes in, counted from before it asked: clocks differ.
_BELIEVED = 0.8
_OPENING_ATTEMPTS = 5
_PLACEMENTS_AT_ONCE = 100
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0


def boot_time_ms() -> int:
    """A clock that only grows, also while the machine is suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


@dataclass(frozen=True, slots=True)
class Session:
    """A node's lease. since: the revision from which on the coordinator holds it for alive because of this lease.

    until_ms: how long the node may believe that without renewing, by the coordinator's clock.
    """

    node: NodeName
    lease: LeaseId
    ttl_ms: int
    since: Revision
    until_ms: int


class Coordinator:
    """The cluster as its coordinator knows it. ttl_ms: how long a node is held for alive that says nothing.

    clock: in ms, the one that the node's state is told the time of.

    All methods raise UnreachableError, ConfigError when the coordinator refuses the set-up (a wrong password), and
    InternalError for contents that cannot be read.
    """

    def __init__(self, keeper: Keeper, *, ttl_ms: int = 5_000, clock: Callable[[], int] = boot_time_ms):
        self._keeper = keeper
        self.ttl_ms = ttl_ms
        self._clock = clock
        self._life = os.urandom(8).hex()

    async def close(self) -> None:
        """Leases are left alone: a node that is to be missed at once ends its session."""
        await self._keeper.close()

    def now_ms(self) -> int:
        """The clock of the leases."""
        return self._clock()

    def until_ms(self, asked_ms: int, ttl_ms: int) -> int:
        """Until when a node counts on a lease that was asked for at a moment."""
        return asked_ms + int(ttl_ms * _BELIEVED)

    # ---------------------------------------------------------------- looking

    async def read(self) -> View:
        """The view as it is now: no earlier than anything that was acknowledged before."""
        return view_of(await self._keeper.read())

    async def views(self, trouble: Callable[[UnreachableError], None] | None = None) -> AsyncIterator[View]:
        """The view as it is, then again after changes, for good. Nothing is skipped but what a later view replaces.

        While the coordinator is not reachable it is tried again (`trouble` hears of it); then it goes on from the
        revision that was reached, or from a new reading where that is too long ago.
        """
        view: View | None = None
        pause_seconds = _FIRST_PAUSE_SECONDS
        while True:
            try:
                if view is None:
                    view = await self.read()
                    yield view
                async with aclosing(self._keeper.watch(view.revision)) as watched:
                    async for changes in watched:
                        pause_seconds = _FIRST_PAUSE_SECONDS
                        view = viewed(view, changes)
                        if changes.items:
                            yield view
            except CompactedError:
                view = None
            except UnreachableError as error:
                if trouble is not None:
                    trouble(error)
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)

    # ---------------------------------------------------------------- living

    async def open_session(self, node: NodeName) -> Session:
        """From now on the node is alive. An earlier session of it ends, and with that its term as the sentinel."""
        key = alive_key(node)
        for _ in range(_OPENING_ATTEMPTS):
            before = (await self._keeper.read()).items.get(key)
            asked_ms = self._clock()
            lease, ttl_ms = await self._keeper.grant(self.ttl_ms)
            unchanged = Expected(key, revision=0 if before is None else before.revision)
            written = Change(key, encode(Alive(self._life)), lease)
            with suppress(LeaseLostError):  # it took too long
                outcome = await self._keeper.commit(commit_of([unchanged], [written]))
                if not isinstance(outcome, Refused):
                    if before is not None and before.lease != NO_LEASE:
                        with suppress(UnreachableError):  # then it ends by itself
                            await self._keeper.revoke(before.lease)
                    return Session(node, lease, ttl_ms, outcome, self.until_ms(asked_ms, ttl_ms))
        raise ConflictError(f"somebody else keeps saying that it is {node}")

    async def renew(self, session: Session) -> LeaseRenewed:
        """The node is alive still. LeaseLostError when the session has ended, or a later one of the node has begun."""
        asked_ms = self._clock()
        ttl_ms, item = await self._keeper.renew(session.lease, alive_key(session.node))
        if item is None or item.lease != session.lease:
            raise LeaseLostError(f"the lease of {session.node} has ended: a later session of it has begun")
        return LeaseRenewed(self.until_ms(asked_ms, ttl_ms), session.since)

    async def end_session(self, session: Session) -> None:
        """The node is missed at once."""
        await self._keeper.revoke(session.lease)

    async def campaign(self, session: Session) -> Sentinel | None:
        """Tries to become the sentinel: the new term, also when it has begun before; None when another node has one.

        Without a try where the coordinator leaves no choice. LeaseLostError when the session has ended.
        """
        if not self._keeper.may_lead:
            return None
        vacant = Expected(SENTINEL_KEY, created=0)
        lives = Expected(alive_key(session.node), revision=session.since)
        elected = Change(SENTINEL_KEY, encode(session.node), session.lease)
        outcome = await self._keeper.commit(commit_of([vacant, lives], [elected]))
        if not isinstance(outcome, Refused):
            return Sentinel(session.node, outcome)
        if not lives.holds(outcome.items[lives.key]):
            raise LeaseLostError(f"the lease of {session.node} has ended")
        item = outcome.items[SENTINEL_KEY]
        if item is not None and item.lease == session.lease:
            return Sentinel(session.node, item.created)
        return None

    # ---------------------------------------------------------------- changing

    async def initialise(
        self,
        sentinel: Sentinel,
        member: Member,
        partitions: int,
        replicas: int,
        cluster: str | None = None,
        schema: SharedSchema | None = None,
        journal_id: str = "",
        triggers: Mapping[int, CatalogContents] | None = None,
    ) -> Settings:
        """Makes a cluster of one node. cluster: its name, a new one unless given.  schema: the tables that it has.

        triggers: of its tables, by id. ConflictError, LeaseLostError, ConfigError when there is too much of either.

        journal_id: see Settings.

        Until the last commit there is none, whatever an attempt that was broken off has left.
        """
        kept = (await self._keeper.read()).items
        wanted = {
            placement_key(partition): encode_placement(placement)
            for partition, placement in first_placements(partitions, member.node).items()
        }
        scripts = {triggers_key(table_id): _encoded_triggers(found) for table_id, found in (triggers or {}).items()}
        leftovers = [key for key in kept if is_share_key(key) and key not in wanted.keys() | scripts.keys()]
        changes = [Change(key, None) for key in leftovers] + [Change(key, value) for key, value in wanted.items()]
        fresh = Expected(SETTINGS_KEY, revision=0)
        for first in range(0, len(changes), _PLACEMENTS_AT_ONCE):
            await self._change([fresh], changes[first : first + _PLACEMENTS_AT_ONCE], sentinel)
        for key, encoded in scripts.items():  # each may be large
            await self._change([fresh], [Change(key, encoded)], sentinel)
        settings = Settings(cluster or new_cluster_name(), partitions, replicas, journal_id)
        last = [
            Change(member_key(member.node), encode(member)),
            Change(SCHEMA_KEY, _encoded_schema(schema or SharedSchema())),
            Change(SETTINGS_KEY, encode(settings)),
        ]
        await self._change([fresh], last, sentinel)
        return settings

    async def swap(
        self,
        partition: int,
        expected_revision: Revision,
        placement: Placement,
        *,
        while_dead: NodeName | None = None,
        sentinel: Sentinel | None = None,
    ) -> Revision:
        """Replaces a placement, only while a node is not alive where one is named; the new revision.

        ConflictError, LeaseLostError when `sentinel` has been deposed.
        """
        assert expected_revision > 0, "placements are made when the cluster is initialised"
        key = placement_key(partition)
        conditions = [Expected(key, revision=expected_revision)]
        if while_dead is not None:
            conditions.append(Expected(alive_key(while_dead), created=0))
        return await self._change(conditions, [Change(key, encode_placement(placement))], sentinel)

    async def add_member(self, member: Member) -> Revision:
        """ConflictError when there is one of that name already, or no cluster."""
        key = member_key(member.node)
        if (await self.read()).settings is None:
            raise ConflictError("the cluster is not initialised")
        return await self._change([Expected(key, revision=0)], [Change(key, encode(member))], None)

    async def change_member(self, member: Member, expected_revision: Revision) -> Revision:
        """Replaces a member's record. ConflictError."""
        key = member_key(member.node)
        assert expected_revision > 0, "add_member makes members"
        return await self._change([Expected(key, revision=expected_revision)], [Change(key, encode(member))], None)

    async def remove_member(self, node: NodeName, expected_revision: Revision, sentinel: Sentinel) -> Revision:
        """For the sentinel, which alone knows that nothing is placed on the node. ConflictError, LeaseLostError."""
        key = member_key(node)
        return await self._change([Expected(key, revision=expected_revision)], [Change(key, None)], sentinel)

    async def change_replicas(self, replicas: int, expected_revision: Revision) -> Revision:
        """How many copies each partition should have. expected_revision: of the settings. ConflictError."""
        view = await self.read()
        if view.settings is None or view.settings_revision != expected_revision:
            raise ConflictError("the settings of the cluster have been changed meanwhile")
        settings = msgspec.structs.replace(view.settings, replicas=replicas)
        condition = Expected(SETTINGS_KEY, revision=expected_revision)
        return await self._change([condition], [Change(SETTINGS_KEY, encode(settings))], None)

    async def change_schema(self, schema: SharedSchema, expected_revision: Revision) -> Revision:
        """Replaces the tables of the cluster. ConflictError, ConfigError when they are too many."""
        condition = Expected(SCHEMA_KEY, revision=expected_revision)
        return await self._change([condition], [Change(SCHEMA_KEY, _encoded_schema(schema))], None)

    async def change_triggers(
        self, table_id: int, contents: CatalogContents | None, expected_revision: Revision
    ) -> Revision:
        """Replaces the triggers of a table. expected_revision: of them, 0 where there have been none.

        ConflictError, ConfigError when they are too many.
        """
        key = triggers_key(table_id)
        encoded = None if contents is None else _encoded_triggers(contents)
        return await self._change([Expected(key, revision=expected_revision)], [Change(key, encoded)], None)

    async def _change(
        self, conditions: Sequence[Expected], changes: Sequence[Change], sentinel: Sentinel | None
    ) -> Revision:
        fence = [] if sentinel is None else [Expected(SENTINEL_KEY, created=sentinel.term)]
        outcome = await self._keeper.commit(commit_of([*fence, *conditions], changes))
        if not isinstance(outcome, Refused):
            return outcome
        if sentinel is not None and not fence[0].holds(outcome.items[SENTINEL_KEY]):
            raise LeaseLostError(f"{sentinel.node} is not the sentinel any more: its term {sentinel.term} is over")
        broken = next(each for each in conditions if not each.holds(outcome.items[each.key]))
        raise ConflictError(_conflict(broken, outcome.items[broken.key]))


def _encoded_schema(schema: SharedSchema) -> bytes:
    encoded = encode(schema)
    if len(encoded) > MOST_VALUE_BYTES:
        raise ConfigError(f"the cluster has too many columns: {MOST_VALUE_BYTES:,} bytes have to describe all tables")
    return encoded


def _encoded_triggers(contents: CatalogContents) -> bytes:
    encoded = encode(contents)
    if len(encoded) > MOST_VALUE_BYTES:
        raise ConfigError(f"the scripts of a table's triggers take at most {MOST_VALUE_BYTES:,} bytes in a cluster")
    return encoded


def new_cluster_name() -> str:
    """One that no other cluster has."""
    return os.urandom(8).hex()


def _conflict(broken: Expected, found: Item | None) -> str:
    kind, _, name = broken.key.partition("/")
    absent = 0 in (broken.revision, broken.created)
    match kind:
        case "placements":
            return f"partition {int(name)} has been changed meanwhile"
        case "members" if absent:
            return f"{name} is a member already"
        case "members":
            return f"member {name} was removed meanwhile" if found is None else f"member {name} was changed meanwhile"
        case "alive":
            return f"{name} is alive"
        case "schema":
            return "the tables of the cluster have been changed meanwhile"
        case "triggers":
            return "the triggers of the table have been changed meanwhile"
        case _ if absent:
            return "the cluster is initialised already"
        case _:
            return "the settings of the cluster have been changed meanwhile"
