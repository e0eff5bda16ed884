"""A block of a source to event batches: columns at a time where all is plain, else event by event as an insert does.

Knows the formats and their lines. NDJSON is decoded by Arrow only where it takes what the decoder of inserts takes;
anything it does not like goes to that one. Without pyarrow everything does.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np

from openset.errors import ConfigError, InsertError
from openset.store.decode import Decoded, decode_body, sort_out
from openset.store.expand import BadEvent, shown
from openset.store.ingest import prepare_events
from openset.store.now import LaterStamps
from openset.store.schema import TableSchema
from openset_format.batch import EventBatch
from openset_format.block import ColumnType
from openset_tools.importing.arrow_events import arrow_package, batch_of, open_parquet
from openset_tools.importing.sources import Block

ROWS_PER_BATCH = 40_000
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Mapping:
    """What the columns of CSV and Parquet are. person: the column of ids. integer_ids: those of CSV are integers.

    ignored: columns that are left out.
    """

    person: str = "person"
    integer_ids: bool = False
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """A bad event. where: its file and its line or row."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The good events, None when there are none, and all bad ones."""

    batch: EventBatch | None
    accepted: int
    bad: list[Place]


def read_block(block: Block, schema: TableSchema, partitions: int, mapping: Mapping) -> Iterator[Found]:
    """The events of a block, in order. Raises InsertError, ConfigError."""
    if block.source.format == "ndjson":
        yield _read_ndjson(block, schema, partitions)
    elif block.source.format == "csv":
        yield _read_csv(block, schema, partitions, mapping)
    else:
        yield from _read_parquet(block, schema, partitions, mapping)


def _prepared(
    decoded: Decoded, schema: TableSchema, partitions: int, block: Block, number: Callable[[int], int]
) -> Found:
    """number: of the line or row of an event."""
    unit = "row" if block.source.format == "parquet" else "line"
    found = prepare_events(decoded, schema, partitions, 0, now_stamps=LaterStamps())
    bad = [Place(f"{block.source.name}, {unit} {number(bad.index)}", bad.reason) for bad in found.problems]
    return Found(found.batch, found.accepted, bad)


# --- NDJSON ------------------------------------------------------------------------------------------------------


def _read_ndjson(block: Block, schema: TableSchema, partitions: int) -> Found:
    batch = _flat_ndjson(block.body, schema, partitions)
    if batch is not None:
        return Found(batch, batch.events, [])
    decoded = decode_body(block.body, newline_delimited=True)

    def line(index: int) -> int:
        filled = (number for number, line in enumerate(block.body.split(b"\n")) if line.strip())
        return block.first + next(number for position, number in enumerate(filled) if position == index)

    return _prepared(decoded, schema, partitions, block, line)


def _flat_ndjson(body: bytes, schema: TableSchema, partitions: int) -> EventBatch | None:
    try:
        arrow = arrow_package()
    except ConfigError:
        return None
    import pyarrow.json as json

    fields = _event_fields(body, schema)
    lines = _object_lines(body)
    if fields is None or lines is None or not _is_utf8(body):
        return None
    try:
        table = json.read_json(
            arrow.BufferReader(body),
            read_options=json.ReadOptions(use_threads=False, block_size=len(body) + 1),
            parse_options=json.ParseOptions(explicit_schema=fields, unexpected_field_behavior="error"),
        )
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, UnicodeDecodeError):
        return None
    if table.num_rows != lines:  # Several events in a line.
        return None
    table = table.combine_chunks()
    person, stamp, action = (_whole(table[name]) for name in ("person", "stamp", "action"))
    attributes = {}
    if schema.columns:
        attr = _whole(table["attr"])
        attributes = dict(zip((field.name for field in attr.type), attr.flatten(), strict=True))
    return batch_of(person, stamp, action, attributes, schema, partitions)


