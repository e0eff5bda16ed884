"""The time that scripts may take, so that one person or one script that is slow holds up nobody else for long.

A run is stopped after RUN_MS. Then the person with most rows is run apart from the others, until whoever takes too long
has been found: only these fail. What was lost on stopped runs is taken from the script's own account, which fills up
slowly; from an empty one a run is stopped after SHORT_RUN_MS. So a slow script costs the others a second once, and
afterwards a small part of their time. Runs that end in time cost nothing, however many they are.

The time is that of the processor: a machine that stands still, or is busy with other things, is not the script's doing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import numpy as np

from openset.errors import BudgetError, OpenSetError
from openset.pyql.settings import RunSettings
from openset_format.block import Block

Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)

RUN_MS = 500
SHORT_RUN_MS = 50
ACCOUNT_MS = 1_000
# What comes into an account, in ms per second.
INCOME_MS = 20
# What one piece of work may lose on stopped runs behind an empty account.
OVERDRAFT_MS = 1_000
# How long a script can hold up one piece of work with runs that are stopped, at most.
MOST_LOST_MS = ACCOUNT_MS + OVERDRAFT_MS + RUN_MS
# A worker that does not answer this long after the time of all runs of a piece of work is ended.
GRACE_SECONDS = 5.0


class Accounts(Generic[Key]):
    """What is left to each script, in the daemon. `clock`: seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._held: dict[Key, tuple[float, float]] = {}  # ms left, and when

    def left_ms(self, key: Key) -> int:
        held, since = self._held.get(key, (ACCOUNT_MS, 0.0))
        return int(min(ACCOUNT_MS, held + (self._clock() - since) * INCOME_MS))

    def spend(self, key: Key, lost_ms: int) -> None:
        if lost_ms:
            self._held[key] = max(self.left_ms(key) - lost_ms, 0), self._clock()

    def forget(self, key: Key) -> None:
        """Begins anew with a full account."""
        self._held.pop(key, None)


@dataclass(slots=True)
class Allowance:
    """What one script may lose in one piece of work. slow: (partition, ordinal) of people who were stopped in it."""

    left_ms: int
    lost_ms: int = 0
    slow: set[tuple[int, int]] = field(default_factory=set)

    @property
    def run_ms(self) -> int:
        """How long the next run may take."""
        return min(RUN_MS, max(SHORT_RUN_MS, self.left_ms - self.lost_ms))

    @property
    def is_used_up(self) -> bool:
        return self.lost_ms >= self.left_ms + OVERDRAFT_MS


def runs(
    block: Block, partition: int, allowance: Allowance, run: Callable[[Block, int], Result]
) -> Iterator[tuple[Block, Result | OpenSetError | MemoryError]]:
    """Runs something for the people of a Block, in their order, in as many parts as it takes; what came of each.

    run: is given some of the people and the ms it may take (`timed`). Its BudgetError and MemoryError end
    up with single people; any other error goes through.
    """
    waiting = list(_around(block, _known(block, partition, allowance)))[::-1]
    while waiting:
        part = waiting.pop()
        if allowance.is_used_up:
            yield part, BudgetError("it was not run, for it ran longer than its time for too many people")
            continue
        if part.people == 1 and _known(part, partition, allowance):
            yield part, BudgetError("it was not run, for it ran longer than its time for this person just before")
            continue
        run_ms, started = allowance.run_ms, time.thread_time()
        try:
            result = run(part, run_ms)
        except (BudgetError, MemoryError) as error:
            took_ms = round((time.thread_time() - started) * 1_000)
            allowance.lost_ms += max(took_ms, 1)
            if part.people > 1:
                waiting += list(_around(part, [int(np.diff(part.row_start).argmax())]))[::-1]
                continue
            allowance.slow.add((partition, _ordinal(part)))
            is_late = isinstance(error, BudgetError) and took_ms >= run_ms
            yield part, BudgetError(f"it ran longer than {run_ms} ms for one person") if is_late else error
        else:
            yield part, result


def timed(settings: RunSettings, run_ms: int) -> RunSettings:
    """Settings of a run that begins now, on this thread."""
    return replace(settings, deadline=time.thread_time() + run_ms / 1_000, timeout_ms=run_ms, clock=time.thread_time)


def _ordinal(block: Block) -> int:
    assert block.ordinals is not None
    return int(block.ordinals[0])


def _known(block: Block, partition: int, allowance: Allowance) -> list[int]:
    """Who of a Block (0…people-1) has been stopped in this piece of work."""
    assert block.ordinals is not None
    slow = [ordinal for number, ordinal in allowance.slow if number == partition]
    return np.flatnonzero(np.isin(block.ordinals, slow)).tolist() if slow else []


def _around(block: Block, apart: list[int]) -> Iterator[Block]:
    """The Block in parts: each of these people (ascending) alone, and who stands between them."""
    start = 0
    for at in apart:
        if at > start:
            yield block.part(start, at)
        yield block.part(at, at + 1)
        start = at + 1
    if start == 0:
        yield block
    elif start < block.people:
        yield block.part(start, block.people)
