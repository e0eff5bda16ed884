"""From the tallies of a Block to the result tree: distinctness, aggregation, all in columns.

Records are (node, row) pairs over every level of every tally. Aggregators that take a column's own value once per
event do not care in which order a script tallied; those with another key, `value` and `var` of text do, and only for
them are the batches put into the order in which each person's script ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openset.pyql import precise, tree
from openset.pyql.lanes import grouping
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.frames import Batch
from openset.pyql.lanes.inline import text_extremes
from openset.pyql.lanes.node_table import NodeTable, PublishedNodes
from openset.pyql.lanes.vectors import (
    BOOL,
    DOUBLE,
    INT,
    TEXT,
    Const,
    Positions,
    Value,
    Vec,
    assemble,
    groups,
    scalars,
    spread,
    take,
    unique_codes,
)
from openset.pyql.partial import Partial
from openset.pyql.states import CountState, ExtremeState, LatestState, NodeIds, SumState, VarState


def order_matters(aggregators: Sequence[tree.Aggregator]) -> bool:
    """Whether the order of a person's tallies can change a result."""
    for aggregator in aggregators:
        if aggregator.kind in ("value", "var"):
            return True
        if aggregator.key is not None and not aggregator.every:
            return True
    return False


def merged(batches: list[Batch], evaluator: Evaluator) -> Batch:
    """Several batches as one, each lane's tallies in the order they were made."""
    lane = np.concatenate([batch.lane for batch in batches])
    order = np.argsort(lane, kind="stable")
    depth = max(len(batch.nodes) for batch in batches)
    nodes = []
    for level in range(depth):
        parts = [
            batch.nodes[level] if level < len(batch.nodes) else np.full(len(batch.lane), -1, np.int64)
            for batch in batches
        ]
        nodes.append(np.concatenate(parts)[order])
    offsets = np.cumsum([0, *(len(batch.lane) for batch in batches)])
    values: list[Value] = []
    for index in range(len(batches[0].values)):
        pieces: list[tuple[Positions, Value]] = [
            (np.arange(offsets[i], offsets[i + 1]), spread(batch.values[index], len(batch.lane), evaluator.table))
            for i, batch in enumerate(batches)
        ]
        values.append(take(assemble(len(lane), pieces, evaluator.table), order))
    rows = np.concatenate([batch.row for batch in batches])[order]
    return Batch(lane[order], rows, nodes, values)


