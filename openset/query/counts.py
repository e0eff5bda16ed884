"""The counts query: sections become stored segments, and the answer is how many people belong to each.

A section is answered by an earlier computation (use_cached), by the index of people, by its script over everyone's
events, or by set algebra over stored segments and the sections above it. Workers find the members of their partitions;
the daemon adds the counts up and stores what was computed before it answers.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import msgspec
from pyroaring import BitMap

from openset.errors import QueryError, ReadOnlyError
from openset.pyql.settings import LOG_LIMIT_LINES, SESSION_TIME_MS, RunSettings
from openset.query.answer import QueryAnswer
from openset.query.definition import Definition, cached_sections, described, operands
from openset.query.fan_out import Portion, turn
from openset.query.frame import Common, Facts, Prepared, Tools
from openset.query.membership import algebra_members, operand_names, script_members
from openset.query.parameters import RequestParameters
from openset.query.section_plan import describe_section
from openset.query.time_zone import UTC_NAME, zone_of
from openset.query.wire.answers import CountsCodec, PartitionCounts
from openset.query.work import CompiledSections, WorkerState
from openset.store.members import Compared, SegmentRef
from openset.store.schema import TableSchema
from openset.store.segment import Computed, Segment, StoredSegment
from openset.store.segments import Segments
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset.store.views import PartitionView
from openset_format.membership import serialized


@dataclass(frozen=True, slots=True, eq=False)
class CountsRequest:
    """A counts query as it was asked. `parameters` still holds the scripts' values and what is unknown."""

    kind: ClassVar[str] = "counts"
    table: str
    script: str
    common: Common
    parameters: RequestParameters
    session_time_ms: int = SESSION_TIME_MS
    time_zone: str = UTC_NAME
    debug: bool = False
    segments: None = None

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared | QueryAnswer:
        """Raises ParseError, QueryError, ReadOnlyError."""
        sections = await tools.plans.sections.get_in_thread(self.script, schema)
        scripts = [each.section.script for each in sections if each.section.script is not None]
        values = self.parameters.script_values({name for script in scripts for name in script.parameters})
        self.parameters.finish()
        _check_names(tools.store, schema, [each.section.name for each in sections], facts.now_ms)
        definition = Definition(
            self.script, schema, sections, values, self.session_time_ms, self.time_zone, self.common.timeout_ms
        )  # fmt: skip
        prepared = prepared_counts(tools, definition, self.common, facts)
        if self.debug:
            prepared.held.close()
            return QueryAnswer({"debug": prepared.plan})
        assert isinstance(prepared.work, CountsWork)
        if not self.common.explain and len(prepared.work.cached) < len(sections):
            try:
                tools.store.segments.check_writable()  # before the work, which would be for nothing
            except ReadOnlyError:
                prepared.held.close()
                raise
        return prepared


@dataclass(frozen=True, slots=True, eq=False)
class CountsWork:
    """The sections over as many partitions as fit into a turn.

    stored: segments that set algebra refers to and that no section above makes.  cached: sections that are answered
    from an earlier computation.  measure: whether to say what was scanned.  compared: always None; all work has it.
    """

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    stored: Mapping[str, SegmentRef]
    cached: Mapping[str, SegmentRef]
    measure: bool
    compared: Compared | None = None

    def run(self, state: WorkerState) -> Portion[list[PartitionCounts]]:
        """Raises RunTimeError, InternalError for damaged files."""
        sections = state.plans.sections.get(self.script, self.schema)
        found = [
            self._partition(state, sections, snapshot, state.views.view(snapshot)) for snapshot in turn(self.snapshots)
        ]
        return Portion(found, len(found))

    def _partition(
        self, state: WorkerState, sections: CompiledSections, snapshot: PartitionSnapshot, view: PartitionView
    ) -> PartitionCounts:
        scripts = [each for each in sections if each.plan is not None and each.section.name not in self.cached]
        members, scanned = script_members(view, scripts, self.settings, measure=self.measure)
        of_script = {each.section.name: bitmap for each, bitmap in zip(scripts, members, strict=True)}
        made: dict[str, BitMap] = {}

        def operand(name: str) -> BitMap:
            return made[name] if name in made else state.members.bitmap(self.stored[name], snapshot.partition)

        for each in sections:
            name, algebra = each.section.name, each.section.algebra
            if name in self.cached:
                made[name] = state.members.bitmap(self.cached[name], snapshot.partition)
            elif algebra is not None:
                made[name] = algebra_members(algebra, operand, view.present)
            else:
                made[name] = of_script[name]
        return PartitionCounts(
            snapshot.partition,
            [bitmap.intersection_cardinality(view.present) for bitmap in made.values()],
            {name: serialized(bitmap) for name, bitmap in made.items() if name not in self.cached},
            snapshot.journal_id,
            max(snapshot.applied_sequence, snapshot.records.last_sequence),
            len(view.present),
            scanned,
        )


