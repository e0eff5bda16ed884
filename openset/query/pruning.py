"""Which Blocks a query reads: everyone's, or copies of the rows of the few people who can matter.

Indexes say for whom a script can do anything, stored segments whose results are wanted. Reading few people pays from
about an eighth of them downwards, because their rows have to be copied together first.
"""

from __future__ import annotations

from pyroaring import BitMap

from openset.pyql.settings import RunSettings
from openset.query.index_only import Candidates
from openset.store.members import Compared, MemberCache
from openset.store.views import PartitionView
from openset_format.block import Block

FEW_PEOPLE = 1 / 8


def blocks_to_read(
    view: PartitionView,
    candidates: Candidates | None,
    settings: RunSettings,
    block_rows: int,
    cache: MemberCache,
    compared: Compared,
    partition: int,
) -> list[Block]:
    """The Blocks with everybody for whom a script can do anything that is wanted, and perhaps with others.

    candidates: what the indexes may say about the script. compared: whose results are wanted.
    """
    few = few_candidates(view, candidates, settings)
    if few is None:
        few = _if_few(_members(cache, compared, partition), view)
    return view.blocks(block_rows) if few is None else view.blocks_of(few, block_rows)


def few_candidates(view: PartitionView, candidates: Candidates | None, settings: RunSettings) -> BitMap | None:
    """The people for whom a script can do anything, where the indexes know that they are few."""
    return None if candidates is None else _if_few(candidates.people(view, settings.parameters), view)


def _if_few(people: BitMap | None, view: PartitionView) -> BitMap | None:
    return people if people is not None and len(people) <= FEW_PEOPLE * view.people else None


def _members(cache: MemberCache, compared: Compared, partition: int) -> BitMap | None:
    """Whoever is in any of the segments, None when everyone is compared."""
    segments = [segment for segment in compared if segment is not None]
    if not segments or len(segments) < len(compared):
        return None
    return BitMap.union(*(cache.bitmap(segment, partition) for segment in segments))


def shown_candidates(candidates: Candidates | None) -> str:
    """A line of the plan on whom the indexes leave, nothing when they cannot say anything."""
    if candidates is None:
        return ""
    return f"\npeople: those whom the index of {', '.join(candidates.columns)} leaves, where it knows the values"