class TallyBook:
    """Adds the tallies of one Block to a Partial."""

    def __init__(
        self,
        evaluator: Evaluator,
        aggregators: Sequence[tree.Aggregator],
        nodes: NodeTable,
        published: PublishedNodes,
        partial: Partial,
    ):
        self.evaluator = evaluator
        self.run = evaluator.run
        self.aggregators = aggregators
        self.nodes = nodes
        self.published = published
        self.partial = partial
        self.node: NDArray[np.int64] = np.zeros(0, np.int64)
        self.row: Positions = np.zeros(0, np.int64)
        self.size = 0
        self.single = False

    def add(self, batches: list[Batch], members: NDArray[np.bool_] | None = None) -> None:
        """All tallies of a Block, of some people only (bool[people]); those left to the interpreter are dropped."""
        answered = ~self.run.failed if members is None else members & ~self.run.failed
        if not answered.all():
            batches = [batch.keep(answered[self.run.block.person_of_row[batch.row]]) for batch in batches]
        batches = [batch for batch in batches if len(batch.row)]
        if not batches:
            return
        if len(batches) > 1 and order_matters(self.aggregators):
            batches = [merged(batches, self.evaluator)]
        once = all(batch.unique_rows for batch in batches)
        record_nodes, record_rows, record_values = self._records(batches)
        distinct, self.node = unique_codes(record_nodes, len(self.nodes))
        if once and len(batches) > 1:
            once = self._nodes_disjoint(batches)
        self.single = once and self.run.block.event_start is None
        self.row = record_rows
        self.size = len(distinct)
        targets = self.published.of(distinct)
        variables = iter(record_values)
        for aggregator, state in zip(self.aggregators, self.partial.states, strict=True):
            if isinstance(state, VarState):
                self._add_var(state, targets, next(variables))
            elif isinstance(state, CountState):
                self._add_count(state, targets, aggregator)
            else:
                self._add_values(state, targets, aggregator)

    def _records(self, batches: list[Batch]) -> tuple[NDArray[np.int64], Positions, list[Value]]:
        """All (node, row) pairs and the var values that go with them."""
        nodes: list[NDArray[np.int64]] = []
        rows: list[Positions] = []
        values: list[list[Value]] = [[] for _ in batches[0].values]
        for batch in batches:
            for level in batch.nodes:
                going_on = level >= 0
                chosen = None if going_on.all() else np.flatnonzero(going_on)
                nodes.append(level if chosen is None else level[chosen])
                rows.append(batch.row if chosen is None else batch.row[chosen])
                for held, value in zip(values, batch.values, strict=True):
                    held.append(spread(take(value, chosen), len(nodes[-1]), self.run.table))
        if len(nodes) == 1:
            return nodes[0], rows[0], [held[0] for held in values]
        offsets = np.cumsum([0, *(len(part) for part in nodes)])
        count = int(offsets[-1])
        joined = [
            assemble(count, [(np.arange(offsets[i], offsets[i + 1]), v) for i, v in enumerate(held)], self.run.table)
            for held in values
        ]
        return np.concatenate(nodes), np.concatenate(rows), joined

    def _nodes_disjoint(self, batches: list[Batch]) -> bool:
        seen = np.zeros(len(self.nodes), np.bool_)
        for batch in batches:
            for level in batch.nodes:
                own = level[level >= 0]
                if seen[own].any():
                    return False
                seen[own] = True
        return True

    # ------------------------------------------------------------ columns of the records

    def _column(self, read: tree.ColumnRead, rows: Positions | None) -> Value:
        """A column on some rows, or on those of all records."""
        if rows is None:
            rows = self.row
        if read.name == "person":
            return self.run.person_vector.take(self.run.block.person_of_row[rows].astype(np.int64))
        return self.run.column_on(read.name, rows)

    def _taken(self, aggregator: tree.Aggregator) -> tuple[NDArray[np.int64], Positions, Vec] | None:
        """The records an aggregator takes, as (nodes, rows, values): those that have a value, of these the first of
        each (node, event, key)."""
        assert aggregator.column is not None
        value = self._column(aggregator.column, None)
        if isinstance(value, Const):
            return None
        node, row = self.node, self.row
        if value.valid is not None:
            present = np.flatnonzero(value.valid)
            node, row, value = node[present], row[present], value.take(present)
        if aggregator.every or self.single or aggregator.kind == "value":
            return node, row, value
        read = aggregator.key or aggregator.column
        keys: Value | None = None
        if self.run.block.event_start is not None and read.name not in ("stamp", "action", "person", "session"):
            # Built-in columns are the same on all rows of an event, and an event of one row has one key.
            keys = value if aggregator.key is None else self._column(read, row)
        chosen = grouping.first_per_key(node, self.size, self.run.block.event_of_row[row], keys)
        chosen.sort()
        return node[chosen], row[chosen], value.take(chosen)

    # ------------------------------------------------------------ aggregators

    def _add_count(self, state: CountState, targets: NodeIds, aggregator: tree.Aggregator) -> None:
        column = aggregator.column
        assert column is not None
        block = self.run.block
        if aggregator.key is None and not aggregator.every and column.name in ("person", "session"):
            others: NDArray[Any]
            if column.name == "person":
                others, width = block.person_of_row[self.row], block.people
            else:
                others, width = self._session_ids[self.row], block.rows
            state.add(targets, grouping.distinct_pairs(self.node, self.size, others, width))
            return
        taken = self._taken(aggregator)
        if taken is not None:
            state.add(targets, grouping.counts(taken[0], self.size))

    @property
    def _session_ids(self) -> NDArray[np.int64]:
        """A number per row that is the same for rows of one session of one person, below the number of rows."""
        sessions = self.run.block.sessions(self.run.settings.session_time_ms).astype(np.int64)
        return sessions - 1 + self.run.block.row_start[self.run.block.person_of_row]

    def _add_values(
        self, state: SumState | ExtremeState | LatestState, targets: NodeIds, aggregator: tree.Aggregator
    ) -> None:
        taken = self._taken(aggregator)
        if taken is None:
            return
        node, row, value = taken
        if isinstance(state, SumState):
            self._add_sums(state, targets, node, value)
        elif isinstance(state, ExtremeState):
            self._add_extremes(state, targets, node, value)
        else:
            self._add_latest(state, targets, node, row, value)

    def _add_sums(self, state: SumState, targets: NodeIds, node: NDArray[np.int64], value: Vec) -> None:
        for kind, positions, part in groups(value, self.run.table):
            if isinstance(part, Const):
                continue
            data = part.data
            if part.valid is not None:
                positions, data = positions[part.valid], data[part.valid]
            if not len(positions):
                continue
            assert kind in (BOOL, INT, DOUBLE)
            taken = node[positions]
            if kind == DOUBLE:
                totals, rests = precise.group_sums(taken, self.size, data)
                state.add_doubles(targets, totals, rests, grouping.counts(taken, self.size))
            else:
                found = grouping.sums(taken, self.size, data)
                state.add_ints(targets, found.ints, found.totals, found.counted)

    def _add_extremes(self, state: ExtremeState, targets: NodeIds, node: NDArray[np.int64], value: Vec) -> None:
        if not len(node):
            return
        if value.kind in (BOOL, INT, DOUBLE):
            best = grouping.extremes(node, self.size, value.data, state.greatest)
            some = np.flatnonzero(np.bincount(node, minlength=self.size))
            plain: list[Any] = best[some].tolist()
            if value.kind == BOOL:
                plain = [bool(v) for v in plain]
            state.add_list(targets[some].tolist(), plain)
            return
        texts = text_extremes(self.evaluator, node, value, self.size, state.greatest)
        for target, text in zip(targets.tolist(), texts, strict=True):
            state.add_value(target, text)

    def _add_latest(
        self, state: LatestState, targets: NodeIds, node: NDArray[np.int64], row: Positions, value: Vec
    ) -> None:
        """Per node the records of the greatest stamp; of those the last one of each person is offered in order."""
        if not len(node):
            return
        stamps = self.run.block.stamp[row]
        newest = grouping.extremes(node, self.size, stamps, greatest=True)
        candidates = np.flatnonzero(stamps == newest[node])
        persons = self.run.block.person_of_row[row[candidates]]
        # The last candidate of each (node, person): a stable sort keeps the order of tallies.
        order = np.lexsort((persons, node[candidates]))
        ordered = candidates[order]
        last = np.append((np.diff(node[ordered]) != 0) | (np.diff(persons[order]) != 0), True)
        kept = ordered[last]
        plain = scalars(value.take(kept), len(kept), self.run.table)
        block = self.run.block
        for position, scalar in zip(kept.tolist(), plain, strict=True):
            person = block.person_id(int(block.person_of_row[row[position]]))
            state.add_latest(int(targets[node[position]]), int(stamps[position]), person, cast(Any, scalar))

    def _add_var(self, state: VarState, targets: NodeIds, value: Value) -> None:
        if isinstance(value, Const):
            value = spread(value, len(self.node), self.run.table)
        for kind, positions, part in groups(value, self.run.table):
            if isinstance(part, Const):
                continue
            if part.valid is not None:
                present = np.flatnonzero(part.valid)
                positions, part = positions[present], part.take(present)
            node = self.node[positions]
            if kind == TEXT:
                self._add_latest(state.latest, targets, node, self.row[positions], part)
            else:
                self._add_sums(state.sum, targets, node, part)