def _check_names(store: Store, schema: TableSchema, names: Sequence[str], now_ms: float) -> None:
    """Raises QueryError for a new segment with the name of a trigger: subscriptions are to either by name."""
    triggers = {one.name for one in store.triggers.of_table(schema.id) if not one.watched}
    if triggers.isdisjoint(names):
        return
    known = {stored.segment.name for stored in store.segments.all(schema.id, now_ms)}
    for name in names:
        if name in triggers and name not in known:
            raise QueryError(f"{name!r} is the name of a trigger, and subscriptions are to either by name")


def prepared_counts(tools: Tools, definition: Definition, common: Common, facts: Facts) -> Prepared:
    """The sections ready to run; what they refer to is held. Raises QueryError."""
    segments = tools.store.segments
    wanted = [
        name for each in definition.sections if each.section.algebra for name, _ in operand_names(each.section.algebra)
    ]
    wanted += [each.section.name for each in definition.sections if each.section.use_cached]
    with ExitStack() as held:
        found = held.enter_context(segments.pinned(definition.schema.id, wanted, facts.now_ms))
        stored = operands(segments, definition, found, facts.now_ms)
        cached = cached_sections(definition, found, facts.now_ms)
        settings = RunSettings(
            now_ms=facts.now_ms,
            session_time_ms=definition.session_time_ms,
            parameters=definition.values,
            deadline=facts.deadline(common),
            timeout_ms=common.timeout_ms,
            zone=zone_of(definition.time_zone),
        )
        work = CountsWork(
            definition.script,
            definition.schema,
            (),
            settings,
            {name: one.ref for name, one in stored.items()},
            {name: one.ref for name, one in cached.items()},
            common.info,
        )
        computed = [each for each in definition.sections if each.section.name not in cached]
        return Prepared(
            work,
            frozenset().union(*(each.section.script.columns for each in computed if each.section.script is not None)),
            "\n".join(describe_section(each, cached, facts.now_ms) for each in definition.sections),
            CountsCodec(len(definition.sections), frozenset(each.section.name for each in computed)),
            partial(_rendered, segments, definition, cached, common.info, tools.spread is not None),
            held=held.pop_all(),
            segments=tuple(dict.fromkeys(wanted)),
            makes=tuple(each.section.name for each in definition.sections),
        )
    raise AssertionError  # nothing above swallows an exception


def _rendered(
    segments: Segments,
    definition: Definition,
    cached: Mapping[str, StoredSegment],
    info: bool,
    in_cluster: bool,
    portions: Sequence[Sequence[PartitionCounts]],
    facts: Facts,
) -> QueryAnswer:
    """Stores what was computed, unless partitions are missing, then answers. Raises InternalError, QueryError."""
    parts = [part for portion in portions for part in portion]
    counts = [sum(part.counts[position] for part in parts) for position in range(len(definition.sections))]
    if not facts.missing:
        _store(segments, definition, cached, counts, parts, in_cluster)
    names = [each.section.name for each in definition.sections]
    body: dict[str, object] = {"_": [{"g": name, "c": [people]} for name, people in zip(names, counts, strict=True)]}
    if info:
        body["info"] = facts.shown(
            sum(part.people for part in parts),
            sum(part.scanned.events for part in parts),
            sum(part.scanned.rows for part in parts),
        )
        body["log"] = [line for part in parts for line in part.scanned.log][:LOG_LIMIT_LINES]
    return QueryAnswer(body, ("people",))


def _store(
    segments: Segments,
    definition: Definition,
    cached: Mapping[str, StoredSegment],
    counts: Sequence[int],
    parts: Sequence[PartitionCounts],
    in_cluster: bool,
) -> None:
    """Stores what was computed. What was answered from an earlier computation takes the new ttl and refresh."""
    journal_id = next((part.journal_id for part in parts), "")
    sequence = max((part.sequence for part in parts), default=0)
    now_ms = time.time_ns() // 1_000_000

    def shared(segment: Segment) -> Segment:
        """In a cluster every partition has sequences of its own, and other nodes have to know the computation again."""
        if not in_cluster:
            return segment
        known = {part.partition: part.sequence for part in parts}
        return msgspec.structs.replace(
            segment, journal_id="", sequence=0, known=known, published_at_ms=now_ms, computation=secrets.token_hex(8)
        )

    computed: list[Computed] = []
    again: list[tuple[StoredSegment, Segment]] = []
    for each, people in zip(definition.sections, counts, strict=True):
        name = each.section.name
        if name in cached:
            earlier = cached[name].segment
            wanted = described(
                definition, each, earlier.made_at_ms, earlier.people, earlier.journal_id, earlier.sequence
            )  # fmt: skip
            if in_cluster:
                wanted = msgspec.structs.replace(shared(wanted), known=earlier.known)
            if (wanted.ttl_seconds, wanted.refresh_seconds) != (earlier.ttl_seconds, earlier.refresh_seconds):
                again.append((cached[name], wanted))
            continue
        segment = shared(described(definition, each, now_ms, people, journal_id, sequence))
        computed.append(Computed(segment, {part.partition: part.members[name] for part in parts}))
    if computed or again:
        segments.put(definition.schema.id, computed, definition.replaces, again)
