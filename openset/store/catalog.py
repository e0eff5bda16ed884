"""The catalog of a data directory: server name, number of partitions, tables and their columns.

One small JSON file with a checksum, replaced as a whole (temporary name, fsync, rename, fsync of the directory) on
every change. Ids of tables and columns only grow, so nothing on disk can ever be taken for something newer.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from openset.errors import ConfigError, InternalError, QueryError
from openset.store.schema import (
    COLUMN_LIMIT,
    ColumnSchema,
    TableSchema,
    check_column,
    check_retention,
    check_table_name,
    check_z_order,
)
from openset.store.sealed_json import check_version, encode_sealed, read_sealed
from openset.store.shared_schema import ColumnDefinition, SharedSchema, TableDefinition
from openset.suggestion import suggestion
from openset_format.files import FILES, FileLayer, replace_file

CATALOG_NAME = "catalog.json"
FORMAT_VERSION = 1
_MEMBER = "catalog"
MOST_PARTITIONS = 1_000


class _StoredTable(TableDefinition):
    """files: the partitions that have a file on this node, which must not be missing."""

    files: list[int] = msgspec.field(default_factory=list)


class _Contents(msgspec.Struct):
    format_version: int = FORMAT_VERSION
    server_name: str | None = None
    partitions: int | None = None
    next_table_id: int = 1
    tables: list[_StoredTable] = []


class Catalog:
    """The catalog in memory, kept in step with its file. Not thread-safe: one thread changes it."""

    def __init__(
        self, directory: Path, files: FileLayer = FILES, is_draft: bool = False, schema: SharedSchema | None = None
    ):
        """Reads the file when there is one. Raises InternalError when it is damaged, ConfigError when it is newer.

        is_draft: changes stay in memory; whoever makes them writes `encoded` in the end.  schema: what a draft begins
        with instead of the file.
        """
        assert is_draft or schema is None
        self._is_draft = is_draft
        self._path = directory / CATALOG_NAME
        self._files = files
        self._contents = _read(self._path) if schema is None else _Contents()
        if schema is not None:
            self._contents = self._with(schema)
        self._tables = {table.name: _schema(table) for table in self._contents.tables}

    @property
    def partitions(self) -> int | None:
        """How many partitions every table has, or None before `initialise`."""
        return self._contents.partitions

    @property
    def server_name(self) -> str | None:
        return self._contents.server_name

    def shared(self) -> SharedSchema:
        """The tables, without what is this node's own."""
        tables = [
            TableDefinition(**{name: getattr(table, name) for name in TableDefinition.__struct_fields__})
            for table in self._contents.tables
        ]
        return SharedSchema(self._contents.next_table_id, tables)

    def adopt(self, schema: SharedSchema) -> tuple[list[TableSchema], list[TableSchema]]:
        """Has the tables of another catalog from now on; those that there were and those that are new.

        Raises InternalError for a schema that cannot be, or one that is older than this node's.
        """
        problems = Catalog(Path(), is_draft=True, schema=schema).mistakes()
        if schema.next_table_id < self._contents.next_table_id:
            problems.append(f"it gives away table {schema.next_table_id} again")
        if problems:
            raise InternalError("the tables of the cluster cannot be used here", detail=problems)
        before = self.tables()
        self._store(self._with(schema))
        there, here = {one.id for one in before}, {one.id for one in self.tables()}
        return [one for one in before if one.id not in here], [one for one in self.tables() if one.id not in there]

    def _with(self, schema: SharedSchema) -> _Contents:
        files = {table.id: table.files for table in self._contents.tables}
        tables = [
            _StoredTable(**msgspec.structs.asdict(table), files=files.get(table.id, [])) for table in schema.tables
        ]
        return msgspec.structs.replace(self._contents, tables=tables, next_table_id=schema.next_table_id)

    def encoded(self) -> bytes:
        """The bytes of the catalog's file."""
        return encode_sealed(_MEMBER, self._contents)

    def tables(self) -> list[TableSchema]:
        """All tables, oldest first."""
        return list(self._tables.values())

    def table(self, name: str) -> TableSchema:
        """The table of this name. Raises QueryError when there is none."""
        try:
            return self._tables[name]
        except KeyError:
            raise QueryError(f"there is no table {name!a}{suggestion(name, self._tables)}") from None

    def initialise(self, partitions: int, server_name: str) -> None:
        """Fixes the number of partitions for good. Raises ConfigError when that was done before."""
        if self.partitions is not None:
            raise ConfigError("the cluster is initialised already")
        if not 1 <= partitions <= MOST_PARTITIONS:
            raise ConfigError(f"partitions must be between 1 and {MOST_PARTITIONS}, not {partitions}")
        changed = msgspec.structs.replace(self._contents, partitions=partitions, server_name=server_name)
        self._store(changed)

    def create_table(
        self,
        name: str,
        columns: Iterable[tuple[str, str]],
        z_order: Sequence[str],
        reserved: Collection[str],
        retention_days: float | None = None,
    ) -> TableSchema:
        """A new table with columns of (name, type). Raises ConfigError for names and types that cannot be."""
        self.check_new_table(name)
        check_z_order(z_order)
        check_retention(retention_days)
        stored: list[ColumnDefinition] = []
        for column_name, column_type in columns:
            if any(column.name == column_name for column in stored):
                raise ConfigError(f"column {column_name!r} is named twice")
            stored.append(
                ColumnDefinition(len(stored) + 1, column_name, check_column(column_name, column_type, reserved))
            )
        _check_column_count(len(stored))
        table_id = self._contents.next_table_id
        table = _StoredTable(table_id, name, stored, list(z_order), 1, len(stored) + 1, retention_days)
        tables = [*self._contents.tables, table]
        self._store(msgspec.structs.replace(self._contents, tables=tables, next_table_id=table_id + 1))
        return self._tables[name]

    def check_new_table(self, name: str) -> None:
        """Raises ConfigError for a name that no table may have, or one has."""
        check_table_name(name)
        if name in self._tables:
            raise ConfigError(f"table {name!r} exists already")

    def give_table_id(self) -> int:
        """An id for a table that `adopt_table` adds later, durably; until then it is one of a dropped table."""
        table_id = self._contents.next_table_id
        self._store(msgspec.structs.replace(self._contents, next_table_id=table_id + 1))
        return table_id

    def adopt_table(self, other: Catalog, table: str, name: str, table_id: int) -> TableSchema:
        """Adds a table of another catalog under a name and an id from `give_table_id`. Raises ConfigError, QueryError.

        Its columns keep their ids, and those that are still to be given away there are here, too.
        """
        assert self.is_dropped(table_id)
        self.check_new_table(name)
        other.table(table)
        adopted = msgspec.structs.replace(other._stored(table), id=table_id, name=name)
        self._store(msgspec.structs.replace(self._contents, tables=[*self._contents.tables, adopted]))
        return self._tables[name]

    def drop_table(self, name: str) -> TableSchema:
        """Takes a table out; its id is never given away again. Raises QueryError when there is none."""
        schema = self.table(name)
        tables = [entry for entry in self._contents.tables if entry.name != name]
        self._store(msgspec.structs.replace(self._contents, tables=tables))
        return schema

    def is_dropped(self, table_id: int) -> bool:
        """Whether there was a table of this id and is no more."""
        return table_id < self._contents.next_table_id and not self.has(table_id)

    def has(self, table_id: int) -> bool:
        """Whether there is a table of this id."""
        return any(table.id == table_id for table in self._contents.tables)

    def has_file(self, table_id: int, partition: int) -> bool:
        """Whether a partition is known to have a file: then it is damage when there is none."""
        return any(table.id == table_id and partition in table.files for table in self._contents.tables)

    def note_files(self, partitions: Collection[tuple[int, int]]) -> None:
        """Notes that (table id, partition) have a file. Raises InternalError."""
        new = {key for key in partitions if self.has(key[0]) and not self.has_file(*key)}
        if new:
            tables = [
                msgspec.structs.replace(
                    table, files=sorted({*table.files, *(number for table_id, number in new if table_id == table.id)})
                )
                for table in self._contents.tables
            ]
            self._store(msgspec.structs.replace(self._contents, tables=tables))

    def forget_files(self, partition: int) -> None:
        """No table has a file of a partition any more. Raises InternalError."""
        if any(partition in table.files for table in self._contents.tables):
            tables = [
                msgspec.structs.replace(table, files=[number for number in table.files if number != partition])
                for table in self._contents.tables
            ]
            self._store(msgspec.structs.replace(self._contents, tables=tables))

    def mistakes(self) -> list[str]:
        """What cannot be true of a catalog although its checksum matches."""
        contents, found = self._contents, []
        if contents.partitions is not None and not 1 <= contents.partitions <= MOST_PARTITIONS:
            found.append(f"{contents.partitions} partitions")
        found += [f"table id {one} is there twice" for one in _twice(table.id for table in contents.tables)]
        found += [f"table {one!a} is there twice" for one in _twice(table.name for table in contents.tables)]
        for table in contents.tables:
            where = f"table {table.name!a}: "
            if table.id >= contents.next_table_id:
                found.append(f"{where}its id {table.id} is still to be given away")
            found += [f"{where}column id {one} is there twice" for one in _twice(each.id for each in table.columns)]
            found += [f"{where}column {one!a} is there twice" for one in _twice(each.name for each in table.columns)]
            found += [
                f"{where}the id {column.id} of column {column.name!a} is still to be given away"
                for column in table.columns
                if column.id >= table.next_column_id
            ]
            try:
                check_table_name(table.name)
                check_z_order(table.z_order)
                check_retention(table.retention_days)
                for column in table.columns:
                    check_column(column.name, column.type, ())
            except ConfigError as error:
                found.append(f"{where}{error.message}")
        return found

    def add_column(self, table: str, name: str, column_type: str, reserved: Collection[str]) -> TableSchema:
        """The table with one more column. Raises ConfigError when the column exists or cannot be."""
        checked = check_column(name, column_type, reserved)
        if self.table(table).column(name) is not None:
            raise ConfigError(f"table {table!r} has a column {name!r} already")
        stored = self._stored(table)
        _check_column_count(len(stored.columns) + 1)
        columns = [*stored.columns, ColumnDefinition(stored.next_column_id, name, checked)]
        return self._replace(stored, columns=columns, next_column_id=stored.next_column_id + 1)

    def drop_column(self, table: str, name: str) -> TableSchema:
        """The table without a column. Raises ConfigError when it has none of this name."""
        if self.table(table).column(name) is None:
            raise ConfigError(f"table {table!r} has no column {name!a}")
        stored = self._stored(table)
        columns = [column for column in stored.columns if column.name != name]
        return self._replace(stored, columns=columns)

    def set_retention(self, table: str, days: float | None) -> TableSchema:
        """The table with another retention. Raises ConfigError for one that cannot be, QueryError."""
        self.table(table)
        check_retention(days)
        return self._replace(self._stored(table), retention_days=days)

    def _stored(self, table: str) -> _StoredTable:
        return next(entry for entry in self._contents.tables if entry.name == table)

    def _replace(self, table: _StoredTable, **changes: Any) -> TableSchema:
        changed = msgspec.structs.replace(table, version=table.version + 1, **changes)
        tables = [changed if entry is table else entry for entry in self._contents.tables]
        self._store(msgspec.structs.replace(self._contents, tables=tables))
        return self._tables[table.name]

    def _store(self, contents: _Contents) -> None:
        """Durably, then in memory: what cannot be written does not happen."""
        if not self._is_draft:
            try:
                replace_file(self._path, encode_sealed(_MEMBER, contents), self._files)
            except OSError as error:
                raise InternalError(f"{self._path} could not be written: {error.strerror}") from error
        self._contents = contents
        self._tables = {table.name: _schema(table) for table in contents.tables}


def _read(path: Path) -> _Contents:
    contents = read_sealed(path, _MEMBER, _Contents)
    if contents is None:
        return _Contents()
    check_version(path, contents.format_version, FORMAT_VERSION)
    return contents


def _schema(table: _StoredTable) -> TableSchema:
    columns = tuple(ColumnSchema(column.id, column.name, column.type) for column in table.columns)
    return TableSchema(table.id, table.name, columns, tuple(table.z_order), table.version, table.retention_days)


def _twice(values: Iterable[Any]) -> list[Any]:
    """Those that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def _check_column_count(count: int) -> None:
    if count > COLUMN_LIMIT:
        raise ConfigError(f"a table has at most {COLUMN_LIMIT} columns")


def new_server_name() -> str:
    """A name that no other server has."""
    return f"node-{secrets.token_hex(4)}"
