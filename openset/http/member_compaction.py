"""Compacting a table on all members of a cluster, each its own copies, for whoever asks any of them.

First it is found out up to where the partitions are agreed: a copy that lags waits for that, or it would keep what was
erased.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from openset.errors import InternodeError, OpenSetError, UnreachableError
from openset_format.decoding import msgpack_decoder

if TYPE_CHECKING:
    from openset.cluster.member import Membership
    from openset.query.compactor import Compactor
    from openset.store.replicas import Replicas

ROUTE = "compact"
_ASK_MS = 10_000
# A member that lives may take very long; one that does not is noticed by its lease.
_COMPACT_MS = 6 * 3_600_000
_LOOK_SECONDS = 0.5


class Compact(msgspec.Struct, frozen=True):
    """Bring these records, and all before them, into the files of a table. Answered with how many were written.

    table: None only asks up to where the partitions are visible. Answered with record numbers by partition.
    """

    table: str | None = None
    agreed: dict[int, int] = {}


async def answer_compaction(compactor: Compactor, replicas: Replicas, message: Compact) -> bytes:
    """What another member asks. Raises as `Compactor.compact`."""
    if message.table is None:
        return msgspec.msgpack.encode(replicas.visible())
    return msgspec.msgpack.encode(await compactor.compact(message.table, message.agreed))


async def compact_everywhere(membership: Membership, compactor: Compactor, replicas: Replicas, table: str) -> int:
    """How many files were written on all members together.

    Raises UnreachableError that names the members whose copies may not be compacted, when the others are; and what the
    compaction of a member ended with.
    """
    others = [node for node in sorted(membership.view.members) if node != membership.node]
    asking = [_told(membership, node, Compact(), dict[int, int], _ASK_MS) for node in others]
    visible = await asyncio.gather(*asking, return_exceptions=True)
    agreed: dict[int, int] = {}
    reached = [
        (node, known) for node, known in zip(others, visible, strict=True) if not isinstance(known, BaseException)
    ]
    for known in (replicas.visible(), *(known for _, known in reached)):
        agreed = {number: max(agreed.get(number, 0), known.get(number, 0)) for number in agreed.keys() | known.keys()}
    message = Compact(table, agreed)
    answers = await asyncio.gather(
        compactor.compact(table, agreed),
        *(_told(membership, node, message, int, _COMPACT_MS) for node, _ in reached),
        return_exceptions=True,
    )
    failures = {node: error for node, error in zip(others, visible, strict=True) if isinstance(error, BaseException)}
    nodes = [membership.node, *(node for node, _ in reached)]
    failures |= {node: error for node, error in zip(nodes, answers, strict=True) if isinstance(error, BaseException)}
    _raise(failures)
    return sum(count for count in answers if isinstance(count, int))


async def _told(membership: Membership, node: str, message: Any, answer: Any, timeout_ms: int) -> Any:
    """What a member answers, as long as it lives. Raises OpenSetError."""
    call = asyncio.create_task(
        membership.peers.call(node, ROUTE, msgspec.msgpack.encode(message), timeout_ms=timeout_ms)
    )
    try:
        while not (await asyncio.wait({call}, timeout=_LOOK_SECONDS))[0]:
            if node not in membership.view.alive:
                raise UnreachableError("it is not alive")
            if membership.stopping:
                raise UnreachableError("the node that was asked stops")
        return msgpack_decoder(answer).decode(call.result())
    except msgspec.DecodeError as error:
        raise InternodeError(f"its answer cannot be read: {error}") from error
    finally:
        call.cancel()


def _raise(failures: Mapping[str, BaseException]) -> None:
    """One error for all of them: a defect before a failed compaction before a member that cannot be reached."""
    for error in failures.values():
        if not isinstance(error, OpenSetError):
            raise error
    failed = {node: error for node, error in failures.items() if isinstance(error, OpenSetError)}
    reasons = "; ".join(f"{node}: {error.message}" for node, error in failed.items())
    for error in failed.values():
        if not isinstance(error, InternodeError):
            again = type(error)(f"not compacted on all members of the cluster: {reasons}", detail=error.detail)
            again.status = error.status
            raise again from error
    if failed:
        raise UnreachableError(f"not compacted on all members of the cluster, ask again later: {reasons}")
