"""The events of a table as newline-delimited JSON, CSV, Parquet or Arrow: `openset export`.

Everything is of one moment, written a run of rows after the other: memory grows neither with the table nor with the
longest history. NDJSON has an event a line in the form in which events are inserted; the other formats have a line per
row. For NDJSON and CSV Python values are made of every value, which is what most of their time goes to.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from openset.store.arrow_rows import ArrowRows, import_pyarrow, leading_names
from openset.store.fold import fold, iso_text
from openset.store.offline import OpenTable, read_data_dir
from openset.store.rows import Rows, rows_of
from openset.store.schema import TableSchema
from openset.store.stamps import SECONDS_BELOW
from openset_format.block import Block, Column
from openset_tools.selection import Selection, everyone

_RUN_ROWS = 65_536
_GROUP_ROWS = 4 * _RUN_ROWS  # of a Parquet file

Advance = Callable[[int, int], None]
# What writes the rows of one partition.
Write = Callable[[Iterable[Rows]], None]


@dataclass(slots=True)
class Exported:
    """How much was written, and what is wrong with the data directory: then something was left out.

    lacks: says which partitions are not here, in a member's directory.
    """

    table: str
    people: int = 0
    events: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    lacks: str = ""


def export(
    data_dir: Path,
    table: str,
    target: BinaryIO,
    output_format: str = "ndjson",
    selection: Selection = everyone,
    advance: Advance = lambda done, total: None,
) -> Exported:
    """Writes a table, or some of its people.

    advance: is told how many rows have been gone through and how many there are. Raises ConfigError (also where a
    format takes a package that is not there), QueryError, ParseError, RunTimeError, InternalError, OSError of the
    target.
    """
    done = Exported(table)
    store = read_data_dir(data_dir)
    schema = store.catalog.table(table)
    wanted = selection(schema, store.catalog.partitions or 1).partitions
    with OpenTable(data_dir, table, wanted) as opened:
        # The table as it is now: a column may have come or gone.
        selected = selection(opened.schema, opened.store.catalog.partitions or 1)
        total, passed = sum(view.rows for view in opened.views.values()), 0
        with FORMATS[output_format](target, opened.schema) as write:
            for _, view in opened.sound_views():
                write(_runs(selected.blocks(view), done, partial(_advance_to, advance, passed, total)))
                passed += view.rows
                advance(passed, total)
        done.problems, done.lacks = opened.problems, opened.store.lacks
    return done


def _advance_to(advance: Advance, before: int, total: int, seen: int) -> None:
    advance(min(before + seen, total), total)


def _runs(blocks: Iterable[Block], done: Exported, advance: Callable[[int], None]) -> Iterator[Rows]:
    seen = 0
    for block in blocks:
        runnable = block.runnable
        done.people += len(runnable)
        for rows in rows_of(block, _RUN_ROWS):
            done.rows += len(rows)
            done.events += len(rows.first_rows()) - 1
            yield rows
        seen += block.rows
        advance(seen)


# --- Python values --------------------------------------------------------------------------------------------------


def _person_ids(rows: Rows) -> list[str | int]:
    """The id of each row's person."""
    people, place = np.unique(rows.person, return_inverse=True)
    ids = [rows.block.person_id(person) for person in people.tolist()]
    return [ids[number] for number in place.tolist()]


def _columns(rows: Rows, schema: TableSchema) -> list[list[Any]]:
    """The values of each column of the table."""
    found = [rows.column(column.name) for column in schema.columns]
    return [[None] * len(rows) if column is None else _values(column) for column in found]


def _values(column: Column) -> list[Any]:
    values, valid = column.values, column.valid
    listed: list[Any]
    if column.type == "text":
        listed = _texts(column)
    elif column.type == "bool":
        listed = values.astype(np.bool_).tolist()
    else:
        listed = values.tolist()
    if valid is None or valid.all():
        return listed
    return [value if there else None for value, there in zip(listed, valid.tolist(), strict=True)]


