"""What a coordinator is built on: a few small values under keys, with revisions, leases and watches.

Two things keep them: etcd (`etcd`), and a node of the cluster itself (`embedded`). This says what both do alike, in
etcd's words: every commit has a revision, one greater than the commit before or more; a value knows the revision that
wrote it and the one that created it; a value with a lease goes when the lease ends.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

Revision = int
LeaseId = int

NO_LEASE: LeaseId = 0
# What one commit may change; etcd takes no more unless it is told to.
MOST_CHANGES = 128
MOST_KEY_BYTES = 200
MOST_VALUE_BYTES = 1 << 20

_KEY = re.compile(r"[A-Za-z0-9._:\-\[\]]+(/[A-Za-z0-9._:\-\[\]]+)*")


def is_key(text: str) -> bool:
    """Whether this may be a key: words with slashes between them, `members/n1`."""
    return len(text) <= MOST_KEY_BYTES and _KEY.fullmatch(text) is not None


class Item(msgspec.Struct, frozen=True, array_like=True):
    """A value. created, revision: of the commit that made the key, and of the one that wrote this value.

    lease: with which it goes, NO_LEASE for one that stays.
    """

    value: bytes
    created: Revision
    revision: Revision
    lease: LeaseId = NO_LEASE


class Contents(NamedTuple):
    """Everything that is kept, as of a revision."""

    revision: Revision
    items: Mapping[str, Item]


class Changes(NamedTuple):
    """What became of keys up to a revision, None for those that are gone."""

    revision: Revision
    items: Mapping[str, Item | None]


class Expected(msgspec.Struct, frozen=True, array_like=True):
    """A condition of a commit: a key was created, or last written, by the commit of a revision. 0: it is not there."""

    key: str
    revision: Revision | None = None
    created: Revision | None = None

    def holds(self, item: Item | None) -> bool:
        """Whether it is so."""
        revision, created = (0, 0) if item is None else (item.revision, item.created)
        return self.revision in (None, revision) and self.created in (None, created)


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A part of a commit: a new value for a key, None removes it. lease: it has to be alive."""

    key: str
    value: bytes | None
    lease: LeaseId = NO_LEASE


class Commit(msgspec.Struct, frozen=True, array_like=True):
    """Changes that are made together, each of another key, when all conditions hold; else nothing is changed."""

    conditions: tuple[Expected, ...]
    changes: tuple[Change, ...]

    def __post_init__(self) -> None:
        # Commits come from other nodes too, so this is a check of input: msgspec makes its own error of a ValueError.
        keys = [change.key for change in self.changes]
        if not 0 < len(keys) == len(set(keys)) <= MOST_CHANGES:
            raise ValueError(f"a commit changes some keys, each once, up to {MOST_CHANGES}")
        for key in (*keys, *(condition.key for condition in self.conditions)):
            if not is_key(key):
                raise ValueError(f"{key!r} cannot be a key")
        if any(change.value is not None and len(change.value) > MOST_VALUE_BYTES for change in self.changes):
            raise ValueError(f"a value has up to {MOST_VALUE_BYTES} bytes")


class Refused(NamedTuple):
    """A commit whose conditions did not hold. items: of the keys in its conditions, as they were."""

    revision: Revision
    items: Mapping[str, Item | None]


class Lease(NamedTuple):
    """It ends when it was not renewed for so long. ttl_ms: what was granted, at least what was asked for."""

    lease: LeaseId
    ttl_ms: int


class Renewed(NamedTuple):
    """A lease that lasts for ttl_ms again, and an item, read after it was renewed."""

    ttl_ms: int
    item: Item | None


class CompactedError(Exception):
    """Changes since that revision are no longer known: read everything, then watch from there."""


class Keeper(Protocol):
    """Keeps a cluster's values. All methods raise UnreachableError, or ConfigError when the set-up is refused.

    After an UnreachableError of `commit`, `grant` or `revoke` nobody knows whether it was done.
    """

    @property
    def may_lead(self) -> bool:
        """Whether the node that has this keeper may become the sentinel."""

    async def read(self) -> Contents:
        """Everything; no earlier than what was committed when this was called."""

    async def commit(self, commit: Commit) -> Revision | Refused:
        """Durable when it returns. LeaseLostError when a change names a lease that has ended."""

    async def grant(self, ttl_ms: int) -> Lease:
        """A new lease."""

    async def renew(self, lease: LeaseId, key: str) -> Renewed:
        """Renews a lease, then reads a key. LeaseLostError when the lease has ended."""

    async def revoke(self, lease: LeaseId) -> None:
        """Ends a lease, and the values that have it; no error when it has ended."""

    def watch(self, after: Revision) -> AsyncGenerator[Changes, None]:
        """Changes behind a revision, as they come, without a gap, for good.

        Raises CompactedError besides. The changes of one commit come together; those of several may come as one.
        """

    async def close(self) -> None:
        """Whoever waits gets an UnreachableError."""


def apply(items: Mapping[str, Item], changes: Mapping[str, Item | None]) -> dict[str, Item]:
    """The items after changes."""
    changed = {key: item for key, item in items.items() if key not in changes}
    changed.update((key, item) for key, item in changes.items() if item is not None)
    return changed


def commit_of(conditions: Sequence[Expected], changes: Sequence[Change]) -> Commit:
    """A commit from any sequences."""
    return Commit(tuple(conditions), tuple(changes))
