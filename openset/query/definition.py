"""What a counts request asks: its sections, what they refer to, which of them an earlier computation may answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openset.errors import QueryError
from openset.pyql.settings import ParameterValue
from openset.query.compare import unknown_segment
from openset.query.membership import operand_names
from openset.query.work import CompiledSection, CompiledSections
from openset.store.schema import TableSchema
from openset.store.segment import Segment, SegmentColumn, StoredSegment
from openset.store.segments import Segments


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A counts request that was understood.

    script, schema: what the sections are compiled from, here and on the workers.  values: of the placeholders.
    replaces: for a refresh, the computation that it replaces.
    """

    script: str
    schema: TableSchema
    sections: CompiledSections
    values: Mapping[str, ParameterValue]
    session_time_ms: int
    time_zone: str
    timeout_ms: int
    replaces: StoredSegment | None = None


def operands(
    segments: Segments, definition: Definition, found: Mapping[str, StoredSegment], now_ms: int
) -> dict[str, StoredSegment]:
    """The stored segments that set algebra refers to. Raises QueryError for a name that nothing has."""
    stored: dict[str, StoredSegment] = {}
    above: list[str] = []
    later = [each.section.name for each in definition.sections]
    for each in definition.sections:
        section = each.section
        for name, at in [] if section.algebra is None else operand_names(section.algebra):
            if name in above:
                continue
            if name in found:
                stored[name] = found[name]
                continue
            if name == section.name:
                raise QueryError(f"segment {name!r} refers to itself", line=at.line, column=at.column)
            if name in later:
                raise QueryError(
                    f"section {name!r} stands below {section.name!r}, which refers to it; move it up",
                    line=at.line,
                    column=at.column,
                )
            known = [one.segment.name for one in segments.all(definition.schema.id, now_ms)]
            raise unknown_segment(name, [*above, *known], at)
        above.append(section.name)
    return stored


def cached_sections(
    definition: Definition, found: Mapping[str, StoredSegment], now_ms: int
) -> dict[str, StoredSegment]:
    """The sections that an earlier computation of the same may answer."""
    return {
        each.section.name: found[each.section.name]
        for each in definition.sections
        if each.section.use_cached
        and each.section.name in found
        and _is_same(found[each.section.name].segment, described(definition, each, now_ms, 0, "", 0), now_ms)
    }


def _is_same(earlier: Segment, wanted: Segment, now_ms: int) -> bool:
    """Whether it is a computation of the same question, within both their times to live."""
    return (
        earlier.script == wanted.script
        and _typed(earlier.parameters) == _typed(wanted.parameters)
        and earlier.session_time_ms == wanted.session_time_ms
        and earlier.time_zone == wanted.time_zone
        and earlier.columns == wanted.columns
        and now_ms < earlier.expires_at_ms
        and (wanted.ttl_seconds is None or now_ms < earlier.made_at_ms + 1_000 * wanted.ttl_seconds)
    )


def _typed(parameters: Mapping[str, ParameterValue]) -> dict[str, tuple[type, ParameterValue]]:
    return {name: (type(value), value) for name, value in parameters.items()}


def described(
    definition: Definition, each: CompiledSection, made_at_ms: int, people: int, journal_id: str, sequence: int
) -> Segment:
    """What is stored with a section's members."""
    section, script = each.section, each.section.script
    replaced = None if definition.replaces is None else definition.replaces.segment
    read = () if script is None else tuple(sorted(script.columns))
    found = [definition.schema.column(name) for name in read]
    return Segment(
        name=section.name,
        script=section.text,
        ttl_seconds=section.ttl_seconds if replaced is None else replaced.ttl_seconds,
        refresh_seconds=section.refresh_seconds if replaced is None else replaced.refresh_seconds,
        made_at_ms=made_at_ms,
        people=people,
        parameters={} if script is None else {name: definition.values[name] for name in sorted(script.parameters)},
        session_time_ms=definition.session_time_ms,
        time_zone=definition.time_zone,
        timeout_ms=definition.timeout_ms,
        columns=tuple(SegmentColumn(column.id, column.name, column.type) for column in found if column is not None),
        journal_id=journal_id,
        sequence=sequence,
    )
