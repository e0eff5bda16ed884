"""Webhooks and people who are erased while they are sent; dead letters that a node alone brings into a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support.receiver import Receiver
from support.revent_node import ReventNode, revent_node

from openset.revent.changes import LocalChanges
from openset.revent.deliveries import Deliveries
from openset.revent.letters import LocalLetters
from openset.revent.subscriptions import LocalSubscriptions
from openset.revent.webhooks import AllowList, Webhook, Webhooks
from openset.store.dead_letters import DeadLetter, DeadLetters
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Emitted, Letter, Subscribed

EACH = "def on_insert():\n    emit('x')\n"


async def erase(node: ReventNode, person: str) -> None:
    """As a request does: the record, then what is stored besides."""
    await asyncio.wrap_future(node.store.submit_erasure("t", person))
    await asyncio.to_thread(node.store.erasures.finish_all)


@pytest.mark.parametrize("again", [False, True])
def test_who_is_erased_while_it_is_tried_is_neither_sent_again_nor_kept(tmp_path: Path, again: bool) -> None:
    async def run() -> None:
        with Receiver(503) as receiver:
            async with revent_node(tmp_path / "data", partitions=1) as node:
                await node.save("each", EACH, once=False)
                deliveries = Deliveries(node.board, lambda: node.clock_ms)
                changes = LocalChanges(node.store, nullcontext)
                webhooks = Webhooks(
                    node.store, deliveries, LocalSubscriptions(deliveries), changes,
                    LocalLetters(node.store.dead_letters), AllowList.of("127.0.0.1"),
                )  # fmt: skip
                source = await deliveries.source(node.schema, "each")

                def dead() -> list[Any]:
                    return [one.message["person"] for one in webhooks.own_letters(source, "sub")]

                async def put(tries: int) -> None:
                    body = f'{{"url": "{receiver.url}", "tries": {tries}, "retry_ms": 400}}'.encode()
                    await webhooks.put(node.schema, source, "sub", body)

                try:
                    await put(1 if again else 3)
                    await node.insert(("ann", "a", 1), ("bob", "a", 1))
                    if again:
                        await node.until(lambda: sorted(dead()) == ["ann", "bob"])
                        await put(3)
                        receiver.got = []
                        assert await webhooks.retry(node.schema, source, "sub") == 2
                    await node.until(lambda: len(receiver.got) == 1)
                    assert sorted(receiver.people()) == ["ann", "bob"]
                    await erase(node, "bob")
                    receiver.got = []
                    await node.until(lambda: dead() == ["ann"] and not webhooks.own_letters(source, "sub")[0].again)
                    assert set(receiver.people()) == {"ann"} and len(receiver.got) == 2
                    await asyncio.sleep(0.1)
                    assert dead() == ["ann"]
                finally:
                    deliveries.close()
                    await webhooks.close()

    asyncio.run(run())


class Erasing(LocalLetters):
    """Somebody is erased when letters are about to be written. added: whom they are about."""

    def __init__(self, node: ReventNode, at_once: bool):
        super().__init__(node.store.dead_letters)
        self._node = node
        self._at_once = at_once
        self.added: list[Any] = []

    async def add(self, table_id: int, letters: Sequence[DeadLetter], *, again: bool) -> None:
        self.added += [one.message["person"] for one in letters]
        if self._at_once:
            await erase(self._node, "bob")
        await super().add(table_id, letters, again=again)


@pytest.mark.parametrize("while_written", [False, True])
def test_who_is_erased_at_the_last_moment_leaves_no_letter(tmp_path: Path, while_written: bool) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.save("each", EACH, once=False)
            deliveries, letters = Deliveries(node.board, lambda: node.clock_ms), Erasing(node, while_written)
            webhooks = Webhooks(
                node.store, deliveries, LocalSubscriptions(deliveries), LocalChanges(node.store, nullcontext), letters,
                AllowList.of("a"),
            )  # fmt: skip

            async def refused(hook: Webhook, body: bytes) -> str:
                if not while_written:
                    await erase(node, "bob")
                return "status 503"

            webhooks._post = refused  # type: ignore[method-assign]
            try:
                source = await deliveries.source(node.schema, "each")
                await node.insert(("ann", "a", 1), ("bob", "a", 1))
                await node.settled()
                await webhooks.put(node.schema, source, "sub", b'{"url": "http://a/", "tries": 1}')
                await node.until(lambda: deliveries.counted(source, "sub") == (0, 0))
                assert sorted(letters.added) == (["ann", "bob"] if while_written else ["ann"])
                assert [one.message["person"] for one in webhooks.own_letters(source, "sub")] == ["ann"]
            finally:
                deliveries.close()
                await webhooks.close()

    asyncio.run(run())


def test_letters_that_were_tried_again_count_only_where_they_still_are(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path)
    one, other = (letter(1, number) for number in (1, 2))
    letters.add(1, [one])
    letters.add(1, [one, other], again=True)
    assert [found.id for found in letters.of(1, 1, "mail")[0]] == [one.id]


def letter(table_id: int, number: int, partition: int = 0, subscription: str = "mail") -> DeadLetter:
    message = {"id": f"{table_id}-{partition}-{number}", "person": "ann"}
    return DeadLetter(1, subscription, message, "status 503", 3, 7)


@pytest.mark.parametrize("with_records", [False, True])
def test_a_node_brings_its_dead_letters_into_a_cluster_once(tmp_path: Path, with_records: bool) -> None:
    """Also those of a restored table in whose journal nothing is, and after an attempt that went wrong."""
    store = Store.open(tmp_path)
    store.initialise(2)
    table = store.create_table("t", [])
    trigger = store.triggers.put(
        table.id, Trigger(0, "each", 1, "", True, False, False, None, 0, (), 0), None, lambda: 0
    )
    subscribed = Subscribed(trigger.id, "mail", 1_000)
    if with_records:
        emitted = Emitted(5, 0, "ann", trigger.id, "each", "x")
        store.triggers.append(table.id, {0: [subscribed, emitted], 1: [subscribed]}).result(10)
    else:
        for number in (0, 1):
            with store.triggers._lock:
                store.triggers._state_of((table.id, number)).state.apply([subscribed], {trigger.id: trigger})
    held = [letter(table.id, number, number % 2) for number in range(1, 6)]
    store.dead_letters.add(table.id, held)
    store.triggers.bury(store.dead_letters)
    store.dead_letters.remove(table.id, trigger.id, "mail", [held[0].id])
    store.dead_letters._read[table.id].fallen["1 mail"] = 4
    own = store.journal_id
    store = store.as_member(own)
    try:
        found = [store.triggers.state(table.id, number) for number in (0, 1)]
        with found[0] as first, found[1] as second:
            letters = [first.letters(trigger.id, "mail"), second.letters(trigger.id, "mail")]
        numbers = [[one.number for one in own] for own, _ in letters]
        assert numbers == [[2, 4], [3, 5]] and sum(fallen for _, fallen in letters) == 4
        assert letters[0][0][0] == Letter(2, held[1].message, "status 503", 3, 7)
        assert store.dead_letters.all(table.id) == ([], {})
    finally:
        store.close()
