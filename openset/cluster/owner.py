"""The owner of a partition in one term: appends, sends to the copies, knows what is agreed, looks after who is in sync.

A record is agreed when everyone in sync has it durably. Whoever is about to be added counts as in sync from the moment
it is proposed, whoever is about to be removed until that is known to have happened: so whichever placement the
coordinator has, an agreed record is on every node of its `in_sync`, and any of them can be the next owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openset.cluster.log import PartitionLog
from openset.cluster.map import NodeName, Placed, Placement, changed
from openset.cluster.messages import (
    Answer,
    Appended,
    Entry,
    Instruction,
    Keep,
    Propose,
    Show,
    Synced,
    Transfer,
    Transmit,
)


@dataclass(frozen=True, slots=True)
class Timing:
    """All in ms. heartbeat: an idle owner says that it lives. retry: what is not answered is sent again.

    silence: a copy that answers nothing so long is taken out of the set in sync, and is away then. patience: a write
    that is not agreed by then is refused, whatever becomes of it.  promise: a copy that has answered an owner does not
    begin to own for so long.
    """

    heartbeat_ms: int = 300
    retry_ms: int = 1_000
    silence_ms: int = 4_000
    patience_ms: int = 8_000
    promise_ms: int = 1_500


ENTRIES_PER_MESSAGE = 256
# Of what a copy has promised, how much an owner counts on: clocks differ.
_BELIEVED = 0.8


@dataclass(slots=True)
class _Copy:
    """What the owner knows of a copy. matched: it has the owner's records durably up to here; next: to be sent.

    probed: while nothing matched, the record that is sent next when there is no answer. At first the one behind the
    last: most copies have nearly everything, and say how much when they do not.
    ticket: while it is being filled, the one that its answers must name.  echo_ms: it has answered what was sent then.
    """

    matched: int
    next: int
    heard_ms: int
    sent_ms: int
    probed: int
    ticket: int = 0
    transferring: bool = False
    echo_ms: int = 0


class Owner:
    """One partition in one term. It begins with the log it had as a copy."""

    def __init__(
        self,
        node: NodeName,
        partition: int,
        log: PartitionLog,
        committed: int,
        placed: Placed,
        timing: Timing,
        now_ms: int,
    ):
        self.node = node
        self.partition = partition
        self.log = log
        self.committed = committed
        self.placed = placed
        self.term = placed.placement.term
        self.deposed = False
        # What the owners before may have agreed on: until all of it is known to be agreed, no query sees everything.
        self._inherited = log.last.index
        self._timing = timing
        self._copies: dict[NodeName, _Copy] = {}
        # What was proposed, with the revision it replaces. Only a newer placement shows what became of it: an answer
        # may be lost, and a refusal may be that of a second attempt.
        self._proposed: Placed | None = None
        self._proposed_ms = 0
        self._waiting: dict[int, tuple[int, int]] = {}  # index and when it came, by request
        # Since when it takes no more records because it is about to hand over, and when it may try to next.
        self._closed_ms: int | None = None
        self._next_close_ms = 0
        self._know_copies(now_ms)

    def start(self, now_ms: int) -> list[Instruction]:
        """The first instructions of the term."""
        return self._agree() + self.tick(now_ms)

    @property
    def placement(self) -> Placement:
        return self.placed.placement

    @property
    def ready(self) -> bool:
        """Whether everything that owners before acknowledged is known to be agreed, and nobody is to take over."""
        return not self.deposed and not self._hands_over and self.committed >= self._inherited

    def is_confirmed(self, now_ms: int) -> bool:
        """Whether everyone who could be the next owner has promised not to begin before this moment is over.

        That takes no coordinator: only copies in sync become owners, and the ones that are, this owner decides itself.
        """
        trusted_ms = int(self._timing.promise_ms * _BELIEVED)
        others = self._required() - {self.node}
        return all(name in self._copies and now_ms < self._copies[name].echo_ms + trusted_ms for name in others)

    @property
    def _hands_over(self) -> bool:
        """From the moment it proposes another owner it does nothing an owner does, until it knows better."""
        return self._proposed is not None and self._proposed.placement.owner != self.node

    # ---------------------------------------------------------------- the map

    def follow(self, placed: Placed, now_ms: int) -> list[Instruction]:
        """A newer placement in which this node is still the owner in the same term."""
        assert placed.placement.term == self.term and placed.placement.owner == self.node
        self.placed = placed
        if self._proposed is not None and placed.revision > self._proposed.revision:
            self._proposed = None
        self._know_copies(now_ms)
        return self._agree() + self.tick(now_ms)

    def _know_copies(self, now_ms: int) -> None:
        others = self.placement.copies - {self.node}
        for gone in self._copies.keys() - others:
            del self._copies[gone]
        for name in sorted(others):
            ticket = self.placement.filling.get(name, 0)
            known = self._copies.get(name)
            if known is None or (ticket and ticket != known.ticket):
                sent_ms, behind_last = now_ms - self._timing.retry_ms, self.log.last.index + 1
                self._copies[name] = _Copy(0, behind_last, now_ms, sent_ms, behind_last, ticket)

    # ---------------------------------------------------------------- writing

    def write(self, request: int, payload: Any, now_ms: int) -> list[Instruction]:
        """A record of a client."""
        if self.deposed or self._hands_over or self._closed_ms is not None:
            return [Answer(request, False, f"{self.node} hands partition {self.partition} over")]
        entry = Entry(self.term, payload)
        self.log.append([self.term])
        index = self.log.last.index
        self._waiting[request] = (index, now_ms)
        instructions: list[Instruction] = [Keep(self.partition, index, (entry,), self.log.epoch)]
        for name in sorted(self._copies):
            instructions += self._send(name, now_ms)
        return instructions

    def wait(self, request: int, index: int, now_ms: int) -> list[Instruction]:
        """For a record of the log, of this owner or one before: what becomes of it."""
        assert index <= self.log.last.index, "the record is in the log"
        if self.deposed or self._hands_over:
            return [Answer(request, False, f"{self.node} hands partition {self.partition} over")]
        if index <= self.committed:
            return [Answer(request, True)]
        self._waiting[request] = (index, now_ms)
        return []

    def synced(self, event: Synced, now_ms: int) -> list[Instruction]:
        """Own records are durable."""
        self.log.sync(event.index, event.epoch)
        return self._agree() + self._when_closed(now_ms)

    def appended(self, sender: NodeName, answer: Appended, now_ms: int) -> list[Instruction]:
        """What a copy says."""
        if answer.term > self.term:
            self.deposed = True  # the map will say who owns it now
            return self.give_up("another node owns the partition now")
        copy = self._copies.get(sender)
        if copy is None or answer.term < self.term:
            return []
        copy.heard_ms = now_ms
        if sender in self.placement.filling and answer.ticket != copy.ticket:
            return []
        copy.echo_ms = max(copy.echo_ms, answer.echo_ms)
        if answer.matched is None:
            copy.next = copy.probed = max(min(copy.next, answer.hint + 1), copy.matched + 1)
            return self._send(sender, now_ms)
        copy.transferring = False
        copy.matched = max(copy.matched, answer.matched)
        copy.next = max(copy.next, copy.matched + 1)
        instructions = self._agree() + self._take_in(sender, copy, now_ms) + self._when_closed(now_ms)
        if copy.next <= self.log.last.index:
            instructions += self._send(sender, now_ms)
        return instructions

    def transfer_closed(self, to: NodeName) -> None:
        """The next message asks the copy for what should be in the file; if that is not there, it is sent again."""
        copy = self._copies.get(to)
        if copy is not None and copy.transferring:
            copy.transferring = False
            copy.next = max(copy.matched, self.log.base.index) + 1

    def give_up(self, reason: str) -> list[Instruction]:
        """The requests that wait are not known to be agreed; they may be sent again."""
        waiting, self._waiting = self._waiting, {}
        return [Answer(request, False, reason) for request in waiting]

    # ---------------------------------------------------------------- time

    def tick(self, now_ms: int) -> list[Instruction]:
        """Signs of life, second attempts, and whoever has been silent for too long."""
        instructions: list[Instruction] = []
        for name in sorted(self._copies):
            copy = self._copies[name]
            behind = copy.matched < self.log.last.index
            if now_ms - copy.sent_ms >= (self._timing.retry_ms if behind else self._timing.heartbeat_ms):
                if behind and not copy.transferring:
                    again = copy.matched + 1 if copy.matched else copy.probed
                    copy.next = min(copy.next, max(again, self.log.base.index + 1))
                instructions += self._send(name, now_ms)
        late = [name for name, (_, came_ms) in self._waiting.items() if now_ms - came_ms > self._timing.patience_ms]
        for request in late:
            del self._waiting[request]
            instructions.append(Answer(request, False, "the copies did not answer in time"))
        silent = {
            name
            for name, copy in self._copies.items()
            if name in self.placement.in_sync and now_ms - copy.heard_ms > self._timing.silence_ms
        }
        if self.deposed:
            return instructions
        if self._proposed is not None and now_ms - self._proposed_ms > self._timing.retry_ms:
            instructions += self._propose(self._proposed.placement, now_ms)
        elif silent and self._proposed is None:
            kept = frozenset(self.placement.in_sync) - silent
            away = frozenset(self.placement.away) | silent
            reason = f"{', '.join(sorted(silent))} does not answer {self.node}"
            instructions += self._propose(changed(self.placement, reason, in_sync=kept, away=away), now_ms)
        return instructions + self._hand_over(now_ms)

    # ---------------------------------------------------------------- inside

    def _send(self, name: NodeName, now_ms: int) -> list[Instruction]:
        copy = self._copies[name]
        if copy.transferring:
            return []
        copy.sent_ms = now_ms
        previous = self.log.position(copy.next - 1)
        if previous is None:
            copy.transferring = True
            return [Transfer(name, self.partition, self.term)]
        first = copy.next
        last = min(self.log.last.index, first + ENTRIES_PER_MESSAGE - 1)
        copy.next = last + 1
        complete = last == self.log.last.index
        return [Transmit(name, self.partition, self.term, previous, first, last, self.committed, complete, now_ms)]

    def _required(self) -> frozenset[NodeName]:
        """Who must have a record before it is agreed."""
        required = frozenset(self.placement.in_sync)
        return required if self._proposed is None else required | frozenset(self._proposed.placement.in_sync)

    def _agree(self) -> list[Instruction]:
        if self.deposed or self._hands_over:
            return []
        agreed = self.log.synced
        for name in self._required() - {self.node}:
            agreed = min(agreed, self._copies[name].matched if name in self._copies else 0)
        if agreed <= self.committed:
            return []
        self.committed = agreed
        instructions: list[Instruction] = [Show(self.partition, agreed)]
        for request in [request for request, (index, _) in self._waiting.items() if index <= agreed]:
            del self._waiting[request]
            instructions.append(Answer(request, True))
        return instructions

    def _take_in(self, name: NodeName, copy: _Copy, now_ms: int) -> list[Instruction]:
        """A copy that has everything is proposed for the set in sync."""
        if name not in self.placement.filling or copy.matched < self.log.last.index or self._proposed is not None:
            return []
        return self._propose(
            changed(
                self.placement,
                f"{name} has caught up",
                in_sync=frozenset(self.placement.in_sync) | {name},
                stop_filling=frozenset((name,)),
            ),
            now_ms,
        )

    def _hand_over(self, now_ms: int) -> list[Instruction]:
        """To the successor that is wished for, once it has everything and nobody waits for a record any more.

        Records are refused from the first look on, so that this comes soon. A record whose outcome its sender did not
        hear would be sent again to the heir, and triggers would run for it twice.
        """
        heir = self.placement.successor
        if heir is None or heir == self.node or heir not in self.placement.in_sync or self._proposed is not None:
            self._closed_ms = None
            return []
        if self._closed_ms is None:
            if now_ms < self._next_close_ms:
                return []
            self._closed_ms = now_ms
        last = self.log.last.index
        is_late = now_ms - self._closed_ms > self._timing.retry_ms
        if self._copies[heir].matched == last and (self.committed == last or is_late):
            self._closed_ms = None
            given = changed(
                self.placement, f"{self.node} handed over: {self.placement.reason}", owner=heir, handed_over=True
            )
            return self._propose(given, now_ms) + self.give_up(f"{heir} takes partition {self.partition} over")
        if is_late:
            self._closed_ms, self._next_close_ms = None, now_ms + self._timing.silence_ms
        return []

    def _when_closed(self, now_ms: int) -> list[Instruction]:
        """Hands over when the last record is agreed, not only at the next tick."""
        return [] if self._closed_ms is None or self.deposed else self._hand_over(now_ms)

    def _propose(self, placement: Placement, now_ms: int) -> list[Instruction]:
        self._proposed, self._proposed_ms = Placed(self.placed.revision, placement), now_ms
        return [Propose(self.partition, self.placed.revision, placement)]
