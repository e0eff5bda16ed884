"""Answers as bytes: JSON, or the result tree as a flat table in CSV, newline-delimited JSON or an Arrow stream.

A table has a row for each path of keys that does not go on: columns key1, key2, … (empty where a path is shorter than
others), then the aggregates of the last node. What nodes on the way counted is in JSON only. Shortcut: the whole table
is built before the first byte is written.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from openset.errors import QueryError
from openset.query.answer import QueryAnswer
from openset.query.result import encode

JSON = "application/json"
NDJSON = "application/x-ndjson"
ARROW = "application/vnd.apache.arrow.stream"
INFO_HEADER = "OpenSet-Info"
MISSING_HEADER = "OpenSet-Missing-Partitions"


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """An answer ready to be sent. headers: besides the content type."""

    body: bytes
    content_type: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class FlatTable:
    """names: of the columns. rows: a value per column, None where there is none."""

    names: list[str]
    rows: list[list[Any]]


def flat_table(answer: QueryAnswer) -> FlatTable:
    """The result tree of an answer as a table."""
    assert answer.aggregates is not None
    width = len(answer.aggregates)
    paths: list[tuple[list[Any], dict[str, Any]]] = []
    pending: list[tuple[list[Any], dict[str, Any]]] = [([], answer.body)]
    while pending:
        keys, node = pending.pop()
        below = node.get("_", ())
        pending += [([*keys, child["g"]], child) for child in reversed(below)]
        if not below and keys:
            paths.append((keys, node))
    depth = max((len(keys) for keys, _ in paths), default=1)
    rows = [[*keys, *[None] * (depth - len(keys)), *_aggregates(node, width)] for keys, node in paths]
    return FlatTable(_distinct([*(f"key{level}" for level in range(1, depth + 1)), *answer.aggregates]), rows)


def _aggregates(node: dict[str, Any], width: int) -> list[Any]:
    """`c`, then `c2`, `c3`, … of a node."""
    values = list(node["c"])
    segment = 2
    while len(values) < width:
        values += node[f"c{segment}"]
        segment += 1
    return values


def _distinct(names: Iterable[str]) -> list[str]:
    """The names, a later one of two equal ones with a number behind it."""
    found: list[str] = []
    for name in names:
        number, free = 2, name
        while free in found:
            number, free = number + 1, f"{name}_{number}"
        found.append(free)
    return found


def _csv(table: FlatTable) -> bytes:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(table.names)
    writer.writerows([_csv_cell(value) for value in row] for row in table.rows)
    return written.getvalue().encode()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _lines(table: FlatTable) -> bytes:
    encoder = msgspec.json.Encoder()
    return encoder.encode_lines([dict(zip(table.names, row, strict=True)) for row in table.rows])


def _arrow(table: FlatTable) -> bytes:
    import pyarrow

    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.names)
    arrays = [_arrow_array(values) for values in columns]
    made = pyarrow.table(arrays, names=table.names)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, made.schema) as stream:
        stream.write_table(made)
    return bytes(sink.getvalue())


def _arrow_array(values: Sequence[Any]) -> Any:
    """One type per column: values of several kinds, which only keys can be, become text."""
    import pyarrow

    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return pyarrow.array([None if value is None else _key_text(value) for value in values], pyarrow.string())
    if kinds == {int, float}:
        return pyarrow.array([None if value is None else float(value) for value in values], pyarrow.float64())
    return pyarrow.array(values)


def _key_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


# By media type, the names under which it may be asked for first.
_WRITERS: dict[str, Callable[[FlatTable], bytes]] = {
    "text/csv": _csv,
    NDJSON: _lines,
    ARROW: _arrow,
}
_CONTENT_TYPES = {"text/csv": "text/csv; charset=utf-8; header=present"}


def negotiated(accept: str | None) -> str:
    """The media type to answer with, JSON where the client names none of the others.

    Raises QueryError for an Arrow stream where pyarrow is not installed.
    """
    wanted = sorted(_accepted(accept or ""), key=lambda entry: -entry[1])
    for media_type, _ in wanted:
        if media_type in (JSON, "application/*", "*/*"):
            return JSON
        if media_type in _WRITERS:
            if media_type == ARROW and importlib.util.find_spec("pyarrow") is None:
                raise QueryError("answers as Arrow streams need the package pyarrow: pip install 'openset[arrow]'")
            return media_type
    return JSON


def _accepted(accept: str) -> Iterable[tuple[str, float]]:
    """The media types of an Accept header and their weights, without those of weight 0."""
    for entry in accept.split(","):
        media_type, *options = (part.strip().lower() for part in entry.split(";"))
        weight = 1.0
        for option in options:
            if option.startswith("q="):
                try:
                    weight = float(option[2:])
                except ValueError:
                    weight = 0.0
        if weight > 0:
            yield media_type, weight


def document(answer: QueryAnswer, media_type: str = JSON) -> Document:
    """The answer as bytes. What is no tree (debug, explain) is JSON whatever is wanted. Raises RunTimeError."""
    if media_type == JSON or answer.aggregates is None:
        return Document(encode(answer.body), f"{JSON}; charset=utf-8", {})
    body = _WRITERS[media_type](flat_table(answer))
    headers = {
        header: msgspec.json.encode(answer.body[name]).decode()
        for name, header in (("info", INFO_HEADER), ("missing_partitions", MISSING_HEADER))
        if name in answer.body
    }
    return Document(body, _CONTENT_TYPES.get(media_type, media_type), headers)
