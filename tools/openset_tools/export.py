"""The events of a table as newline-delimited JSON, CSV, Parquet or Arrow: `openset export`.

Everything is of one moment, written Block by Block: memory does not grow with the table. NDJSON has an event a line in
the form in which events are inserted; the other formats have a line per row. Python values are made of every value,
which is what most of the time goes to.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from openset.errors import ConfigError
from openset.store.fold import fold, iso_text
from openset.store.offline import OfflineStore, at_one_moment, open_views
from openset.store.schema import TableSchema
from openset.store.stamps import SECONDS_BELOW
from openset.store.views import ViewCache
from openset_format.block import Block, Column, PersonId

FORMATS = ("ndjson", "csv", "parquet", "arrow")
_BLOCK_ROWS = 65_536

Advance = Callable[[int, int], None]


def export(
    data_dir: Path,
    table: str,
    target: BinaryIO,
    output_format: str = "ndjson",
    persons: Sequence[PersonId] = (),
    advance: Advance = lambda done, total: None,
) -> list[str]:
    """Writes a table, or some of its people, and returns what is wrong with the data directory.

    advance: is told how many rows are written and how many there are. Raises ConfigError (also where a format takes a
    package that is not there), QueryError, InternalError.
    """
    write = {"ndjson": _write_ndjson, "csv": _write_csv, "parquet": _write_parquet, "arrow": _write_arrow}[
        output_format
    ]
    if persons:
        schema, blocks = at_one_moment(data_dir, lambda store: _of_persons(store, table, persons))
        problems: list[str] = []
        total = sum(block.rows for block in blocks)
    else:
        store, views, problems = open_views(data_dir, table)
        schema = store.catalog.table(table)
        blocks = [block for view in views.values() for block in view.blocks(_BLOCK_ROWS)]
        total = sum(_rows_of(block) for block in blocks)
    write(target, schema, _watched(blocks, advance, total))
    return problems


def _of_persons(store: OfflineStore, table: str, persons: Sequence[PersonId]) -> tuple[TableSchema, list[Block]]:
    cache = ViewCache(store.data_dir)
    found = (cache.person_rows(store.person_snapshot(table, person), person) for person in dict.fromkeys(persons))
    return store.catalog.table(table), [block for block in found if block is not None]


def _rows_of(block: Block) -> int:
    return int(np.diff(block.row_start)[block.runnable].sum())


def _watched(blocks: Sequence[Block], advance: Advance, total: int) -> Iterator[Block]:
    done = 0
    for block in blocks:
        yield block
        done += _rows_of(block)
        advance(done, total)


class _Rows:
    """The rows of a Block that it answers for, as Python values.

    names: of the columns of the table. person: the id of each row's person. event: its number among theirs.
    """

    def __init__(self, block: Block, schema: TableSchema):
        kept = np.ones(block.rows, np.bool_)
        if block.include is not None:
            kept = block.include[block.person_of_row]
        ids = [block.person_id(person) for person in range(block.people)]
        person = block.person_of_row[kept]
        self.person = [ids[number] for number in person.tolist()]
        event = block.event_of_row
        first_event = event[np.minimum(block.row_start[:-1], max(block.rows - 1, 0))] if block.rows else event
        self.event = (event[kept] - first_event[person]).tolist() if block.rows else []
        self.stamp = block.stamp[kept].tolist()
        self.action = _values(block.columns["action"], kept)
        self.names = [column.name for column in schema.columns]
        self.columns = [
            _values(block.columns[name], kept) if name in block.columns else [None] * len(self.stamp)
            for name in self.names
        ]

    def attributes(self) -> list[dict[str, Any]]:
        """Per row the columns that have a value."""
        return [
            {name: value for name, value in zip(self.names, row, strict=True) if value is not None}
            for row in (zip(*self.columns, strict=True) if self.columns else ((),) * len(self.stamp))
        ]

    def first_rows(self) -> list[int]:
        """Where each event starts, and the number of rows behind the last."""
        starts = [
            row
            for row in range(len(self.stamp))
            if not row or self.event[row] != self.event[row - 1] or self.person[row] != self.person[row - 1]
        ]
        return [*starts, len(self.stamp)]


def _values(column: Column, kept: Any) -> list[Any]:
    values = column.values[kept]
    valid = None if column.valid is None else column.valid[kept]
    if column.type == "text":
        assert column.dictionary is not None
        codes, place = np.unique(values, return_inverse=True)
        texts = np.empty(len(codes), object)
        dictionary = column.dictionary
        # A null has the code 0, which an empty dictionary lacks.
        texts[:] = [dictionary.text(code) if code < len(dictionary) else None for code in codes.tolist()]
        listed: list[Any] = texts[place].tolist()
    elif column.type == "bool":
        listed = values.astype(np.bool_).tolist()
    else:
        listed = values.tolist()
    if valid is None or valid.all():
        return listed
    return [value if there else None for value, there in zip(listed, valid.tolist(), strict=True)]


def _write_ndjson(target: BinaryIO, schema: TableSchema, blocks: Iterator[Block]) -> None:
    encoder = msgspec.json.Encoder()
    for block in blocks:
        rows = _Rows(block, schema)
        attributes, bounds = rows.attributes(), rows.first_rows()
        events = []
        for first, end in pairwise(bounds):
            stamp = rows.stamp[first]
            event = {
                "person": rows.person[first],
                # A small number would be read as seconds.
                "stamp": stamp if stamp >= SECONDS_BELOW else iso_text(stamp),
                "action": rows.action[first],
            }
            attr = attributes[first] if end == first + 1 else fold(attributes[first:end])
            events.append(event | {"attr": attr} if attr else event)
        target.write(encoder.encode_lines(events))


def _write_csv(target: BinaryIO, schema: TableSchema, blocks: Iterator[Block]) -> None:
    text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    person_id, event = _extra_names(schema)
    writer.writerow(["person", person_id, event, "stamp", "action", *(column.name for column in schema.columns)])
    for block in blocks:
        rows = _Rows(block, schema)
        columns = [
            ["" if value is None else str(value).lower() for value in values] if column.type == "bool" else values
            for column, values in zip(schema.columns, rows.columns, strict=True)
        ]
        texts, integers = _ids_apart(rows)
        writer.writerows(
            zip(texts, integers, rows.event, map(iso_text, rows.stamp), rows.action, *columns, strict=True)
        )
    text.detach()


def _write_parquet(target: BinaryIO, schema: TableSchema, blocks: Iterator[Block]) -> None:
    arrow = _pyarrow()
    import pyarrow.parquet

    with pyarrow.parquet.ParquetWriter(target, _arrow_schema(arrow, schema), compression="zstd") as writer:
        for block in blocks:
            writer.write_batch(_record_batch(arrow, schema, block))


def _write_arrow(target: BinaryIO, schema: TableSchema, blocks: Iterator[Block]) -> None:
    """The streaming format of Arrow IPC."""
    arrow = _pyarrow()
    with arrow.ipc.new_stream(target, _arrow_schema(arrow, schema)) as writer:
        for block in blocks:
            writer.write_batch(_record_batch(arrow, schema, block))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise ConfigError("this format needs pyarrow: pip install 'openset[arrow]'") from None
    return pyarrow


def _arrow_schema(arrow: Any, schema: TableSchema) -> Any:
    types = {"text": arrow.string(), "int": arrow.int64(), "double": arrow.float64(), "bool": arrow.bool_()}
    person_id, event = _extra_names(schema)
    fields = [("person", arrow.string()), (person_id, arrow.int64()), (event, arrow.int32())]
    fields += [("stamp", arrow.timestamp("ms", "UTC")), ("action", arrow.string())]
    return arrow.schema([*fields, *((column.name, types[column.type]) for column in schema.columns)])


def _record_batch(arrow: Any, schema: TableSchema, block: Block) -> Any:
    rows = _Rows(block, schema)
    fields = _arrow_schema(arrow, schema)
    values = [*_ids_apart(rows), rows.event, rows.stamp, rows.action, *rows.columns]
    arrays = [arrow.array(each, field.type) for each, field in zip(values, fields, strict=True)]
    return arrow.record_batch(arrays, schema=fields)


def _ids_apart(rows: _Rows) -> tuple[list[str | None], list[int | None]]:
    """Texts and integers among the ids, each None where the id is of the other kind."""
    texts = [person if isinstance(person, str) else None for person in rows.person]
    return texts, [person if isinstance(person, int) else None for person in rows.person]


def _extra_names(schema: TableSchema) -> tuple[str, str]:
    """What the columns of integer ids and event numbers are called: `person_id` and `event`, unless columns are."""
    names = []
    for name in ("person_id", "event"):
        while schema.column(name) is not None:
            name += "_"
        names.append(name)
    return names[0], names[1]
