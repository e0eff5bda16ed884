"""Scripts of triggers: what is checked when one is saved, and with which columns it runs afterwards."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openset.errors import QueryError
from openset.pyql.syntax.parse import parse_trigger
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.segment import SegmentColumn
from openset.store.trigger_catalog import Trigger


@dataclass(frozen=True, slots=True)
class CheckedScript:
    """What is saved with a script: the columns that it reads, the names of its functions."""

    columns: tuple[SegmentColumn, ...]
    functions: tuple[str, ...]


def checked_script(script: str, schema: TableSchema) -> CheckedScript:
    """Raises ParseError; QueryError for placeholders, which nobody gives values for when a trigger runs."""
    parsed = parse_trigger(script, schema.column_types)
    if parsed.parameters:
        raise QueryError(f"a trigger has no parameters: write a value in place of {{{{{min(parsed.parameters)}}}}}")
    found = [schema.column(name) for name in sorted(parsed.columns)]
    columns = tuple(SegmentColumn(one.id, one.name, one.type) for one in found if one is not None)
    return CheckedScript(columns, tuple(parsed.functions))


def schema_as_saved(trigger: Trigger, schema: TableSchema) -> TableSchema:
    """The table with the columns that a trigger reads, under the names they had when it was saved.

    Raises QueryError when one was dropped.
    """
    known = {column.id for column in schema.columns}
    for column in trigger.columns:
        if column.id not in known:
            raise QueryError(f"the script reads column {column.name!r}, which was dropped")
    columns = tuple(ColumnSchema(column.id, column.name, column.type) for column in trigger.columns)
    # The version would have every script compiled anew when any column is added.
    return replace(schema, columns=columns, version=0)
