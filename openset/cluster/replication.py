"""A member's part in keeping partitions: carries out what the state machine says, on its disk and to other nodes.

Everything here runs on the event loop; the disk's work is in the thread of `store.replicas`. Where an instruction
cannot be carried out, the machine is made anew from the disk, as a start of the node would: that is what it is proof
against.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from openset.cluster.arrivals import Arrivals
from openset.cluster.coordinator import Coordinator, boot_time_ms
from openset.cluster.log import PartitionLog
from openset.cluster.map import ClusterMap, NodeName, Position
from openset.cluster.messages import (
    Answer,
    Append,
    Await,
    Compacted,
    Cut,
    Discard,
    Entry,
    Event,
    Install,
    Instruction,
    Keep,
    LeaseRenewed,
    MapRead,
    Propose,
    Received,
    Send,
    Show,
    Synced,
    Tick,
    Transfer,
    TransferClosed,
    Transmit,
    Write,
)
from openset.cluster.outbox import Caller, Outbox
from openset.cluster.owner import Timing
from openset.cluster.recent import RecentEntries
from openset.cluster.state import NodeState
from openset.cluster.transfers import Rate, Transfers
from openset.cluster.view import View
from openset.cluster.wire import Outcome, Payload, WriteItem, decode_messages
from openset.errors import OpenSetError, ReadOnlyError
from openset.log import get_logger
from openset.store.journals import LogBase
from openset.store.replicas import StoredEntry
from openset.store.store import Store
from openset_format.errors import FormatError

log = get_logger("openset.cluster")

TICK_SECONDS = 0.1
# So long the watch takes to tell of a change that was made here, when it is not broken.
_WATCH_SECONDS = 0.1


class Fellow(Protocol):
    """What the data of a node need of its membership (`member.Membership`)."""

    @property
    def node(self) -> NodeName: ...

    @property
    def coordinator(self) -> Coordinator: ...

    @property
    def peers(self) -> Caller: ...

    @property
    def view(self) -> View: ...

    async def read_now(self) -> None: ...

    async def changed(self, seconds: float) -> bool: ...

    async def stand_aside(self) -> None: ...


class Replication:
    """Made for a member's open store; `view` starts it. clock: ms, that of the coordinator's leases."""

    def __init__(
        self,
        store: Store,
        fellow: Fellow,
        *,
        timing: Timing | None = None,
        clock: Callable[[], int] = boot_time_ms,
        rate: Rate | None = None,
    ):
        """rate: of the transfers that this node sends."""
        assert store.replicas is not None and store.copies is not None, "only members replicate"
        self.store = store
        self._fellow = fellow
        self._replicas = store.replicas
        self._copies = store.copies
        self._timing = timing
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._state: NodeState | None = None
        # Which machine it is: what was begun for an earlier one does not count.
        self._life = 0
        self._map: MapRead | None = None
        self._lease: LeaseRenewed | None = None
        self._recent = RecentEntries()
        self._outboxes: dict[NodeName, Outbox] = {}
        self._requests: dict[int, asyncio.Future[Outcome]] = {}
        self._next_request = 1
        self._transfers = Transfers(self._copies, fellow.peers, rate or Rate())
        self.arrivals = Arrivals(store, self._arrived)
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking = asyncio.create_task(self._tick())
        self._closed = False
        self._resigned = False
        self._replicas.journals.dropped = lambda number, base: self._from_thread(self._dropped, number, base)

    # ---------------------------------------------------------------- what the node hears

    def view(self, view: View) -> None:
        """What the coordinator has now."""
        cluster = view.map
        if cluster is None:
            return
        self._map = MapRead(cluster)
        if self._state is not None:
            self._handle(self._map)
        elif not self._life:
            self._begin()
        for gone in self._outboxes.keys() - cluster.members.keys():
            self._later(self._outboxes.pop(gone).close())
        self._transfers.keep(partial(_is_copied, cluster, self._fellow.node))

    def lease(self, renewed: LeaseRenewed) -> None:
        """How long this node is held for alive."""
        self._lease = renewed
        self._handle(renewed)

    def receive(self, sender: NodeName, body: bytes) -> None:
        """Messages of another node. Raises InternodeError for what is none."""
        messages = decode_messages(body)
        for message in messages:
            # Tables are known before records of them come: whoever sends has told its revision of the schema.
            self._handle(Received(sender, message))

    async def write(self, items: Sequence[WriteItem]) -> list[Outcome]:
        """Records for partitions that this node owns; what became of each, when it is known."""
        waiting: list[asyncio.Future[Outcome]] = []
        for item in items:
            outcome: asyncio.Future[Outcome] = self._loop.create_future()
            waiting.append(outcome)
            try:
                self.store.health.check()
            except ReadOnlyError as error:
                outcome.set_result(Outcome(error.message, read_only=True))
                continue
            if self._state is None or self._closed or self._resigned:
                outcome.set_result(Outcome("the node has only just started, or stops"))
                continue
            request, self._next_request = self._next_request, self._next_request + 1
            self._requests[request] = outcome
            payload = Payload(item.kind, item.table_id, item.data)
            known = self._recent.find(item.partition, payload) if item.again else None
            if known is None:
                self._handle(Write(request, item.partition, payload))
            else:
                self._handle(Await(request, item.partition, known))
        return await asyncio.gather(*waiting)

    # ---------------------------------------------------------------- what the node knows

    def may_answer(self, partition: int) -> bool:
        """Whether queries may be answered from here."""
        return self._state is not None and not self._resigned and self._state.may_answer(partition, self._clock())

    def owned_term(self, partition: int) -> int | None:
        """The term in which this node owns a partition, None when it does not."""
        return None if self._state is None else self._state.owned_term(partition)

    def transfers(self) -> list[Mapping[str, Any]]:
        """Those that run, for people."""
        return [*self._transfers.shown(), *self.arrivals.shown()]

    def resign(self) -> None:
        """Takes no more writes and answers no queries; what is being written still is."""
        self._resigned = True

    async def finished(self, seconds: float) -> None:
        """Returns when no write waits here any more, or after so long."""
        if self._requests:
            await asyncio.wait(list(self._requests.values()), timeout=seconds)

    async def close(self) -> None:
        """Whoever waits for a write learns that it is not known to be agreed."""
        self._closed = True
        self._life += 1
        tasks = [self._ticking, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *(box.close() for box in self._outboxes.values()), return_exceptions=True)
        self._give_up("the node stops")

    # ---------------------------------------------------------------- the machine

    def _begin(self) -> None:
        """The machine, from what is on the disk."""
        assert self._map is not None
        journals = self._replicas.journals
        logs = {
            number: PartitionLog(_position(journals.base(number)), journals.terms(number))
            for number in journals.numbers()
        }
        self._state = NodeState(self._fellow.node, logs, self._timing)
        if self._lease is not None:
            self._handle(self._lease)
        self._handle(self._map)

    def _restart(self, why: str) -> None:
        """After something that could not be carried out: everything that waits for the disk first, then from there."""
        log.error("the node's partitions are taken up anew", reason=why)
        self._life += 1
        self._state = None
        self._recent = RecentEntries()
        self._give_up("the owner takes its partitions up anew")
        self._later(self._begin_again(self._life))

    async def _begin_again(self, life: int) -> None:
        await asyncio.sleep(1.0)
        await asyncio.wrap_future(self._replicas.begin_again())
        if self._life == life and not self._closed:
            self._begin()

    def _give_up(self, reason: str) -> None:
        requests, self._requests = self._requests, {}
        for outcome in requests.values():
            if not outcome.done():
                outcome.set_result(Outcome(reason))

    def _handle(self, event: Event, life: int | None = None) -> None:
        if self._state is None or self._closed or life not in (None, self._life):
            return
        for instruction in self._state.handle(event, self._clock()):
            self._carry_out(instruction)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            if self.store.health.condition.state == "failed":
                break
            self._handle(Tick())
        # Nobody knows what is on the disk: others take over, and this node says nothing more of what it has.
        log.error("the disk has failed: this node gives its partitions up", reason=self.store.health.condition.reason)
        self._life += 1
        self._state = None
        self._give_up("the disk of the owner has failed")
        await self._fellow.stand_aside()

    def _dropped(self, number: int, base: LogBase) -> None:
        self._handle(Compacted(number, _position(base)))

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Keep():
                self._keep(instruction)
            case Cut(partition, after):
                self._recent.cut(partition, after)
                self._step(self._replicas.cut, partition, after)
            case Show(partition, committed):
                self._replicas.show(partition, committed)
            case Send(to, message):
                self._outbox(to).put(message)
            case Transmit():
                self._transmit(instruction)
            case Transfer(to, partition, term):
                self._later(self._transfer(to, partition, term, self._life))
            case Install():
                self._install(instruction)
            case Propose():
                self._later(self._propose(instruction))
            case Answer(request, done, reason):
                outcome = self._requests.pop(request, None)
                if outcome is not None and not outcome.done():
                    outcome.set_result(Outcome("" if done else reason or "the record is not agreed"))
            case Discard() if self._resigned:
                # Who stops is out of the set in sync a moment before its process ends, with a copy that was whole.
                # It is there for the next start, which knows whether it is wanted.
                pass
            case Discard(partition):
                self._recent.forget(partition)
                discard = partial(self._copies.discard, partition, self._replicas)
                self._step(self._replicas.replace, partition, discard)

    def _keep(self, keep: Keep) -> None:
        self._recent.keep(keep.partition, keep.first, keep.entries)
        entries = [StoredEntry(one.term, *one.payload) for one in keep.entries]
        life = self._life

        def done(last: int) -> None:
            self._from_thread(self._handle, Synced(keep.partition, last, keep.epoch), life)

        self._replicas.keep(keep.partition, keep.first, entries, done)

    def _step(self, ask: Callable[..., Any], *arguments: Any) -> None:
        """Something in the writer's thread that must not fail."""
        life = self._life

        def finished(future: Any) -> None:
            error = future.exception()
            if error is not None:
                self._from_thread(self._failed, str(error), life)

        ask(*arguments).add_done_callback(finished)

    def _failed(self, why: str, life: int) -> None:
        if life == self._life and not self._closed:
            self._restart(why)

    def _transmit(self, order: Transmit) -> None:
        entries = self._recent.get(order.partition, order.first, order.last)
        if entries is not None:
            self._send_append(order, entries)
        else:
            self._later(self._read_and_send(order))

    async def _read_and_send(self, order: Transmit) -> None:
        """Records that are only on the disk. Where they are not, the copy does not answer and is asked again."""
        try:
            stored = await asyncio.to_thread(self._replicas.read, order.partition, order.first, order.last)
        except (FormatError, OSError, KeyError) as error:
            log.info("records for a copy cannot be read", partition=order.partition, reason=str(error))
            return
        if len(stored) == order.last - order.first + 1:
            self._send_append(
                order, tuple(Entry(one.term, Payload(one.kind, one.table_id, bytes(one.payload))) for one in stored)
            )

    def _send_append(self, order: Transmit, entries: tuple[Entry, ...]) -> None:
        self._outbox(order.to).put(
            Append(order.partition, order.term, order.previous, entries, order.committed, order.complete, order.sent_ms)
        )

    async def _propose(self, propose: Propose) -> None:
        with suppress(OpenSetError):  # the map says what became of it
            await self._fellow.coordinator.swap(propose.partition, propose.expected_revision, propose.placement)
            if await self._fellow.changed(_WATCH_SECONDS):
                return
        await self._fellow.read_now()

    # ---------------------------------------------------------------- copies as wholes

    async def _transfer(self, to: NodeName, partition: int, term: int, life: int) -> None:
        """Sends the files of a partition, then says that this is over, however it went."""
        committed = self._state.committed(partition) if self._state is not None else 0
        if await self._transfers.send(to, partition, term, committed):
            self._handle(TransferClosed(partition, to), life)

    def _arrived(self, event: Event) -> None:
        self._handle(event)

    def _install(self, install: Install) -> None:
        """Takes its place in the writer's thread at once: records behind it come next."""
        partition, life = install.partition, self._life
        self._recent.forget(partition)
        received = self.arrivals.take(partition, install.position)
        if received is None:
            self._failed(f"the files of partition {partition} that have arrived are gone", life)
            return
        replicas, copies = self._replicas, self._copies
        installed = replicas.replace(partition, lambda: copies.install(partition, received, replicas))

        def finished(future: Future[None]) -> None:
            error = future.exception()
            if error is not None:
                self._from_thread(self._failed, str(error), life)
            else:
                self._from_thread(self._handle, Synced(partition, install.position.index, install.epoch), life)

        installed.add_done_callback(finished)

    # ---------------------------------------------------------------- inside

    def _outbox(self, node: NodeName) -> Outbox:
        if node not in self._outboxes:
            self._outboxes[node] = Outbox(self._fellow.peers, node)
        return self._outboxes[node]

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a defect in the replication of partitions", exc_info=task.exception())

    def _from_thread(self, call: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *arguments)


def _is_copied(cluster: ClusterMap, owner: NodeName, partition: int, to: NodeName) -> bool:
    """Whether a node is to have a partition from this owner."""
    placed = cluster.placements.get(partition)
    return placed is not None and placed.placement.owner == owner and to in placed.placement.copies


def _position(base: LogBase) -> Position:
    return Position(base.term, base.index)
