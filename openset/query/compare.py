"""`segments=` of queries: from names to stored segments, and from those to who is compared in each Block.

One script or look-up runs once for everyone who is in any of the segments; each segment has a result of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from openset.errors import QueryError
from openset.pyql import tree
from openset.pyql.lanes.engine import Members
from openset.store.members import Compared, MemberCache
from openset.store.segments import Segments
from openset.suggestion import suggestion
from openset_format.block import Block

EVERYONE = "*"
MOST_COMPARED = 100


def compared_names(text: str | None) -> tuple[str, ...] | None:
    """The names of `segments=a,b` in their order, None when the parameter is not given. Raises QueryError."""
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise QueryError("segments= takes names of segments with a comma between them; * is everyone")
    if len(names) > MOST_COMPARED:
        raise QueryError(f"segments= compares at most {MOST_COMPARED} segments")
    return names


@contextmanager
def compared_segments(
    segments: Segments, table_id: int, names: Sequence[str] | None, now_ms: int
) -> Iterator[Compared | None]:
    """What is compared, for the workers; None when nothing is. Files stay until the context is left.

    Raises QueryError for a name that no segment within its ttl has.
    """
    if names is None:
        yield None
        return
    with segments.pinned(table_id, [name for name in names if name != EVERYONE], now_ms) as found:
        for name in names:
            if name != EVERYONE and name not in found:
                raise unknown_segment(name, [stored.segment.name for stored in segments.all(table_id, now_ms)])
        yield tuple(None if name == EVERYONE else found[name].ref for name in names)


def unknown_segment(name: str, known: Iterable[str], at: tree.Position | None = None) -> QueryError:
    """The error for a name that no segment has."""
    return QueryError(
        f"there is no segment {name!r}{suggestion(name, known) or '; a counts query makes one'}",
        line=None if at is None else at.line,
        column=None if at is None else at.column,
    )


def compared_blocks(
    cache: MemberCache, compared: Compared, partition: int, blocks: Iterable[Block]
) -> tuple[list[Block], list[list[Members]]]:
    """The Blocks with anyone who is compared, and for each of them per segment who is (bool[people], None: all)."""
    kept: list[Block] = []
    masks: list[list[Members]] = []
    for block in blocks:
        of_block = cache.masks(compared, partition, block)
        if any(mask is None or mask.any() for mask in of_block):
            kept.append(block)
            masks.append(of_block)
    return kept, masks


def scanned(blocks: Sequence[Block], masks: Sequence[Sequence[Members]]) -> tuple[int, int, int]:
    """How many people, events and rows a run over these segments visits, each once."""
    people = events = rows = 0
    for block, of_block in zip(blocks, masks, strict=True):
        visited = block.runnable
        wanted = [mask for mask in of_block if mask is not None]
        if len(wanted) == len(of_block):
            visited = visited[np.logical_or.reduce(wanted)[visited]]
        first, last = block.row_start[visited], block.row_start[visited + 1]
        people += len(visited)
        rows += int((last - first).sum())
        if block.event_start is None:
            events += int((last - first).sum())
        else:
            before = np.append(0, np.cumsum(block.event_start, dtype=np.int64))
            events += int((before[last] - before[first]).sum())
    return people, events, rows
