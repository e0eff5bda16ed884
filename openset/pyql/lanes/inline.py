"""Inline aggregations: SUM, COUNT, MIN, MAX, AVG, DISTINCT over all rows of the person.

Where the condition follows from the row alone they are computed once per Block for everyone; otherwise the rows of the
persons of the lanes are expanded, in pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from openset.pyql import tree
from openset.pyql.lanes import grouping
from openset.pyql.lanes.analysis import expressions_in, is_static
from openset.pyql.lanes.frames import Frame
from openset.pyql.lanes.vectors import (
    BOOL,
    DOUBLE,
    INT,
    NONE,
    NULL,
    Const,
    Mask,
    Positions,
    Value,
    Vec,
    assemble,
    factorise,
    first_of,
    from_payloads,
    from_scalars,
    one_zero,
    scalars,
    unique_codes,
)
from openset.pyql.states import order_key, sum_overflows

if TYPE_CHECKING:
    from openset.pyql.lanes.evaluate import Evaluator

_PIECE_ROWS = 1 << 20


def inline_values(evaluator: Evaluator, inline: tree.Inline, frame: Frame, lanes: Positions | None) -> Value:
    """The aggregation for the person of each lane."""
    run = evaluator.run
    if inline.where is None or is_static(inline.where):
        held = run.inlines.get(inline)
        if held is None:
            held = _for_everyone(evaluator, inline)
            run.inlines[inline] = held
        return held.take(run.persons(frame, lanes).astype(np.int64))
    if any(isinstance(part, tree.UserCall) for part in expressions_in(inline.where)):
        evaluator.fail(frame, lanes)
        return NULL
    return _per_lane(evaluator, inline, frame, lanes)


def _for_everyone(evaluator: Evaluator, inline: tree.Inline) -> Vec:
    block = evaluator.run.block
    rows: Positions = np.arange(block.rows, dtype=np.int64)
    if inline.where is not None:
        rows = rows[evaluator.condition(inline.where, evaluator.run.all_rows, None)]
    return _aggregate(evaluator, inline, block.person_of_row[rows].astype(np.int64), rows, block.people)


def _per_lane(evaluator: Evaluator, inline: tree.Inline, frame: Frame, lanes: Positions | None) -> Value:
    """Every lane with all rows of its person; pieces bound the memory."""
    run = evaluator.run
    chosen = np.arange(len(frame), dtype=np.int64) if lanes is None else lanes
    persons = frame.person[chosen].astype(np.int64)
    starts = run.block.row_start[persons]
    sizes = run.block.row_start[persons + 1] - starts
    ends = np.cumsum(sizes)
    parts: list[tuple[Positions, Value]] = []
    first = 0
    while first < len(chosen):
        reach = (ends[first - 1] if first else 0) + _PIECE_ROWS
        last = max(first + 1, int(np.searchsorted(ends, reach, side="right")))
        piece = np.arange(first, last)
        own = sizes[piece]
        total = int(own.sum())
        run.expanded_rows += total
        group = np.repeat(np.arange(len(piece)), own)
        rows = np.repeat(starts[piece] - (np.cumsum(own) - own), own) + np.arange(total)
        scanned = Frame(persons[piece][group], rows, frame, chosen[piece][group])
        assert inline.where is not None
        mask: Mask = evaluator.condition(inline.where, scanned, None)
        parts.append((piece, _aggregate(evaluator, inline, group[mask], rows[mask], len(piece))))
        first = last
        run.settings.check_deadline()
    return assemble(len(chosen), parts, evaluator.table)


def _aggregate(evaluator: Evaluator, inline: tree.Inline, groups: NDArray[np.int64], rows: Positions, size: int) -> Vec:
    """The aggregate of some rows by group, groups 0 … size-1."""
    run = evaluator.run
    block = run.block
    if (
        inline.kind == "count"
        and inline.key is None
        and not inline.every
        and inline.column.name in ("person", "session")
    ):
        return _count_once(evaluator, inline.column.name, groups, rows, size)
    value = _read(evaluator, inline.column, rows)
    if isinstance(value, Const):
        return _nothing(inline.kind, size)
    present = np.flatnonzero(value.present())
    groups, rows, value = groups[present], rows[present], value.take(present)
    distinct = not inline.every and inline.kind != "distinct"
    if distinct and block.event_start is not None:
        key = value if inline.key is None else _read(evaluator, inline.key, rows)
        chosen = grouping.first_per_key(groups, size, block.event_of_row[rows], key)
        chosen.sort()
        groups, value = groups[chosen], value.take(chosen)
    return _reduced(evaluator, inline.kind, groups, value, size)


def _read(evaluator: Evaluator, column: tree.ColumnRead, rows: Positions) -> Value:
    if column.name == "person":
        return evaluator.run.person_vector.take(evaluator.run.block.person_of_row[rows].astype(np.int64))
    return evaluator.run.column_on(column.name, rows)


def _count_once(evaluator: Evaluator, name: str, groups: NDArray[np.int64], rows: Positions, size: int) -> Vec:
    """COUNT person is 1 where a row passes, COUNT session the sessions with such a row."""
    if name == "person":
        return Vec(INT, (np.bincount(groups, minlength=size) > 0).astype(np.int64))
    sessions = evaluator.run.block.sessions(evaluator.run.settings.session_time_ms)[rows]
    width = int(sessions.max()) + 1 if len(sessions) else 1
    return Vec(INT, grouping.distinct_pairs(groups, size, sessions, width).astype(np.int64))


def _nothing(kind: str, size: int) -> Vec:
    if kind in ("count", "distinct"):
        return Vec(INT, np.zeros(size, np.int64))
    return Vec(INT, np.zeros(size, np.int64), np.zeros(size, np.bool_))


def _reduced(evaluator: Evaluator, kind: str, groups: NDArray[np.int64], value: Vec, size: int) -> Vec:
    if kind == "count":
        return Vec(INT, grouping.counts(groups, size).astype(np.int64))
    if kind == "distinct":
        codes, width = factorise(one_zero(value))
        distinct, codes = unique_codes(codes, width)
        return Vec(INT, grouping.distinct_pairs(groups, size, codes, max(1, len(distinct))).astype(np.int64))
    if kind in ("sum", "avg"):
        return _summed(evaluator, groups, value, size, mean=kind == "avg")
    return _extreme(evaluator, groups, value, size, greatest=kind == "max")


def _summed(evaluator: Evaluator, groups: NDArray[np.int64], value: Vec, size: int, mean: bool) -> Vec:
    found = grouping.sums(groups, size, value.data)
    some = found.counted > 0
    kinds = np.where(some, DOUBLE if found.doubles or mean else INT, NONE).astype(np.uint8)
    totals = found.totals
    if not found.doubles:
        kinds[sum_overflows(totals, found.ints) & some] = DOUBLE
    if mean:
        totals = totals / np.maximum(found.counted, 1)
    kinds[~np.isfinite(totals)] = NONE
    payload = np.where(kinds == DOUBLE, totals, 0.0).view(np.int64)
    return from_payloads(kinds, np.where(kinds == INT, found.ints, payload), evaluator.table)


def _extreme(evaluator: Evaluator, groups: NDArray[np.int64], value: Vec, size: int, greatest: bool) -> Vec:
    some = np.bincount(groups, minlength=size) > 0
    if value.kind in (INT, DOUBLE, BOOL):
        data = grouping.extremes(groups, size, value.data, greatest)
        data = np.where(some, data, 0)
        valid = None if some.all() else some
        return Vec(value.kind, data.astype(np.bool_) if value.kind == BOOL else data, valid)
    best = text_extremes(evaluator, groups, value, size, greatest)
    return from_scalars(best, evaluator.table)


def text_extremes(evaluator: Evaluator, groups: NDArray[np.int64], value: Vec, size: int, greatest: bool) -> list[Any]:
    """The least or greatest text (or id) per group, None where there is none; a sort of the distinct values."""
    codes, width = factorise(value)
    distinct, codes = unique_codes(codes, width)
    examples = first_of(codes, len(distinct))
    plain = scalars(value.take(examples), len(examples), evaluator.table)
    order = sorted(range(len(plain)), key=lambda position: order_key(cast(Any, plain[position])))
    rank = np.empty(len(plain), np.int64)
    rank[order] = np.arange(len(plain))
    best = grouping.extremes(groups, size, rank[codes], greatest)
    some = np.bincount(groups, minlength=size) > 0
    ranked = [plain[position] for position in order]
    return [ranked[b] if s else None for b, s in zip(best.tolist(), some.tolist(), strict=True)]
