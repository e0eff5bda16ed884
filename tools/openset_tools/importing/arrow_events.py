"""Arrow columns to an event batch, without a Python object per value; only distinct texts become any.

What is not plain gives None: then somebody has to look row by row, and say what is wrong or expand it. The rules are
those of an insert (spec/events.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import ConfigError, InsertError
from openset.store.encode import group_events
from openset.store.now import NOW
from openset.store.ranges import narrowest
from openset.store.schema import TableSchema
from openset.store.stamps import LAST_STAMP, SECONDS_BELOW, BadStamp, parse_stamp
from openset_format.batch import EventBatch
from openset_format.block import INTEGER_PERSON, TEXT_PERSON, Column, ColumnType, PersonIds, TextDictionary
from openset_tools.importing.sources import Source

_PLAIN_INT = r"^-?[0-9]{1,18}$"


def arrow_package() -> Any:
    """The package. Raises ConfigError where it is not installed."""
    try:
        import pyarrow as arrow
    except ImportError:
        raise ConfigError("this format needs pyarrow: pip install 'openset[arrow]'") from None
    return arrow


def open_parquet(source: Source) -> Any:
    """A pyarrow ParquetFile. Raises InsertError, ConfigError."""
    arrow = arrow_package()
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(source.path)
    except OSError as error:
        raise InsertError(f"cannot read {source.name}: {error.strerror or error}") from None
    except arrow.ArrowInvalid as error:
        raise InsertError(f"{source.name} is no Parquet file: {error}") from None


def batch_of(
    person: Any, stamp: Any, action: Any, attributes: Mapping[str, Any], schema: TableSchema, partitions: int
) -> EventBatch | None:
    """The batch of flat events, one per row, or None when they are not plain and sound.

    person, stamp, action, attributes: pyarrow Arrays of one length; stamp None when there is no such column.
    """
    arrow = arrow_package()
    try:
        ids = _ids(person)
        stamps = np.full(len(person), NOW, np.int64) if stamp is None else _stamps(stamp)
        actions = _coded(action) if is_text(action.type) and not action.null_count else None
        if ids is None or stamps is None or actions is None or "" in (action_texts := actions[1]):
            return None
        columns: dict[int, Column] = {}
        for column in schema.columns:
            if column.name in attributes and attributes[column.name].null_count < len(person):
                built = _column(attributes[column.name], column.type)
                if built is None:
                    return None
                columns[column.id] = built
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError, UnicodeDecodeError):
        return None
    if not attributes.keys() <= schema.column_types.keys():
        return None
    row_start = np.arange(len(person) + 1)
    return group_events(ids[0], ids[1], actions[0], action_texts, stamps, row_start, columns, partitions)


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of texts."""
    types = arrow_package().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _coded(array: Any) -> tuple[NDArray[np.uint32], list[str]]:
    """uint32[rows], 0 for null, and the distinct texts in the order they first occur. Raises UnicodeDecodeError."""
    arrow = arrow_package()
    encoded = array.cast(arrow.string()).dictionary_encode()
    codes = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    return codes.astype(np.uint32), encoded.dictionary.to_pylist()


def _ids(array: Any) -> tuple[NDArray[np.uint32], PersonIds] | None:
    arrow = arrow_package()
    if array.null_count:
        return None
    if is_text(array.type):
        codes, texts = _coded(array)
        if "" in texts:
            return None
        nothing = np.zeros(len(texts), np.int64)
        return codes, PersonIds(np.full(len(texts), TEXT_PERSON, np.uint8), nothing, TextDictionary(texts))
    if not arrow.types.is_integer(array.type):
        return None
    encoded = array.cast(arrow.int64()).dictionary_encode()
    integers = encoded.dictionary.to_numpy()
    persons = PersonIds(
        np.full(len(integers), INTEGER_PERSON, np.uint8), integers, TextDictionary([""] * len(integers))
    )
    return encoded.indices.to_numpy().astype(np.uint32), persons


def _stamps(array: Any) -> NDArray[np.int64] | None:
    """int64[rows], ms, NOW where there is none."""
    arrow = arrow_package()
    import pyarrow.compute as compute

    types = arrow.types
    milliseconds = arrow.timestamp("ms", "UTC")
    is_moment = False
    if is_text(array.type):
        array = array.cast(arrow.string())
        if compute.all(compute.match_substring_regex(array, _PLAIN_INT)).as_py():
            array = array.cast(arrow.int64())
        else:
            return _parsed(array)
    elif types.is_timestamp(array.type):
        array, is_moment = array.cast(arrow.timestamp("ms"), safe=False), True
    elif types.is_date(array.type):
        array, is_moment = array.cast(milliseconds), True
    elif types.is_null(array.type):
        return np.full(len(array), NOW, np.int64)
    elif not types.is_integer(array.type):
        return None
    missing = ~array.is_valid().to_numpy(zero_copy_only=False)
    stamps: NDArray[np.int64] = array.cast(arrow.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    if len(stamps) and (stamps.min() < 0 or stamps.max() > LAST_STAMP):
        return None
    if not is_moment:
        stamps = np.where(stamps < SECONDS_BELOW, stamps * 1_000, stamps)
    return np.where(missing, NOW, stamps)


def _parsed(array: Any) -> NDArray[np.int64] | None:
    """The stamps of ISO 8601 texts: by Arrow in one go where it agrees to, else every distinct one."""
    arrow = arrow_package()
    missing = ~array.is_valid().to_numpy(zero_copy_only=False)
    for kind in (arrow.timestamp("ms", "UTC"), arrow.timestamp("ms")):
        try:
            moments = array.cast(kind).cast(arrow.int64()).fill_null(0).to_numpy(zero_copy_only=False)
        except arrow.ArrowInvalid:
            continue
        if len(moments) and (moments.min() < 0 or moments.max() > LAST_STAMP):
            return None
        return np.where(missing, NOW, moments)
    codes, texts = _coded(array)
    try:
        parsed = np.array([parse_stamp(text) for text in texts], np.int64)
    except BadStamp:
        return None
    return np.where(missing, NOW, parsed[codes])


def _column(array: Any, column_type: ColumnType) -> Column | None:
    arrow = arrow_package()
    types = arrow.types
    valid = array.is_valid().to_numpy(zero_copy_only=False) if array.null_count else None
    if column_type == "text":
        if not is_text(array.type):
            return None
        codes, texts = _coded(array)
        return Column("text", codes.astype(narrowest(len(texts)), copy=False), valid, TextDictionary(texts))
    if column_type == "bool":
        if not types.is_boolean(array.type):
            return None
        return Column("bool", array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.uint8), valid)
    if column_type == "int":
        if not types.is_integer(array.type):
            return None
        return Column("int", array.cast(arrow.int64()).fill_null(0).to_numpy(zero_copy_only=False), valid)
    if not (types.is_floating(array.type) or types.is_integer(array.type)):
        return None
    numbers = array.cast(arrow.float64(), safe=False).fill_null(0.0).to_numpy(zero_copy_only=False)
    return Column("double", numbers, valid) if np.isfinite(numbers).all() else None