def _event_fields(body: bytes, schema: TableSchema) -> Any:
    """The Arrow schema for events like the first one; None when that is not plain."""
    arrow = arrow_package()
    try:
        first = msgspec.json.decode(body[: body.find(b"\n")] if b"\n" in body else body)
        person, stamp = first["person"], first.get("stamp")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    types = {"text": arrow.string(), "int": arrow.int64(), "double": arrow.float64(), "bool": arrow.bool_()}
    fields = [
        ("person", arrow.int64() if type(person) is int else arrow.string()),
        ("stamp", arrow.string() if isinstance(stamp, str) else arrow.int64()),
        ("action", arrow.string()),
    ]
    if schema.columns:
        fields.append(("attr", arrow.struct([(column.name, types[column.type]) for column in schema.columns])))
    return arrow.schema(fields)


def _object_lines(body: bytes) -> int | None:
    """How many lines there are, when each of them starts with { and ends with }; else None."""
    data = np.frombuffer(body, np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if not len(data) or data[-1] != ord("\n"):
        ends = np.append(ends, len(data))
    starts = np.append(0, ends[:-1] + 1)
    last = ends - 1
    if (last < starts).any():
        return None
    last = last - (data[last] == ord("\r"))
    if (last < starts).any() or not ((data[starts] == ord("{")) & (data[last] == ord("}"))).all():
        return None
    return len(ends)


def _is_utf8(body: bytes) -> bool:
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _whole(column: Any) -> Any:
    """A pyarrow ChunkedArray as one Array."""
    chunks = column.combine_chunks()
    return chunks if not hasattr(chunks, "chunks") else arrow_package().concat_arrays(chunks.chunks)


# --- CSV ---------------------------------------------------------------------------------------------------------


def _read_csv(block: Block, schema: TableSchema, partitions: int, mapping: Mapping) -> Found:
    _check_columns(block, block.header, schema, mapping)
    batch = _flat_csv(block, schema, partitions, mapping)
    if batch is not None:
        return Found(batch, batch.events, [])
    lines: list[int] = []
    decoded = sort_out(_csv_events(block, schema.column_types, mapping, lines))
    return _prepared(decoded, schema, partitions, block, lines.__getitem__)


def _flat_csv(block: Block, schema: TableSchema, partitions: int, mapping: Mapping) -> EventBatch | None:
    arrow = arrow_package()
    import pyarrow.csv as csv_reader

    types = {"text": arrow.string(), "int": arrow.int64(), "double": arrow.float64(), "bool": arrow.bool_()}
    kinds = {name: types[kind] for name, kind in schema.column_types.items()}
    kinds |= {"stamp": arrow.string(), "action": arrow.string()}
    kinds[mapping.person] = arrow.int64() if mapping.integer_ids else arrow.string()
    try:
        table = csv_reader.read_csv(
            arrow.BufferReader(block.body),
            read_options=csv_reader.ReadOptions(
                use_threads=False, block_size=len(block.body) + 1, column_names=list(block.header)
            ),
            parse_options=csv_reader.ParseOptions(newlines_in_values=True),
            convert_options=csv_reader.ConvertOptions(
                column_types=kinds,
                include_columns=[name for name in block.header if name not in mapping.ignored],
                null_values=[""],
                strings_can_be_null=True,
                true_values=[text for text, value in BOOLS.items() if value],
                false_values=[text for text, value in BOOLS.items() if not value],
            ),
        ).combine_chunks()
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        return None
    return _from_table(table, schema, partitions, mapping)


def _from_table(table: Any, schema: TableSchema, partitions: int, mapping: Mapping) -> EventBatch | None:
    arrays = {name: _whole(table[name]) for name in table.column_names if name not in mapping.ignored}
    person, action = arrays.pop(mapping.person), arrays.pop("action")
    return batch_of(person, arrays.pop("stamp", None), action, arrays, schema, partitions)


def _check_columns(block: Block, names: Sequence[str], schema: TableSchema, mapping: Mapping) -> None:
    """Raises InsertError when columns are missing or unknown."""
    file = block.source.name
    for needed in (mapping.person, "action"):
        if needed not in names or needed in mapping.ignored:
            hint = " (--person names the column of the ids)" if needed == mapping.person else ""
            raise InsertError(f"{file} has no column {needed!a}{hint}")
    known = {mapping.person, "stamp", "action", *mapping.ignored, *schema.column_types}
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(ascii(name) for name in unknown[:10])
        raise InsertError(f"{file} has columns that table {schema.name} lacks: {listed} (--ignore leaves one out)")


def _csv_events(
    block: Block, types: dict[str, ColumnType], mapping: Mapping, lines: list[int]
) -> Iterator[dict[str, Any] | BadEvent]:
    """Records as decoded events, or what is wrong with them. lines: takes the first line of each."""
    try:
        text = block.body.decode()
    except UnicodeDecodeError as error:
        raise InsertError(f"{block.source.name} is not UTF-8 text: {error.reason}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 0
    try:
        for record in reader:
            number, line = block.first + line, reader.line_num
            if not record:
                continue
            lines.append(number)
            if len(record) != len(block.header):
                yield BadEvent(f"{len(record)} fields, where the header names {len(block.header)}")
                continue
            fields = {
                name: value
                for name, value in zip(block.header, record, strict=True)
                if value != "" and name not in mapping.ignored
            }
            yield _csv_event(fields, types, mapping)
    except csv.Error as error:
        raise InsertError(f"{block.source.name}, line {block.first + reader.line_num - 1}: {error}") from None


def _csv_event(fields: dict[str, str], types: dict[str, ColumnType], mapping: Mapping) -> dict[str, Any] | BadEvent:
    person: Any = fields.pop(mapping.person, None)
    if mapping.integer_ids and person is not None:
        person = csv_value(person, "int")
        if isinstance(person, str):
            return BadEvent(f"person {shown(person)} is not an integer")
    stamp = fields.pop("stamp", None)
    event: dict[str, Any] = {"person": person, "action": fields.pop("action", None)}
    if stamp is not None:
        event["stamp"] = csv_value(stamp, "int")
    event["attr"] = {name: csv_value(value, types.get(name, "text")) for name, value in fields.items()}
    return event


def csv_value(text: str, kind: ColumnType) -> Any:
    """What a field stands for in a column of a type; the text itself where it is nothing of that type."""
    if kind == "int":
        return int(text) if _INT.fullmatch(text.strip()) and len(text) < 40 else text
    if kind == "double":
        try:
            return float(text)
        except ValueError:
            return text
    return BOOLS.get(text, text) if kind == "bool" else text


# --- Parquet -----------------------------------------------------------------------------------------------------


def _read_parquet(block: Block, schema: TableSchema, partitions: int, mapping: Mapping) -> Iterator[Found]:
    arrow = arrow_package()
    with open_parquet(block.source) as file:
        names = file.schema_arrow.names
        _check_columns(block, names, schema, mapping)
        wanted = [name for name in names if name not in mapping.ignored]
        first = block.first
        try:
            for part in file.iter_batches(
                ROWS_PER_BATCH, row_groups=[block.row_group], columns=wanted, use_threads=False
            ):
                table = arrow.Table.from_batches([part])
                batch = _from_table(table, schema, partitions, mapping)
                if batch is not None:
                    yield Found(batch, batch.events, [])
                else:
                    decoded = sort_out(_rows(table, mapping))
                    yield _prepared(decoded, schema, partitions, block, first.__add__)
                first += len(part)
        except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
            raise InsertError(f"{block.source.name} is damaged: {error}") from None


def _rows(table: Any, mapping: Mapping) -> Iterator[dict[str, Any]]:
    arrow = arrow_package()
    place = table.schema.get_field_index("stamp")
    if place >= 0 and arrow.types.is_timestamp(table.schema.field(place).type):
        # Python has no nanoseconds.
        table = table.set_column(place, "stamp", table["stamp"].cast(arrow.timestamp("us"), safe=False))
    for row in table.to_pylist():
        event = {"person": row.pop(mapping.person), "action": row.pop("action")}
        stamp = row.pop("stamp", None)
        if isinstance(stamp, date | datetime):
            stamp = stamp.isoformat()
        yield event | {"stamp": stamp, "attr": row}
