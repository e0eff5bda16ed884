"""Who ever had a value in a column: by the index of a partition's file, or by looking through rows in memory.

Both are exact. The first does not know every value; the second reads the column of all rows it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.errors import InternalError
from openset.store.delta import Base
from openset.store.merge import Layer
from openset_format.block import Column, ColumnType, TextDictionary
from openset_format.encoding import StoredColumn
from openset_format.errors import FormatError
from openset_format.membership import bitmap_of

# A value of the column's own type: text, int, or bool.
ColumnValue = str | int | bool


def is_looked_up(value: ColumnValue, column_type: ColumnType) -> bool:
    """Whether a value can stand in a column of this type, and such columns are looked up by value."""
    return type(value) is {"text": str, "int": int, "bool": bool, "double": None}[column_type]


def people_in_file(base: Base, column_id: int | None, value: ColumnValue) -> BitMap | None:
    """The people with a row in the file that has the value, None when the file's index does not know.

    column_id: None is the action. The bitmap is shared: do not change it. Raises InternalError for a damaged file.
    """
    if column_id is not None and column_id not in base.columns:
        return BitMap()
    try:
        index = base.action_index if column_id is None else base.index(column_id)
        if index is None:
            return BitMap() if not base.rows else None
        key = _key(base.action if column_id is None else base.columns[column_id], value)
        return BitMap() if key is None else index.people(key)
    except FormatError as error:
        raise InternalError(str(error)) from error


@dataclass(frozen=True, slots=True, eq=False)
class IndexedTexts:
    """What a file's index says about all values of a text column.

    dictionary: of the column.  codes: int64[n], the values that occur.  people: the bitmap of each; they are shared, do
    not change them.
    """

    dictionary: TextDictionary
    codes: NDArray[np.int64]
    people: list[BitMap]


def indexed_texts(base: Base, column_id: int | None) -> IndexedTexts | None:
    """All values of a text column of a file (None: the action) with their people; None where one is not indexed.

    Raises InternalError for a damaged file.
    """
    if column_id is not None and column_id not in base.columns:
        return None
    column = base.action if column_id is None else base.columns[column_id]
    try:
        index = base.action_index if column_id is None else base.index(column_id)
        if index is None or not index.complete or column.dictionary is None:
            return None
        codes = np.asarray(index.keys, np.int64)
        people = [index.people(code) for code in codes.tolist()]
    except FormatError as error:
        raise InternalError(str(error)) from error
    known = [bitmap for bitmap in people if bitmap is not None]
    assert len(known) == len(people), "a complete index knows every value"
    return IndexedTexts(column.dictionary, codes, known)


def people_in_rows(layer: Layer, column: Column, value: ColumnValue) -> BitMap:
    """The people of a layer with a row that has the value. column: over all rows of the layer."""
    key = _key(column, value)
    if key is None:
        return BitMap()
    has_value = column.values == key
    if column.valid is not None:
        has_value &= column.valid
    people = np.searchsorted(layer.row_start, np.flatnonzero(has_value), side="right") - 1
    if len(people):
        people = people[np.append(True, people[1:] != people[:-1])]
    return bitmap_of(layer.people[people])


def _key(column: Column | StoredColumn, value: ColumnValue) -> int | None:
    """What stands for the value in the column, None when nothing does."""
    if column.type == "text":
        assert isinstance(value, str) and column.dictionary is not None
        return column.dictionary.code(value)
    assert isinstance(value, int), "doubles are not looked up by value"
    return int(value)
