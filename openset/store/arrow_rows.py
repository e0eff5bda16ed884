"""Rows of a table as Apache Arrow arrays and record batches, and as pandas data frames.

Needs pyarrow, which is imported when it is asked for. Numbers, stamps and the codes and bytes of texts are the arrays
of the partition file itself where rows follow each other there; masks and bools are packed into bits, which Arrow
wants. What Arrow would be told wrong by a damaged file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import ConfigError, InternalError, QueryError
from openset.store.rows import Rows
from openset.store.schema import TableSchema
from openset_format.block import INTEGER_PERSON, TEXT_PERSON, Column, ColumnType, TextDictionary
from openset_format.dictionary import packed

LEADING_COLUMNS = ("person", "person_id", "event", "stamp", "action")


def import_pyarrow() -> Any:
    """The module. Raises ConfigError where it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise ConfigError("this needs pyarrow: pip install 'openset[arrow]'") from None
    return pyarrow


def leading_names(schema: TableSchema) -> list[str]:
    """What stands before a table's own columns; `person_id` and `event` with a `_` behind them where a column is so."""
    names = []
    for name in LEADING_COLUMNS:
        while schema.column(name) is not None:
            name += "_"
        names.append(name)
    return names


class ArrowRows:
    """Makes record batches of rows of one partition, whose dictionaries it keeps.

    The columns are those of `leading_names` (person: text ids; person_id: integer ids; event: its number among those
    of the person; stamp: timestamp in ms, UTC), then those of the table.
    """

    def __init__(self, schema: TableSchema, columns: Sequence[str] | None = None):
        """columns: only these, of the leading ones and the table's. Raises ConfigError, QueryError."""
        self._arrow = import_pyarrow()
        self._schema = schema
        self._names = [*leading_names(schema), *(column.name for column in schema.columns)]
        self._chosen = list(self._names if columns is None else dict.fromkeys(columns))
        for name in self._chosen:
            if name not in self._names:
                raise QueryError(f"table {schema.name!r} has no column {name!a}; there are {', '.join(self._names)}")
        self._texts: dict[int, tuple[TextDictionary, Any]] = {}

    @property
    def schema(self) -> Any:
        """The pyarrow.Schema of the batches."""
        arrow = self._arrow
        text = arrow.string()
        types = {"text": text, "int": arrow.int64(), "double": arrow.float64(), "bool": arrow.bool_()}
        fields = [text, arrow.int64(), arrow.int32(), arrow.timestamp("ms", "UTC"), text]
        fields += [types[column.type] for column in self._schema.columns]
        by_name = dict(zip(self._names, fields, strict=True))
        return arrow.schema([(name, by_name[name]) for name in self._chosen])

    def batch(self, rows: Rows) -> Any:
        """A pyarrow.RecordBatch with plain strings. Raises InternalError for values that a sound file does not have."""
        arrow, schema = self._arrow, self.schema
        try:
            arrays = [_plain(arrow, self._array(name, rows), schema.field(name).type) for name in self._chosen]
            return arrow.record_batch(arrays, schema=schema)
        except arrow.ArrowException as error:
            raise InternalError(f"rows cannot be read: {error}") from error

    def arrays(self, rows: Rows) -> dict[str, Any]:
        """A pyarrow.Array per column, texts as codes with a dictionary. Raises InternalError as `batch` does."""
        try:
            return {name: self._array(name, rows) for name in self._chosen}
        except self._arrow.ArrowException as error:
            raise InternalError(f"rows cannot be read: {error}") from error

    def table(self, arrays: Mapping[str, Sequence[Any]]) -> Any:
        """A pyarrow.Table of what `arrays` gave, chunk by chunk; codes are made as wide as the widest ones."""
        arrow = self._arrow
        columns = {}
        for name in self._chosen:
            kind = self.schema.field(name).type
            chunks = arrays.get(name, ())
            if kind == arrow.string():
                width = max((chunk.type.index_type.bit_width for chunk in chunks), default=8)
                codes = {8: arrow.uint8(), 16: arrow.uint16(), 32: arrow.uint32()}[width]
                kind = arrow.dictionary(codes, arrow.large_string())
                chunks = [
                    chunk
                    if chunk.type == kind
                    else arrow.DictionaryArray.from_arrays(chunk.indices.cast(codes), chunk.dictionary)
                    for chunk in chunks
                ]
            columns[name] = arrow.chunked_array(chunks, kind)
        return arrow.table(columns)

    def _array(self, name: str, rows: Rows) -> Any:
        arrow, names = self._arrow, self._names
        place = names.index(name)
        if place >= len(LEADING_COLUMNS):
            column = rows.column(name)
            if column is not None:
                return self._column(column)
            kind = self._schema.columns[place - len(LEADING_COLUMNS)].type
            nothing: dict[ColumnType, Any] = {
                "text": arrow.dictionary(arrow.uint8(), arrow.large_string()),
                "int": arrow.int64(), "double": arrow.float64(), "bool": arrow.bool_(),
            }  # fmt: skip
            return arrow.nulls(len(rows), nothing[kind])
        if place == 0:
            return self._text_ids(rows)
        if place == 1:
            return self._integer_ids(rows)
        if place == 2:
            return self._numbers(rows.event, None, arrow.int32())
        if place == 3:
            return self._numbers(rows.stamp, None, arrow.timestamp("ms", "UTC"))
        action = rows.column("action")
        assert action is not None, "every row has an action"
        return self._column(action)

    def _text_ids(self, rows: Rows) -> Any:
        block = rows.block
        people = slice(block.first_person, block.first_person + block.people)
        is_text = block.ids.kinds[people] == TEXT_PERSON
        codes = rows.person.astype(np.uint32) + np.uint32(block.first_person)
        return self._coded(codes, None if is_text.all() else is_text[rows.person], block.ids.texts)

    def _integer_ids(self, rows: Rows) -> Any:
        block = rows.block
        people = slice(block.first_person, block.first_person + block.people)
        is_integer = block.ids.kinds[people] == INTEGER_PERSON
        if not is_integer.any():
            return self._arrow.nulls(len(rows), self._arrow.int64())
        ids = np.asarray(block.ids.integers[people], np.int64)[rows.person]
        return self._numbers(ids, is_integer[rows.person], self._arrow.int64())

    def _column(self, column: Column) -> Any:
        arrow = self._arrow
        if column.type == "text":
            assert column.dictionary is not None
            return self._coded(column.values, column.valid, column.dictionary)
        if column.type == "bool":
            bits = np.packbits(column.values.astype(np.bool_), bitorder="little")
            buffers = [self._mask(column.valid), arrow.py_buffer(bits)]
            return arrow.Array.from_buffers(arrow.bool_(), len(column.values), buffers)
        return self._numbers(column.values, column.valid, arrow.int64() if column.type == "int" else arrow.float64())

    def _numbers(self, values: NDArray[Any], valid: NDArray[np.bool_] | None, kind: Any) -> Any:
        buffers = [self._mask(valid), self._arrow.py_buffer(np.ascontiguousarray(values))]
        return self._arrow.Array.from_buffers(kind, len(values), buffers)

    def _coded(self, codes: NDArray[Any], valid: NDArray[np.bool_] | None, dictionary: TextDictionary) -> Any:
        arrow = self._arrow
        widths = {1: arrow.uint8(), 2: arrow.uint16(), 4: arrow.uint32()}
        places = self._numbers(codes, valid, widths[codes.dtype.itemsize])
        # Checks that every code is one of the dictionary.
        return arrow.DictionaryArray.from_arrays(places, self._dictionary(dictionary))

    def _dictionary(self, dictionary: TextDictionary) -> Any:
        if id(dictionary) not in self._texts:
            arrow, texts = self._arrow, packed(dictionary)
            offsets = np.ascontiguousarray(texts.offsets, np.int64)
            buffers = [None, arrow.py_buffer(offsets), arrow.py_buffer(np.ascontiguousarray(texts.data))]
            array = arrow.Array.from_buffers(arrow.large_string(), len(texts), buffers)
            array.validate()
            # The dictionary is kept, so that nothing else gets its id.
            self._texts[id(dictionary)] = (dictionary, array)
        return self._texts[id(dictionary)][1]

    def _mask(self, valid: NDArray[np.bool_] | None) -> Any:
        if valid is None or valid.all():
            return None
        return self._arrow.py_buffer(np.packbits(valid, bitorder="little"))


