"""What the embedded coordinator keeps and what requests do to it: states and requests in, states and answers out.

No clock, no disk. When leases end is for whoever calls: a lease that is still in the state has not ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import msgspec

from openset.cluster.keeper import NO_LEASE, Changes, Commit, Item, LeaseId, Refused, Revision, apply
from openset.errors import LeaseLostError

FORMAT_VERSION = 1


class State(msgspec.Struct, frozen=True):
    """Everything that has to outlast a crash. leases: how long each lasts without being renewed, in ms."""

    format_version: int = FORMAT_VERSION
    revision: Revision = 1
    items: Mapping[str, Item] = {}
    leases: Mapping[LeaseId, int] = {}
    last_lease: LeaseId = NO_LEASE


class Step(NamedTuple):
    """The next state, and what became of keys on the way to it."""

    state: State
    changes: Changes


def commit(state: State, wanted: Commit) -> Step | Refused:
    """Raises LeaseLostError when a change names a lease that is not there."""
    found = {condition.key: state.items.get(condition.key) for condition in wanted.conditions}
    if not all(condition.holds(found[condition.key]) for condition in wanted.conditions):
        return Refused(state.revision, found)
    revision = state.revision + 1
    changes: dict[str, Item | None] = {}
    for change in wanted.changes:
        before = state.items.get(change.key)
        if change.value is None:
            if before is not None:
                changes[change.key] = None
            continue
        if change.lease != NO_LEASE and change.lease not in state.leases:
            raise LeaseLostError("the lease has ended")
        created = revision if before is None else before.created
        changes[change.key] = Item(change.value, created, revision, change.lease)
    if not changes:
        return Step(state, Changes(state.revision, {}))
    return _step(state, revision, changes, state.leases)


def grant(state: State, ttl_ms: int) -> State:
    """With a lease more, whose number is the last one."""
    lease = state.last_lease + 1
    return msgspec.structs.replace(state, leases={**state.leases, lease: ttl_ms}, last_lease=lease)


def end(state: State, leases: Collection[LeaseId]) -> Step:
    """Without some leases, and the values that had them."""
    left = {lease: ttl_ms for lease, ttl_ms in state.leases.items() if lease not in leases}
    gone: dict[str, Item | None] = {key: None for key, item in state.items.items() if item.lease in leases}
    return _step(state, state.revision + bool(gone), gone, left)


def _step(state: State, revision: Revision, changes: Mapping[str, Item | None], leases: Mapping[LeaseId, int]) -> Step:
    items = apply(state.items, changes)
    following = msgspec.structs.replace(state, revision=revision, items=items, leases=leases)
    return Step(following, Changes(revision, changes))
