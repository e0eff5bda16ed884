"""The tables of a node as all nodes of a cluster have them: everything but which files there are on a node."""

from __future__ import annotations

import msgspec

from openset_format.block import ColumnType

FORMAT_VERSION = 1


class ColumnDefinition(msgspec.Struct):
    """A column. id: never used again within its table."""

    id: int
    name: str
    type: ColumnType


class TableDefinition(msgspec.Struct):
    """A table. version: grows with every change.  next_column_id: of a column that is still to be added."""

    id: int
    name: str
    columns: list[ColumnDefinition]
    z_order: list[str]
    version: int
    next_column_id: int
    retention_days: int | float | None = None


class SharedSchema(msgspec.Struct):
    """All tables, oldest first. next_table_id: of a table that is still to be created; ids are never used again."""

    next_table_id: int = 1
    tables: list[TableDefinition] = []
    format_version: int = FORMAT_VERSION