def _plain(arrow: Any, array: Any, kind: Any) -> Any:
    """Codes become strings."""
    if not arrow.types.is_dictionary(array.type):
        return array
    return array.cast(arrow.large_string()).cast(kind)


def data_frame(table: Any) -> Any:
    """A pandas.DataFrame of a pyarrow.Table. Raises ConfigError where pandas is not installed.

    Ints and bools with nulls become pandas' Int64 and boolean, so that no int becomes a double; texts categories.
    """
    arrow = import_pyarrow()
    try:
        import pandas
    except ImportError:
        raise ConfigError("this needs pandas: pip install 'openset[pandas]'") from None
    nullable = {arrow.int64(): pandas.Int64Dtype(), arrow.bool_(): pandas.BooleanDtype()}
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if arrow.types.is_dictionary(column.type):
            column = _with_distinct_texts(arrow, column)
        columns[name] = column.to_pandas(types_mapper=nullable.get if column.null_count else None)
    return pandas.DataFrame(columns)


def _with_distinct_texts(arrow: Any, column: Any) -> Any:
    """The same texts with one dictionary for all chunks, in which none is there twice.

    That of people has an empty text for everybody whose id is an integer.
    """
    chunks = [
        chunk
        if len(chunk.dictionary.unique()) == len(chunk.dictionary)
        else chunk.cast(arrow.large_string()).dictionary_encode()
        for chunk in column.chunks
    ]
    kinds = {chunk.type for chunk in chunks}
    if len(kinds) > 1:
        chunks = [chunk.cast(arrow.large_string()).dictionary_encode() for chunk in chunks]
    return arrow.chunked_array(chunks, chunks[0].type if chunks else column.type).unify_dictionaries()