def _texts(column: Column) -> list[Any]:
    dictionary = column.dictionary
    assert dictionary is not None
    codes, place = np.unique(column.values, return_inverse=True)
    texts = np.empty(len(codes), object)
    # A null has the code 0, which an empty dictionary lacks.
    texts[:] = [dictionary.text(code) if code < len(dictionary) else None for code in codes.tolist()]
    listed: list[Any] = texts[place].tolist()
    return listed


def _actions(rows: Rows) -> list[Any]:
    action = rows.column("action")
    assert action is not None, "every row has an action"
    return _texts(action)


# --- formats ----------------------------------------------------------------------------------------------------


@contextmanager
def _ndjson(target: BinaryIO, schema: TableSchema) -> Iterator[Write]:
    encoder = msgspec.json.Encoder()
    names = [column.name for column in schema.columns]

    def write(runs: Iterable[Rows]) -> None:
        for rows in runs:
            target.write(encoder.encode_lines(_events(rows, schema, names)))

    yield write


def _events(rows: Rows, schema: TableSchema, names: list[str]) -> list[dict[str, Any]]:
    persons, actions, columns = _person_ids(rows), _actions(rows), _columns(rows, schema)
    stamps = rows.stamp.tolist()
    attributes = [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in (zip(*columns, strict=True) if columns else ((),) * len(rows))
    ]
    events = []
    for first, end in pairwise(rows.first_rows().tolist()):
        stamp = stamps[first]
        event = {
            "person": persons[first],
            # A small number would be read as seconds.
            "stamp": stamp if stamp >= SECONDS_BELOW else iso_text(stamp),
            "action": actions[first],
        }
        attr = attributes[first] if end == first + 1 else fold(attributes[first:end])
        events.append(event | {"attr": attr} if attr else event)
    return events


@contextmanager
def _csv(target: BinaryIO, schema: TableSchema) -> Iterator[Write]:
    text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*leading_names(schema), *(column.name for column in schema.columns)])

    def write(runs: Iterable[Rows]) -> None:
        for rows in runs:
            columns = [
                ["" if value is None else str(value).lower() for value in values] if column.type == "bool" else values
                for column, values in zip(schema.columns, _columns(rows, schema), strict=True)
            ]
            persons = _person_ids(rows)
            texts = [person if isinstance(person, str) else None for person in persons]
            integers = [person if isinstance(person, int) else None for person in persons]
            stamps = map(iso_text, rows.stamp.tolist())
            writer.writerows(zip(texts, integers, rows.event.tolist(), stamps, _actions(rows), *columns, strict=True))

    try:
        yield write
    finally:
        text.detach()  # the target is not ours to close


@contextmanager
def _parquet(target: BinaryIO, schema: TableSchema) -> Iterator[Write]:
    import_pyarrow()
    import pyarrow
    import pyarrow.parquet

    arrow_schema = ArrowRows(schema).schema
    with pyarrow.parquet.ParquetWriter(target, arrow_schema, compression="zstd") as writer:
        waiting: list[Any] = []

        def flush(least_rows: int) -> None:
            if sum(batch.num_rows for batch in waiting) >= least_rows:
                writer.write_table(pyarrow.Table.from_batches(waiting, arrow_schema))
                waiting.clear()

        def write(runs: Iterable[Rows]) -> None:
            made = ArrowRows(schema)
            for rows in runs:
                waiting.append(made.batch(rows))
                flush(_GROUP_ROWS)

        yield write
        if waiting:
            flush(0)


@contextmanager
def _arrow(target: BinaryIO, schema: TableSchema) -> Iterator[Write]:
    """The streaming format of Arrow IPC."""
    with import_pyarrow().ipc.new_stream(target, ArrowRows(schema).schema) as writer:

        def write(runs: Iterable[Rows]) -> None:
            made = ArrowRows(schema)
            for rows in runs:
                writer.write_batch(made.batch(rows))

        yield write


FORMATS: dict[str, Callable[[BinaryIO, TableSchema], AbstractContextManager[Write]]] = {
    "ndjson": _ndjson,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
}
