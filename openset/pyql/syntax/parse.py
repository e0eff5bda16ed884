"""Text of a script → checked syntax tree. This is the language's front door; everything behind it is pure."""

from __future__ import annotations

from collections.abc import Mapping

from openset.pyql import tree
from openset.pyql.syntax.checks import check_script
from openset.pyql.syntax.layout import logical_lines, nest
from openset.pyql.syntax.reader import Reader
from openset.pyql.syntax.sections import is_header, read_sections
from openset.pyql.syntax.source import Source
from openset.pyql.syntax.triggers import check_trigger
from openset_format.block import ColumnType


def parse_script(text: str, columns: Mapping[str, ColumnType], *, segment: bool = False) -> tree.Script:
    """The checked tree of one script over a table with these columns.

    segment: the script says who belongs to a segment: `tally` needs no keys, and agg: and sort: have no place in it.

    Raises:
        ParseError: with line, column, and the line over a caret as detail.
    """
    source = Source(text)
    lines = logical_lines(source)
    for line in lines:
        if is_header(line):
            raise source.error(line.start, "@segment sections belong in a counts request; send this script there.")
    script = Reader(source).script(nest(source, lines))
    return check_script(source, script, columns, segment=segment)


def parse_trigger(text: str, columns: Mapping[str, ColumnType]) -> tree.Script:
    """The checked tree of a trigger script: functions alone, `on_insert` among them. Its body is empty.

    Besides the table's columns it reads `is_new`, a bool column: whether the row came with the request.

    Raises:
        ParseError: with line, column, and the line over a caret as detail.
    """
    source = Source(text)
    lines = logical_lines(source)
    for line in lines:
        if is_header(line):
            raise source.error(line.start, "@segment sections belong in a counts request, not in a trigger.")
    return check_trigger(source, Reader(source).script(nest(source, lines)), columns)


def parse_sections(text: str, columns: Mapping[str, ColumnType]) -> tuple[tree.Section, ...]:
    """The checked @segment sections of a counts request, in their order.

    Raises:
        ParseError: with line, column, and the line over a caret as detail.
    """
    source = Source(text)
    return read_sections(source, logical_lines(source), columns)
