"""The events query: a script over everyone's events; the workers' partials are merged into one result tree.

With compared segments there is a Partial for each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from openset.pyql.lanes.engine import EngineRun
from openset.pyql.settings import SESSION_TIME_MS, RunSettings
from openset.query.answer import QueryAnswer, aggregate_names
from openset.query.compare import compared_blocks, scanned
from openset.query.fan_out import Portion, turn
from openset.query.frame import Common, Facts, Prepared, Tools
from openset.query.index_only import candidates
from openset.query.parameters import RequestParameters
from openset.query.pruning import blocks_to_read, shown_candidates
from openset.query.result import Order, compared_tree, sort_index
from openset.query.time_zone import UTC_NAME, zone_of
from openset.query.wire.answers import EventsAnswer, EventsCodec
from openset.query.work import WorkerState
from openset.store.members import Compared
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot


@dataclass(frozen=True, slots=True, eq=False)
class EventsRequest:
    """An events query as it was asked. `parameters` still holds the script's values and what is unknown."""

    kind: ClassVar[str] = "events"
    table: str
    script: str
    common: Common
    parameters: RequestParameters
    segments: Sequence[str] | None = None
    sort: str | None = None
    ascending: bool = False
    trim: int | None = None
    session_time_ms: int = SESSION_TIME_MS
    time_zone: str = UTC_NAME
    debug: bool = False

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared | QueryAnswer:
        """Raises ParseError, QueryError."""
        plan = await tools.plans.get_in_thread(self.script, schema)
        script = plan.script
        settings = RunSettings(
            now_ms=facts.now_ms,
            session_time_ms=self.session_time_ms,
            parameters=self.parameters.script_values(script.parameters),
            deadline=facts.deadline(self.common),
            timeout_ms=self.common.timeout_ms,
            zone=zone_of(self.time_zone),
        )
        self.parameters.finish()
        sort = self.sort if self.sort is not None else script.sort
        order = Order(sort_index(script.aggregators, sort), self.ascending, self.trim)
        possible = candidates(script)
        shown = plan.describe() + shown_candidates(possible)
        if self.debug:
            return QueryAnswer({"debug": shown})
        work = EventsWork(self.script, schema, (), settings, self.common.info, None)
        segments = tuple(self.segments or ())
        codec = EventsCodec(script.aggregators, max(1, len(segments)))
        render = partial(_rendered, codec, order, segments, self.common.info)
        return Prepared(work, script.columns, shown, codec, render, possible)


@dataclass(frozen=True, slots=True, eq=False)
class EventsWork:
    """One turn of a query on a worker: the script over as many of these partitions as fit into the turn."""

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    want_log: bool
    compared: Compared | None

    def run(self, state: WorkerState) -> Portion[EventsAnswer]:
        """Raises RunTimeError."""
        plan = state.plans.plan(self.script, self.schema)
        segments = 1 if self.compared is None else len(self.compared)
        script_run = EngineRun(plan, self.settings, want_log=self.want_log, segments=segments)
        answer = EventsAnswer(script_run.partials)
        possible = candidates(plan.script)
        compared: Compared = [None] if self.compared is None else self.compared
        done = 0
        for snapshot in turn(self.snapshots):
            view, partition = state.views.view(snapshot), snapshot.partition
            read = blocks_to_read(view, possible, self.settings, plan.block_rows, state.members, compared, partition)
            script_run.add(*compared_blocks(state.members, compared, partition, read))
            if self.want_log:
                everyone = compared_blocks(state.members, compared, partition, view.blocks(plan.block_rows))
                people, events, rows = scanned(*everyone)
                answer.people += people
                answer.events += events
                answer.rows += rows
            done += 1
        return Portion(answer, done)


def _rendered(
    codec: EventsCodec,
    order: Order,
    segments: tuple[str, ...],
    info: bool,
    answers: Sequence[EventsAnswer],
    facts: Facts,
) -> QueryAnswer:
    merged = codec.merged(answers)
    body = compared_tree(merged.partials, order)
    if info:
        body["info"] = facts.shown(merged.people, merged.events, merged.rows)
        body["log"] = [line for each in merged.partials for line in each.log]
    return QueryAnswer(body, aggregate_names([aggregator.alias for aggregator in codec.aggregators], segments))
