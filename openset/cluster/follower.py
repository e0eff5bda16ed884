"""A copy of a partition: takes what the owner of the newest term it knows sends, and says what it has durably.

It keeps a record only behind one that the owner has too, so its log is always the beginning of an owner's log. What it
has beyond, from earlier terms, was never agreed and is cut. Nothing agreed is ever cut (asserted).
"""

from __future__ import annotations

from openset.cluster.log import PartitionLog
from openset.cluster.map import NodeName, Position
from openset.cluster.messages import (
    Append,
    Appended,
    Cut,
    Install,
    Instruction,
    Keep,
    Send,
    Show,
    Synced,
    TransferArrived,
)


class Follower:
    """One partition's copy. term: of the newest owner heard of. committed: agreed, as far as known here.

    promised_until_ms: before that this node must not begin to own the partition (own clock).
    """

    def __init__(self, partition: int, log: PartitionLog, committed: int, promise_ms: int, promised_until_ms: int = 0):
        self.partition = partition
        self.log = log
        self.term = log.last.term
        self.committed = committed
        self.ticket = 0
        self.promised_until_ms = promised_until_ms
        self._promise_ms = promise_ms
        self._echo_ms = 0  # the latest `sent_ms` of this term
        # An answer that waits until the records it vouches for are durable: to whom, in which term, up to where.
        self._owed: tuple[NodeName, int, int] | None = None

    def raise_term(self, term: int) -> None:
        """A newer term was heard of: owners before it are refused from now on."""
        if term > self.term:
            self.term = term
            self._owed = None
            self._echo_ms = 0

    def receive(self, owner: NodeName, append: Append, now_ms: int) -> list[Instruction]:
        """What an owner sent."""
        if append.term < self.term:
            return [Send(owner, Appended(self.partition, self.term, None, 0, self.ticket))]
        self.raise_term(append.term)
        self._echo_ms = max(self._echo_ms, append.sent_ms)
        log = self.log
        if not log.has(append.previous):
            return [Send(owner, Appended(self.partition, self.term, None, self._hint(append.previous), self.ticket))]
        instructions = self._take(append)
        matched = append.previous.index + len(append.entries)
        instructions += self.learn_committed(min(append.committed, matched))
        self._owed = (owner, self.term, max(matched, self._owed[2] if self._owed else 0))
        return instructions + self._answer(now_ms)

    def synced(self, event: Synced, now_ms: int) -> list[Instruction]:
        """Records are durable."""
        self.log.sync(event.index, event.epoch)
        return self._answer(now_ms)

    def transferred(self, event: TransferArrived) -> list[Instruction]:
        """A file that has arrived: taken when it has records that are not here, in place of everything that is."""
        log = self.log
        known = event.position.index <= log.last.index and log.has(event.position)
        if event.term < self.term or known:
            return []
        assert event.position.index >= self.committed, "what is agreed is in the owner's log, or in its file"
        self.raise_term(event.term)
        log.replace(event.position)
        self._owed = (event.sender, event.term, event.position.index)
        installed = Install(self.partition, event.position, log.epoch)
        return [installed, *self.learn_committed(event.committed)]

    def learn_committed(self, committed: int) -> list[Instruction]:
        """Records up to an index are agreed; those of them that are here may be seen."""
        committed = min(committed, self.log.last.index)
        if committed <= self.committed:
            return []
        self.committed = committed
        return [Show(self.partition, committed)]

    def _hint(self, wanted: Position) -> int:
        """Where the owner may find a record that both have: before all those of the term that does not fit."""
        if wanted.index > self.log.last.index:
            return self.log.last.index
        return max(self.log.run_start(wanted.index) - 1, self.committed)

    def _take(self, append: Append) -> list[Instruction]:
        log, instructions = self.log, list[Instruction]()
        index = append.previous.index
        new = 0
        while new < len(append.entries) and log.has(Position(append.entries[new].term, index + 1 + new)):
            new += 1
        first = index + 1 + new
        if new < len(append.entries) and first <= log.last.index:
            instructions += self._cut(first - 1)
        if new < len(append.entries):
            entries = append.entries[new:]
            log.append([entry.term for entry in entries])
            instructions.append(Keep(self.partition, first, entries, log.epoch))
        end = index + len(append.entries)
        if append.complete:
            following = log.term_of(end + 1) if end < log.last.index else None
            if following is not None and following < append.term:
                instructions += self._cut(end)
        return instructions

    def _cut(self, after: int) -> list[Instruction]:
        assert after >= self.committed, "an agreed record is never cut"
        self.log.cut(after)
        if self._owed is not None:
            self._owed = (*self._owed[:2], min(self._owed[2], after))
        return [Cut(self.partition, after)]

    def _answer(self, now_ms: int) -> list[Instruction]:
        """What is owed, once it is true; until then a later append may add to it."""
        if self._owed is None:
            return []
        owner, term, matched = self._owed
        if self.log.synced < matched:
            return []
        self._owed = None
        self.promised_until_ms = max(self.promised_until_ms, now_ms + self._promise_ms)
        return [Send(owner, Appended(self.partition, term, matched, 0, self.ticket, self._echo_ms))]
