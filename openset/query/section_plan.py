"""How the sections of a counts request would be answered, as readable text, for `debug=true`."""

from __future__ import annotations

from collections.abc import Mapping

from openset.pyql import tree
from openset.query.work import CompiledSection
from openset.store.segment import StoredSegment


def describe_section(each: CompiledSection, cached: Mapping[str, StoredSegment], now_ms: int) -> str:
    """The plan of one section, its first line naming it. cached: the sections that need no computation."""
    lines = [f"segment {each.section.name}"]
    if each.section.name in cached:
        age_seconds = (now_ms - cached[each.section.name].segment.made_at_ms) / 1000
        lines.append(f"  computed {age_seconds:.1f} s ago, not computed again")
    elif each.section.algebra is not None:
        lines.append(f"  set algebra on bitmaps, no events are read: {shown_algebra(each.section.algebra)}")
    else:
        assert each.plan is not None
        if each.fact is not None:
            lines.append(
                "  bitmap index of "
                + ", ".join(each.fact.columns)
                + ", no events are read; where the index of a partition does not know a value:"
            )
        lines += [f"  {line}" for line in each.plan.describe().splitlines()]
    return "\n".join(lines)


def shown_algebra(algebra: tree.SetAlgebra) -> str:
    """The set algebra as it would be written."""
    operands = [each if isinstance(each, str) else shown_algebra(each) for each in algebra.operands]
    return f"{algebra.operation}({', '.join(operands)})"
