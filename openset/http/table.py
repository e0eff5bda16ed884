"""/v1/table/{table}: create, describe, change and drop tables, add and drop their columns."""

from __future__ import annotations

from typing import Any

import msgspec

from openset.errors import ConfigError
from openset.http.resource import Answer, Resource
from openset.pyql.names import RESERVED_COLUMN_NAMES
from openset.query.parameters import read_number
from openset.store.schema import TableSchema
from openset.suggestion import suggestion

Z_ORDER_NAMES = ("z-order", "z_order")
_FIELDS = ("columns", *Z_ORDER_NAMES, "retention_days")


class TableList(Resource):
    # A node that becomes a member holds changes of tables up by itself, and they are not to hold it up.
    uses_store = False
    error_kind = ConfigError

    async def get(self) -> None:
        await self.respond(self._list())

    async def _list(self) -> Answer:
        self.parameters().finish()
        store = await self.node.store()
        return {"tables": [schema.name for schema in store.tables()]}


class TableResource(Resource):
    # A node that becomes a member holds changes of tables up by itself, and they are not to hold it up.
    uses_store = False
    error_kind = ConfigError

    async def get(self, table: str) -> None:
        await self.respond(self._describe(table))

    async def post(self, table: str) -> None:
        await self.respond(self._create(table))

    async def put(self, table: str) -> None:
        await self.respond(self._change(table))

    async def delete(self, table: str) -> None:
        await self.respond(self._drop(table))

    async def _describe(self, table: str) -> Answer:
        self.parameters().finish()
        store = await self.node.store()
        return description(store.table(table))

    async def _create(self, table: str) -> Answer:
        self.parameters().finish()
        columns, z_order, retention_days = table_definition(await self.body())
        await self.node.store()
        async with self.node.cluster.schema_changes() as changes:
            return description(
                await changes.create_table(table, columns, z_order, RESERVED_COLUMN_NAMES, retention_days)
            )

    async def _change(self, table: str) -> Answer:
        parameters = self.parameters()
        wanted = parameters.text("retention_days")
        parameters.finish()
        store = await self.node.store()
        store.table(table)
        if wanted is None:
            raise ConfigError("say what is to change: retention_days= takes a number of days, or forever")
        days = None if wanted == "forever" else read_number(wanted)
        if days is None and wanted != "forever":
            raise ConfigError(f"retention_days={wanted} is neither a number of days nor forever")
        async with self.node.cluster.schema_changes() as changes:
            return description(await changes.set_retention(table, days))

    async def _drop(self, table: str) -> Answer:
        self.parameters().finish()
        await self.node.store()
        async with self.node.cluster.schema_changes() as changes:
            return {"deleted": (await changes.drop_table(table)).name}


class _Column(Resource):
    """Both ways to name a column in an address, so that the wrong one gets an answer that says so."""

    # A node that becomes a member holds changes of tables up by itself, and they are not to hold it up.
    uses_store = False

    error_kind = ConfigError

    async def put(self, table: str, name: str, type: str = "") -> None:
        # A client may escape the colon, and then the address looks like one without a type.
        name, _, column_type = f"{name}:{type}".removesuffix(":").partition(":")
        await self.respond(self._add(table, name, column_type))

    async def delete(self, table: str, name: str, type: str = "") -> None:
        await self.respond(self._drop(table, f"{name}:{type}".removesuffix(":")))

    async def _add(self, table: str, name: str, column_type: str) -> Answer:
        self.parameters().finish()
        store = await self.node.store()
        store.table(table)
        if not column_type:
            raise ConfigError(
                f"what type is column {name!a}? Write it behind a colon: {name}:text, int, double or bool"
            )
        async with self.node.cluster.schema_changes() as changes:
            return description(await changes.add_column(table, name, column_type, RESERVED_COLUMN_NAMES))

    async def _drop(self, table: str, name: str) -> Answer:
        self.parameters().finish()
        await self.node.store()
        async with self.node.cluster.schema_changes() as changes:
            return description(await changes.drop_column(table, name))


class NewColumn(_Column):
    async def put(self, table: str, name: str, type: str = "") -> None:
        await super().put(table, name, type)


class ExistingColumn(_Column):
    async def delete(self, table: str, name: str, type: str = "") -> None:
        await super().delete(table, name, type)


def description(schema: TableSchema) -> dict[str, Any]:
    """A table as the interface shows it."""
    columns = [{"name": column.name, "type": column.type} for column in schema.columns]
    shown: dict[str, Any] = {"table": schema.name, "columns": columns, "z-order": list(schema.z_order)}
    if schema.retention_days is not None:
        shown["retention_days"] = schema.retention_days
    return shown


def table_definition(body: bytes) -> tuple[list[tuple[str, str]], list[str], float | None]:
    """Columns as (name, type), z-order and retention in days, from the body of a create request. Raises ConfigError."""
    try:
        definition = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"the table definition is not valid JSON: {error}") from error
    if not isinstance(definition, dict):
        raise ConfigError('the table definition must be an object: {"columns": [...], "z-order": [...]}')
    for field in definition:
        if field not in _FIELDS:
            raise ConfigError(f"unknown field {field!a} in the table definition{suggestion(field, _FIELDS)}")
    if "columns" not in definition:
        raise ConfigError('the table definition has no "columns"')
    if all(name in definition for name in Z_ORDER_NAMES):
        raise ConfigError("the table definition has z-order and z_order: give one of them")
    z_order: Any = next((definition[name] for name in Z_ORDER_NAMES if name in definition), [])
    if not isinstance(z_order, list) or not all(isinstance(action, str) for action in z_order):
        raise ConfigError("the z-order must be a list of action names")
    if not isinstance(definition["columns"], list):
        raise ConfigError('"columns" must be a list of {"name": ..., "type": ...}')
    days = definition.get("retention_days")
    if days is not None and type(days) not in (int, float):
        raise ConfigError(f"retention_days must be a number of days, or null for ever, not {_shown(days)}")
    return [_column(entry) for entry in definition["columns"]], z_order, days


def _column(entry: Any) -> tuple[str, str]:
    if not isinstance(entry, dict) or entry.keys() != {"name", "type"}:
        raise ConfigError(f'a column must be {{"name": ..., "type": ...}}, not {_shown(entry)}')
    name, column_type = entry["name"], entry["type"]
    if not isinstance(name, str) or not isinstance(column_type, str):
        raise ConfigError(f"name and type of a column must be text: {_shown(entry)}")
    return name, column_type


def _shown(entry: Any) -> str:
    text = msgspec.json.encode(entry).decode()
    return text if len(text) <= 100 else text[:100] + "..."
