"""Who belongs to the segments of a counts request, in one partition: index, scripts in one pass, set algebra.

Membership is a bitmap of person ordinals. What only bitmaps can answer touches no events.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.pyql import tree
from openset.pyql.lanes.block_run import TooMuchAtOnce
from openset.pyql.lanes.engine import Plan, outcomes
from openset.pyql.settings import LOG_LIMIT_LINES, RunSettings
from openset.query.compare import scanned
from openset.query.pruning import few_candidates
from openset.query.work import CompiledSection
from openset.store.views import PartitionView
from openset_format.block import Block
from openset_format.membership import bitmap_of


@dataclass(frozen=True, slots=True)
class Scanned:
    """How many events and rows scripts went through, each counted once however many scripts there are; log() lines."""

    events: int = 0
    rows: int = 0
    log: Sequence[str] = ()


def script_members(
    view: PartitionView, sections: Sequence[CompiledSection], settings: RunSettings, *, measure: bool = False
) -> tuple[list[BitMap], Scanned]:
    """The members of each section that is a script, and with `measure` what had to be read for them.

    What the index knows is not looked for in events, and where it leaves few people only theirs are read; the other
    scripts that want Blocks of one size run in one pass over them. Raises RunTimeError.
    """
    log: list[str] | None = [] if measure else None
    members = [None if each.fact is None else each.fact.people(view, settings.parameters) for each in sections]
    read = [plan_of(each).block_rows for each, known in zip(sections, members, strict=True) if known is None]
    for place, each in enumerate(sections):
        few = None if members[place] is not None else few_candidates(view, each.candidates, settings)
        if few is not None:
            blocks = view.blocks_of(few, plan_of(each).block_rows)
            pieces = [part for b in blocks for part in members_of_block(plan_of(each), b, settings, log)]
            members[place] = _joined(pieces)
    left = sorted((plan_of(sections[place]).block_rows, place) for place, known in enumerate(members) if known is None)
    for block_rows, group in groupby(left, key=lambda entry: entry[0]):
        places = [place for _, place in group]
        found: dict[int, list[NDArray[np.int64]]] = {place: [] for place in places}
        for block in view.blocks(block_rows):
            for place in places:
                found[place] += members_of_block(plan_of(sections[place]), block, settings, log)
        for place in places:
            members[place] = _joined(found[place])
    everyone = view.blocks(min(read)) if read and measure else []
    _, events, rows = scanned(everyone, [[None]] * len(everyone))
    return [known for known in members if known is not None], Scanned(events, rows, log or ())


def plan_of(section: CompiledSection) -> Plan:
    """The plan of a section that is a script."""
    assert section.plan is not None
    return section.plan


def members_of_block(
    plan: Plan, block: Block, settings: RunSettings, log: list[str] | None = None
) -> list[NDArray[np.int64]]:
    """The ordinals of the people of a Block who belong to the segment, in pieces. Raises RunTimeError.

    log: where lines of log() are added while there is room; None when nobody asks for them.
    """
    pieces: list[NDArray[np.int64]] = []
    waiting = [block]
    while waiting:
        settings.check_deadline()
        part = waiting.pop()
        try:
            found = outcomes(plan, part, settings, want_log=log is not None and len(log) < LOG_LIMIT_LINES)
        except TooMuchAtOnce:
            middle = part.people // 2
            waiting += [part.part(middle, part.people), part.part(0, middle)]
            continue
        if log is not None:
            log += found.log
        people = found.people[found.member]
        pieces.append(people + part.first_person if part.ordinals is None else part.ordinals[people])
    return pieces


def _joined(pieces: Sequence[NDArray[np.int64]]) -> BitMap:
    return bitmap_of(np.concatenate(pieces)) if pieces else BitMap()


def algebra_members(algebra: tree.SetAlgebra, operand: Callable[[str], BitMap], present: BitMap) -> BitMap:
    """The members of a set-algebra section. present: everyone there is now, for complements."""
    sets = [
        operand(each) if isinstance(each, str) else algebra_members(each, operand, present) for each in algebra.operands
    ]
    if algebra.operation == "complement":
        return present - sets[0]
    if algebra.operation == "union":
        return reduce(lambda left, right: left | right, sets) & present
    if algebra.operation == "intersection":
        return reduce(lambda left, right: left & right, sets) & present
    if algebra.operation == "difference":
        return (sets[0] - sets[1]) & present
    return sets[0] & present


def operand_names(algebra: tree.SetAlgebra) -> list[tuple[str, tree.Position]]:
    """The segments a set algebra refers to, each with the place of the operation that does."""
    names: list[tuple[str, tree.Position]] = []
    waiting = [algebra]
    while waiting:
        node = waiting.pop()
        names += [(each, node.at) for each in node.operands if isinstance(each, str)]
        waiting += [each for each in node.operands if not isinstance(each, str)]
    return names
