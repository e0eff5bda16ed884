"""A request that one partition answers: here, or by the node that owns the partition.

The whole answer of another node is held in memory before any of it is sent on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openset.query.frame import Facts, Target, ask_bytes
from openset.query.spread import Asking, Share, Spread, gather
from openset.query.wire.asking import request_bytes


class Whole:
    """The codec of answers that are bytes already, of one node."""

    def merged(self, results: Sequence[bytes]) -> bytes:
        (result,) = results
        return result

    def encode(self, result: bytes) -> bytes:
        return result

    def decode(self, data: bytes) -> bytes:
        return data


@dataclass(frozen=True, slots=True, eq=False)
class OwnerRequest:
    """What the owner of a partition is asked for. kind: by which other nodes know it. request: a dataclass."""

    kind: str
    request: Any
    partition: int
    timeout_ms: int


async def ask_owner(spread: Spread, asked: OwnerRequest, facts: Facts, answer: Callable[[], Awaitable[bytes]]) -> bytes:
    """The answer of the partition's owner. answer: makes it where that is this node.

    Raises the error that the request ended with; PartitionsError when nobody answers until time is up.
    """
    request = request_bytes(asked.request)
    deadline = facts.started + asked.timeout_ms / 1000

    async def here(numbers: Sequence[int]) -> Share[bytes]:
        return await answered_here(numbers, spread.may_answer, answer)

    asking = Asking(
        spread,
        Whole(),
        here,
        lambda numbers: ask_bytes(Target(asked.kind, request), facts, deadline, numbers),
        deadline,
        asked.timeout_ms,
        partial=False,
        bring=_nothing,
    )
    found = await gather(asking, [asked.partition])
    assert found.result is not None
    return found.result


async def _nothing(node: str, names: Sequence[str]) -> bool:
    return False  # no segment is read


async def answered_here(
    numbers: Sequence[int], may_answer: Callable[[int], bool], answer: Callable[[], Awaitable[bytes]]
) -> Share[bytes]:
    """This node's answer, where it owns the partition before it was made and after. Raises OpenSetError."""
    if not all(may_answer(number) for number in numbers):
        return Share(None, refused=numbers)
    result = await answer()
    if not all(may_answer(number) for number in numbers):
        return Share(None, refused=numbers)
    return Share(result, 1)
