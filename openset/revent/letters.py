"""Dead letters of webhooks: on a node alone in files of their own, in a cluster with the state of partitions' triggers.

`Letters` is what webhooks need of either. In a cluster a node sees those of the partitions that it owns, and records of
the partitions' logs change them, so they are on all copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from openset.revent.changes import TriggerChanges
from openset.store.dead_letters import DeadLetter, DeadLetters
from openset.store.store import Store
from openset.store.trigger_changes import Buried, Change, Letter, Retried, Unburied, message_place

# Letters and how many older ones fell out.
Found = tuple[list[DeadLetter], int]


class Letters(Protocol):
    """All methods are called on the event loop; changes are durable when they return."""

    def of(self, table_id: int, trigger_id: int, name: str) -> Found:
        """The letters of a subscription, oldest first."""
        ...

    async def add(self, table_id: int, letters: Sequence[DeadLetter], *, again: bool) -> None:
        """Keeps letters of one subscription, each in place of one with the same message.

        again: they were tried again, so each counts only where there still is the one before.
        """
        ...

    async def remove(self, table_id: int, trigger_id: int, name: str, ids: Sequence[str] | None = None) -> None:
        """Removes letters of a subscription: those of some messages, or all."""
        ...

    async def try_again(self, table_id: int, trigger_id: int, name: str) -> None:
        """Marks a subscription's letters to be tried again."""
        ...


class LocalLetters:
    """Of a node that stands alone."""

    def __init__(self, letters: DeadLetters):
        self._letters = letters

    def of(self, table_id: int, trigger_id: int, name: str) -> Found:
        return self._letters.of(table_id, trigger_id, name)

    async def add(self, table_id: int, letters: Sequence[DeadLetter], *, again: bool) -> None:
        await asyncio.to_thread(self._letters.add, table_id, letters, again=again)

    async def remove(self, table_id: int, trigger_id: int, name: str, ids: Sequence[str] | None = None) -> None:
        await asyncio.to_thread(self._letters.remove, table_id, trigger_id, name, ids)

    async def try_again(self, table_id: int, trigger_id: int, name: str) -> None:
        await asyncio.to_thread(self._letters.try_again, table_id, trigger_id, name)


class SharedLetters:
    """Of a member of a cluster."""

    def __init__(self, store: Store, changes: TriggerChanges):
        self._store = store
        self._changes = changes

    def of(self, table_id: int, trigger_id: int, name: str) -> Found:
        found: list[DeadLetter] = []
        fallen = 0
        with self._store.triggers.states(table_id) as states:
            for number, state in sorted(states.items()):
                if self._changes.owns(number):
                    own, lost = state.letters(trigger_id, name)
                    found += [
                        DeadLetter(trigger_id, name, one.message, one.reason, one.tries, one.at_ms, one.again)
                        for one in own
                    ]
                    fallen += lost
        return sorted(found, key=lambda one: one.at_ms), fallen

    async def add(self, table_id: int, letters: Sequence[DeadLetter], *, again: bool) -> None:
        parts: dict[int, list[Letter]] = {}
        for one in letters:
            partition, number = message_place(one.id)
            letter = Letter(number, one.message, one.reason, one.tries, one.at_ms, one.again)
            parts.setdefault(partition, []).append(letter)
        changes: Mapping[int, list[Change]] = {
            partition: [Buried(letters[0].trigger_id, letters[0].subscription, own, again)]
            for partition, own in parts.items()
        }
        await self._changes.append(table_id, changes)

    async def remove(self, table_id: int, trigger_id: int, name: str, ids: Sequence[str] | None = None) -> None:
        if ids is None:
            await self._everywhere(table_id, Unburied(trigger_id, name, None))
            return
        numbers: dict[int, list[int]] = {}
        for partition, number in map(message_place, ids):
            numbers.setdefault(partition, []).append(number)
        changes: Mapping[int, list[Change]] = {
            partition: [Unburied(trigger_id, name, own)] for partition, own in numbers.items()
        }
        await self._changes.append(table_id, changes)

    async def try_again(self, table_id: int, trigger_id: int, name: str) -> None:
        await self._everywhere(table_id, Retried(trigger_id, name))

    async def _everywhere(self, table_id: int, change: Change) -> None:
        await self._changes.append(table_id, {number: [change] for number in range(self._store.partitions or 0)})
