"""Stored segments of a cluster: every node has all of them, whole; who computes one sends it to the others.

A node that was away when a computation was sent is given it by the query that needs it (`bring`), and learns of what
it missed when it is back (`take_over`). So do the others from it: they may have been away while it was not. Removals
are durable on every node that hears of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec

from openset.errors import InternalError, InternodeError, OpenSetError, QueryError
from openset.log import get_logger
from openset.query.spread import Spread
from openset.query.wire.answers import check_bitmap
from openset.query.wire.codec import checked, decoded, encoded
from openset.store.removals import REMEMBERED_MS, Removal
from openset.store.segment import Computed, Edition, Segment, StoredSegment
from openset.store.segments import Segments
from openset.store.store import Store

log = get_logger("openset.segments")

# How long another node may take to store a segment or to send one.
TIMEOUT_MS = 30_000
# Before every edition.
_NEVER: Edition = (-1, "")


class SentSegment(msgspec.Struct, frozen=True):
    """A computation. members: serialized bitmaps by partition."""

    segment: Segment
    members: dict[int, bytes]


class PutSegments(msgspec.Struct, frozen=True, tag="put segments"):
    """Store these unless there are later ones. Answered with the names of those there are."""

    table_id: int
    segments: list[SentSegment]


class RemovedSegment(msgspec.Struct, frozen=True, array_like=True):
    """A segment was removed up to an edition; until_ms: so long nodes remember it."""

    table_id: int
    name: str
    edition: Edition
    until_ms: int


class RemoveSegments(msgspec.Struct, frozen=True, tag="remove segments"):
    """Remove segments, and remember it, unless they were computed later than these editions.

    Answered with the editions of those, in the order of `removed`, None where there is nothing.
    """

    removed: list[RemovedSegment]


class RefreshFailed(msgspec.Struct, frozen=True, tag="refresh failed"):
    """A computation could not be replaced by a new one."""

    table_id: int
    name: str
    edition: Edition
    reason: str


class ForgetPerson(msgspec.Struct, frozen=True, tag="forget person"):
    """A person was erased: dead letters go, and segments lose these ordinals of a partition."""

    table_id: int
    partition: int
    person: str | int
    ordinals: list[int]


class ListSegments(msgspec.Struct, frozen=True, tag="list segments"):
    """Which segments are there, and which were removed? Answered with a SegmentList."""


class FetchSegment(msgspec.Struct, frozen=True, tag="fetch segment"):
    """Send a segment. Answered with a list of one SentSegment, or of none where there is none."""

    table_id: int
    name: str


class SegmentList(msgspec.Struct, frozen=True):
    """By table and name the edition of what is stored and whom it has lost, and up to which it was removed."""

    stored: list[tuple[int, str, Edition, int]]
    removed: list[RemovedSegment]


SegmentMessage = PutSegments | RemoveSegments | RefreshFailed | ForgetPerson | ListSegments | FetchSegment


# ---------------------------------------------------------------- the node that computes, removes, comes back


async def publish(store: Store, spread: Spread, table_id: int, names: Sequence[str]) -> None:
    """Sends segments that were just stored here to all other members. Members that do not answer get them later.

    Raises the error of a member that cannot store them.
    """
    with store.segments.pinned(table_id, names, _now_ms()) as found:
        message = await asyncio.to_thread(_sent, store.segments, table_id, list(found.values()))
    await _tell_all(spread, message)


async def publish_removal(store: Store, spread: Spread, removed: StoredSegment) -> None:
    """Has all other members remove what was removed here, and all nodes what one of them has computed of it meanwhile.

    A refresh that has not reached this node yet would bring it back. Raises the error of a member that cannot.
    """
    table_id, name = removed.table_id, removed.segment.name
    noted = Removal(removed.segment.edition, _now_ms() + REMEMBERED_MS)
    removal = store.segments.removed(_now_ms()).get((table_id, name), noted)  # else it was made again already
    while True:
        message = encoded(RemoveSegments([RemovedSegment(table_id, name, removal.edition, removal.until_ms)]))
        answers = [decoded(answer, list[Edition | None]) for answer in await _tell_all(spread, message)]
        later = [edition for answer in answers for edition in answer if edition is not None]
        if not later:
            return
        removal = Removal(max(later), removal.until_ms)
        await asyncio.to_thread(store.segments.hear_removed, table_id, {name: removal}, _now_ms())


async def publish_failure(spread: Spread, stored: StoredSegment, reason: str) -> None:
    """Tells all other members that a segment could not be refreshed: its ttl counts again."""
    segment = stored.segment
    await _tell_all(spread, encoded(RefreshFailed(stored.table_id, segment.name, segment.edition, reason)))


async def publish_erasure(store: Store, spread: Spread, erased: ForgetPerson) -> None:
    """Has all members, this one too, forget who was erased. The erasure counts whatever they answer."""
    answers = await asyncio.gather(
        _tell_all(spread, encoded(erased)), asyncio.to_thread(_forget, store, erased), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, OpenSetError):
            log.warning("an erasure is not finished", reason=answer.message)
        elif isinstance(answer, BaseException):
            raise answer


async def bring(spread: Spread, node: str, segments: Segments, stored: Sequence[StoredSegment]) -> list[str]:
    """Gives a node computations it lacks; the names of those of which it has later ones. Raises OpenSetError."""
    if not stored:
        return []
    message = await asyncio.to_thread(_sent, segments, stored[0].table_id, stored)
    later: list[str] = decoded(await spread.ask(node, message, TIMEOUT_MS), list[str])
    return later


async def catch_up(store: Store, spread: Spread, node: str) -> None:
    """Takes over from another member what was computed or removed while this node did not hear. Raises OpenSetError."""
    await take_over(store, spread, node, await listed_by(spread, node))


async def listed_by(spread: Spread, node: str) -> SegmentList:
    """What another member has and has seen removed. Raises OpenSetError."""
    listed: SegmentList = decoded(await spread.ask(node, encoded(ListSegments()), TIMEOUT_MS), SegmentList)
    return listed


async def take_over(store: Store, spread: Spread, node: str, listed: SegmentList) -> None:
    """Makes what another member has listed true here, too: removals first, so that nothing comes back meanwhile.

    Of one computation people can only have been erased since: both nodes then have those that neither has lost.
    Raises OpenSetError; InternalError and QueryError, which are about single segments, when all were tried.
    """
    await asyncio.to_thread(_hear_removed, store, listed.removed)
    removed = {(one.table_id, one.name): one.edition for one in _removed(store)}
    failure: OpenSetError | None = None
    for table_id, name, edition, lost in listed.stored:
        if store.has_table(table_id) and edition > removed.get((table_id, name), _NEVER):
            try:
                await _take_over_one(store, spread, node, table_id, name, edition, lost)
            except (InternalError, QueryError) as error:
                failure = failure or error
    if failure is not None:
        raise failure


async def _take_over_one(
    store: Store, spread: Spread, node: str, table_id: int, name: str, edition: Edition, lost: int
) -> None:
    with store.segments.pinned(table_id, [name], _now_ms()) as found:
        own = found[name].segment if name in found else None
    if own is not None and (own.edition > edition or (own.edition, own.lost) == (edition, lost)):
        return
    data = await spread.ask(node, encoded(FetchSegment(table_id, name)), TIMEOUT_MS)
    await asyncio.to_thread(_receive, store, table_id, decoded(data, list[SentSegment]))
    if own is not None and own.edition == edition:
        with store.segments.pinned(table_id, [name], _now_ms()) as found:
            await bring(spread, node, store.segments, list(found.values()))


def _hear_removed(store: Store, removed: Sequence[RemovedSegment]) -> None:
    """Not for the event loop. Raises InternalError, ReadOnlyError."""
    by_table: dict[int, dict[str, Removal]] = {}
    for one in removed:
        by_table.setdefault(one.table_id, {})[one.name] = Removal(one.edition, one.until_ms)
    for table_id, removals in by_table.items():
        if store.has_table(table_id):
            store.segments.hear_removed(table_id, removals, _now_ms())


def _removed(store: Store) -> list[RemovedSegment]:
    return [
        RemovedSegment(table_id, name, removal.edition, removal.until_ms)
        for (table_id, name), removal in store.segments.removed(_now_ms()).items()
    ]


def _stored(store: Store) -> list[StoredSegment]:
    return [one for schema in store.tables() for one in store.segments.all(schema.id, _now_ms())]


def is_refreshed_here(spread: Spread, partitions: int, stored: StoredSegment) -> bool:
    """Whether this node computes a segment again: the owner of the partition that its name falls into."""
    return spread.owners().of.get(sum(stored.segment.name.encode()) % partitions) == spread.node


def _sent(segments: Segments, table_id: int, stored: Sequence[StoredSegment]) -> bytes:
    computed = [segments.read(one) for one in stored]
    return encoded(PutSegments(table_id, [SentSegment(one.segment, dict(one.members)) for one in computed]))


async def _tell_all(spread: Spread, message: bytes) -> list[bytes]:
    """The answers of those other members that answer. Raises the error of one that cannot do what it is told."""
    others = [node for node in spread.members() if node != spread.node]
    answers = await asyncio.gather(*(_told(spread, node, message) for node in others), return_exceptions=True)
    for node, answer in zip(others, answers, strict=True):
        if isinstance(answer, InternodeError):
            log.warning("a member was not told of segments", node=node, reason=answer.message)
        elif isinstance(answer, BaseException):
            raise answer
    return [answer for answer in answers if isinstance(answer, bytes)]


async def _told(spread: Spread, node: str, message: bytes) -> bytes:
    """Asks twice: a connection that was kept may have been closed meanwhile."""
    try:
        return await spread.ask(node, message, TIMEOUT_MS)
    except InternodeError:
        return await spread.ask(node, message, TIMEOUT_MS)


# ---------------------------------------------------------------- which computations a query reads


def _edition(store: Store, table_id: int, name: str) -> Edition | None:
    return _editions(store, table_id, [name], _now_ms())[name]


def _editions(store: Store, table_id: int, names: Sequence[str], now_ms: int) -> dict[str, Edition | None]:
    with store.segments.pinned(table_id, names, now_ms) as found:
        return {name: found[name].segment.edition if name in found else None for name in names}


def other_segments(store: Store, table_id: int, wanted: Mapping[str, Edition | None], now_ms: int) -> list[str]:
    """The names of which this node does not have the computations that a query of that moment is to read."""
    own = _editions(store, table_id, list(wanted), now_ms)
    return [name for name, edition in wanted.items() if own[name] != edition]


# ---------------------------------------------------------------- the others


async def answer_segments(store: Store, message: SegmentMessage) -> bytes:
    """Does what another node says of segments. Raises WireError, ReadOnlyError, InternalError, QueryError."""
    match message:
        case PutSegments():
            checked(any(schema.id == message.table_id for schema in store.tables()), "it has segments of no table")
            return encoded(await asyncio.to_thread(_receive, store, message.table_id, message.segments))
        case RemoveSegments(removed):
            await asyncio.to_thread(_hear_removed, store, removed)
            return encoded([_edition(store, one.table_id, one.name) for one in removed])
        case RefreshFailed(table_id, name, edition, reason):
            with store.segments.pinned(table_id, [name], _now_ms()) as found:
                if name in found and found[name].segment.edition == edition:
                    store.segments.refresh_failed(found[name], reason, _now_ms())
        case ForgetPerson():
            checked(0 <= message.partition < (store.partitions or 0), "it erases from a partition there is not")
            checked(all(0 <= ordinal < 1 << 32 for ordinal in message.ordinals), "it erases nobody's ordinals")
            await asyncio.to_thread(_forget, store, message)
        case ListSegments():
            return encoded(_listed(store))
        case FetchSegment(table_id, name):
            with store.segments.pinned(table_id, [name], _now_ms()) as found:
                computed = [await asyncio.to_thread(store.segments.read, one) for one in found.values()]
            return encoded([SentSegment(one.segment, dict(one.members)) for one in computed])
    return encoded(None)


def _listed(store: Store) -> SegmentList:
    return SegmentList(
        [(one.table_id, one.segment.name, one.segment.edition, one.segment.lost) for one in _stored(store)],
        _removed(store),
    )


def _forget(store: Store, erased: ForgetPerson) -> None:
    """Not for the event loop. Raises InternalError, ReadOnlyError."""
    if store.has_table(erased.table_id):
        store.erasures.forget(erased.table_id, erased.partition, erased.person, erased.ordinals)


def _receive(store: Store, table_id: int, sent: Sequence[SentSegment]) -> list[str]:
    """Not for the event loop. Raises as `Segments.put`, WireError."""
    for one in sent:
        checked(all(0 <= number < (store.partitions or 0) for number in one.members), "it has partitions there are not")
        for members in one.members.values():
            check_bitmap(members)
    return store.segments.receive(table_id, [Computed(one.segment, one.members) for one in sent])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
