"""A query over partitions that several nodes own: who is asked for which, what comes back, who is asked again.

`gather` asks the owners as they are known now, all at once, and merges what they answer as it arrives. What an owner
does not answer for, because it cannot be reached or owns it no longer, is asked of whoever owns it by then, until the
time of the query is over. Every partition's answer counts once: that of a node is taken as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from openset.errors import InternodeError, OpenSetError, PartitionsError, ReadOnlyError, RunTimeError
from openset.query.wire.asking import Answered
from openset.query.wire.codec import Codec, checked, decoded

Result = TypeVar("Result")
Agreed = TypeVar("Agreed")

# An owner that ends a query at its deadline is waited for this much longer.
ANSWER_GRACE_SECONDS = 1.0
# A node that did not answer is asked again after this long, then after twice that, and so on.
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# A node that owns some of what it was asked for no longer is waited for this much longer: where it lives it answers for
# the rest, and giving a query up costs it the processes that work on it.
LOST_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Owners:
    """Who owns what. revision: of the map. of: by partition a node's name; partitions that nobody owns are missing."""

    revision: int
    of: Mapping[int, str]


class Spread(Protocol):
    """The cluster as queries see it. Methods are called on the event loop."""

    @property
    def node(self) -> str:
        """This node's name."""
        ...

    def owners(self) -> Owners:
        """The owners as this node knows them now."""
        ...

    def members(self) -> Collection[str]:
        """The names of all members that are to have what every node has, this one among them."""
        ...

    def may_answer(self, partition: int) -> bool:
        """Whether this node owns the partition for sure, with everything acknowledged in it, at this moment."""
        ...

    async def ask(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        """Has another node's `answer_remote` answer. Cancelling it closes the connection, so that the other stops.

        Raises InternodeError when the node gives no answer, else the OpenSetError that it ended with.
        """
        ...

    async def changed(self, revision: int, timeout_ms: int) -> None:
        """Waits until the map is another than that of a revision, or until time is up."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Share(Generic[Result]):
    """What a node answered. read: how many partitions with data it took. refused: partitions it may not answer for.

    result: of the other ones, None when there are none. other_schema: its table is not that of whoever asks.
    other_segments: names of segments of which it has other computations.
    """

    result: Result | None
    read: int = 0
    refused: Sequence[int] = ()
    other_schema: bool = False
    other_segments: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Gathered(Generic[Result]):
    """result: of all partitions but those that are missing; None when there is none.  read: partitions with data.

    reasons: why partitions are missing.
    """

    result: Result | None
    read: int
    missing: Sequence[int]
    reasons: Mapping[int, str]

    def error(self) -> PartitionsError:
        """For a query that wants all partitions or none: names those that are missing."""
        by_reason: dict[str, list[int]] = {}
        for number in self.missing:
            by_reason.setdefault(self.reasons[number], []).append(number)
        parts = [f"{', '.join(map(str, numbers))} ({reason})" for reason, numbers in by_reason.items()]
        return PartitionsError(
            f"nobody answers for {len(self.missing)} of the partitions: {'; '.join(parts)}",
            detail={"missing_partitions": list(self.missing)},
        )


class OutdatedError(Exception):
    """Another node knows the table in another form, or later computations of segments: the query begins again."""


@dataclass(frozen=True, slots=True, eq=False)
class Asking(Generic[Result]):
    """One query on its way.

    here: answers for partitions of this node. body: what another node is sent for partitions.  deadline: in
    time.monotonic() seconds. partial: whether an answer may lack partitions.  bring: gives another node its
    computations of segments; False when the other has later ones.
    """

    spread: Spread
    codec: Codec[Result]
    here: Callable[[Sequence[int]], Awaitable[Share[Result]]]
    body: Callable[[Sequence[int]], bytes]
    deadline: float
    timeout_ms: int
    partial: bool
    bring: Callable[[str, Sequence[str]], Awaitable[bool]]

    async def share(self, node: str, numbers: Sequence[int]) -> Share[Result]:
        """What a node answers. Raises OpenSetError, OutdatedError."""
        share = await self._asked(node, numbers)
        if share.other_segments and node != self.spread.node and await self.bring(node, share.other_segments):
            share = await self._asked(node, numbers)
        if share.other_schema or share.other_segments:
            raise OutdatedError
        return share

    async def _asked(self, node: str, numbers: Sequence[int]) -> Share[Result]:
        if node == self.spread.node:
            return await self.here(numbers)
        left_seconds = self.deadline + ANSWER_GRACE_SECONDS - time.monotonic()
        data = await self.spread.ask(node, self.body(numbers), max(1, round(1000 * left_seconds)))
        answer: Answered = decoded(data, Answered)
        checked(set(answer.refused) <= set(numbers), "it refuses partitions that it was not asked for")
        checked(0 <= answer.read <= len(numbers), "it has read more partitions than it was asked for")
        result = None if answer.result is None else await asyncio.to_thread(self.codec.decode, answer.result)
        if not answer.other_schema and not answer.other_segments:
            checked((result is None) == (set(answer.refused) >= set(numbers)), "its result is missing")
        return Share(result, answer.read, answer.refused, answer.other_schema, answer.other_segments)


async def gather(asking: Asking[Result], partitions: Collection[int]) -> Gathered[Result]:
    """The merged answers for these partitions.

    Cancelling it ends what runs, here and on other nodes. Raises the first error that a script or a request ended
    with; RunTimeError when this node's part takes too long; PartitionsError where nobody answers for some partitions
    and the query does not want a partial answer.
    """
    return await _Gathering(asking, set(partitions)).run()


@dataclass(slots=True, eq=False)
class _Pause:
    """A node that gave no answer: until when it is left alone, and for how long after the next time."""

    until: float
    seconds: float


@dataclass(slots=True, eq=False)
class _Gathering(Generic[Result]):
    """waiting: partitions that nobody is asked for now. reasons: why the last one who was asked did not answer.

    lost_at: when it was seen that a node owns some of what it was asked for no longer.
    """

    asking: Asking[Result]
    waiting: set[int]
    running: dict[asyncio.Task[Share[Result]], tuple[str, list[int]]] = field(default_factory=dict)
    lost_at: dict[asyncio.Task[Share[Result]], float] = field(default_factory=dict)
    pauses: dict[str, _Pause] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    result: Result | None = None
    read: int = 0

    async def run(self) -> Gathered[Result]:
        changed: asyncio.Task[None] | None = None
        try:
            while self.waiting or self.running:
                owners = self.asking.spread.owners()
                self._call_off(owners)
                if time.monotonic() < self.asking.deadline:
                    self._ask(owners)
                elif not self.running:
                    break
                if changed is None or changed.done():
                    changed = asyncio.create_task(self._changed(owners.revision))
                seconds = self._wake_time(owners) - time.monotonic()
                done, _ = await asyncio.wait(
                    [*self.running, changed], timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED
                )
                for task in [task for task in self.running if task in done]:
                    self.lost_at.pop(task, None)
                    await self._take(task, *self.running.pop(task))
                if time.monotonic() >= self.asking.deadline + ANSWER_GRACE_SECONDS:
                    break
            return self._outcome()
        finally:
            tasks: list[asyncio.Task[Any]] = [*self.running, *([] if changed is None else [changed])]
            for task in tasks:
                task.cancel()

    async def _changed(self, revision: int) -> None:
        left_seconds = self.asking.deadline - time.monotonic()
        if left_seconds <= 0:
            await asyncio.sleep(ANSWER_GRACE_SECONDS)  # what was asked may still be answered
            return
        await self.asking.spread.changed(revision, max(1, round(1000 * left_seconds)))

    def _call_off(self, owners: Owners) -> None:
        """Gives up what was asked of other nodes that have long lost some of it: they may hang."""
        now = time.monotonic()
        for task, (node, numbers) in list(self.running.items()):
            if node == self.asking.spread.node or task.done():
                continue
            if all(owners.of.get(number) == node for number in numbers):
                self.lost_at.pop(task, None)
            elif now >= self.lost_at.setdefault(task, now) + LOST_GRACE_SECONDS:
                task.cancel()
                del self.running[task], self.lost_at[task]
                self._missed(numbers, f"node {node!r} owns some of them no longer")

    def _ask(self, owners: Owners) -> None:
        """Asks the owners of what is waiting, those that are not left alone."""
        shares: dict[str, list[int]] = {}
        for number in sorted(self.waiting):
            node = owners.of.get(number)
            if node is None:
                self.reasons.setdefault(number, "no node owns them")
            elif node not in self.pauses or self.pauses[node].until <= time.monotonic():
                shares.setdefault(node, []).append(number)
        for node, numbers in shares.items():
            task = asyncio.create_task(self.asking.share(node, numbers))
            task.add_done_callback(_taken_note_of)
            self.running[task] = (node, numbers)
            self.waiting.difference_update(numbers)

    def _wake_time(self, owners: Owners) -> float:
        """When there is something to do without an answer: a node may be asked again, or time is up."""
        if time.monotonic() >= self.asking.deadline:
            return self.asking.deadline + ANSWER_GRACE_SECONDS
        nodes = {owners.of.get(number) for number in self.waiting}
        again = [pause.until for node, pause in self.pauses.items() if node in nodes]
        called_off = [at + LOST_GRACE_SECONDS for at in self.lost_at.values()]
        return min([self.asking.deadline, *again, *called_off])

    async def _take(self, task: asyncio.Task[Share[Result]], node: str, numbers: list[int]) -> None:
        """Merges what was answered, or notes that it was not. Raises the error of a script or a request."""
        try:
            share = task.result()
        except OpenSetError as error:
            if not _is_no_answer(error):
                raise
            self._missed(numbers, f"node {node!r}: {error.message}")
            self._leave_alone(node)
            return
        if share.refused:
            self._missed(share.refused, f"node {node!r} does not own them")
            self._leave_alone(node)
        else:
            self.pauses.pop(node, None)
        if share.result is not None:
            self.read += share.read
            results = [share.result] if self.result is None else [self.result, share.result]
            if len(results) == 1:
                self.result = share.result
            else:
                self.result = await asyncio.to_thread(self.asking.codec.merged, results)

    def _missed(self, numbers: Sequence[int], reason: str) -> None:
        self.waiting.update(numbers)
        self.reasons.update(dict.fromkeys(numbers, reason))

    def _leave_alone(self, node: str) -> None:
        seconds = self.pauses[node].seconds if node in self.pauses else FIRST_PAUSE_SECONDS
        self.pauses[node] = _Pause(time.monotonic() + seconds, min(2 * seconds, LONGEST_PAUSE_SECONDS))

    def _outcome(self) -> Gathered[Result]:
        """Raises RunTimeError, PartitionsError."""
        asking = self.asking
        here = any(node == asking.spread.node for node, _ in self.running.values())
        for node, numbers in self.running.values():
            self._missed(numbers, f"node {node!r} did not answer within {asking.timeout_ms} ms (timeout=)")
        if here or not self.reasons.keys() >= self.waiting:  # this node was too slow, perhaps even to ask others
            raise RunTimeError(f"the query ran longer than its time budget of {asking.timeout_ms} ms (timeout=)")
        gathered = Gathered(self.result, self.read, sorted(self.waiting), self.reasons)
        if gathered.missing and not asking.partial:
            raise gathered.error()
        return gathered


def _taken_note_of(task: asyncio.Task[Any]) -> None:
    """After the first error of a query the others are nobody's, and nothing to complain about."""
    if not task.cancelled():
        task.exception()


def _is_no_answer(error: OpenSetError) -> bool:
    """Whether somebody else may answer: the node was not reached, is stopping, or is not who it was taken for."""
    return isinstance(error, InternodeError) or (error.status == 503 and not isinstance(error, ReadOnlyError))


async def until_agreed(attempt: Callable[[], Awaitable[Agreed]], deadline: float) -> Agreed:
    """The attempt that the nodes agree on. Raises InternodeError when they did not in time, and what it raises."""
    disagreed = False
    while True:
        try:
            return await attempt()
        except OutdatedError:
            disagreed = True
            await wait_for_others(deadline)
        except RunTimeError:
            # The last of several attempts has hardly any time.
            if disagreed and time.monotonic() >= deadline:
                raise _disagreement() from None
            raise


async def wait_for_others(deadline: float) -> None:
    """A short pause before a query begins again. Raises InternodeError when its time is over."""
    if time.monotonic() + FIRST_PAUSE_SECONDS >= deadline:
        raise _disagreement()
    await asyncio.sleep(FIRST_PAUSE_SECONDS)


def _disagreement() -> InternodeError:
    return InternodeError(
        "the nodes do not agree on the table's columns or its segments; a change of them may be under way"
    )
