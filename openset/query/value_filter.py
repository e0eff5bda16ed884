"""The filters of a column query: which values of a column are counted. All that are given have to hold.

Comparisons look at values as they are stored, never at the buckets they are shown in. Filters of numbers are made for
the type of the column, so that 64-bit integers are compared exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from openset.errors import QueryError
from openset.query.parameters import parse_bool, parse_number
from openset.query.pattern import Pattern
from openset_format.block import ColumnType, TextDictionary

# "person": ids, texts and integers side by side.
FilteredType = ColumnType | Literal["person"]
Number = int | float

NUMBER_FILTERS = ("gt", "gte", "lt", "lte", "between", "and")
TEXT_FILTERS = ("rx", "sub")
FILTERS = (*NUMBER_FILTERS, "eq", *TEXT_FILTERS)
_TYPES = {"text": "text", "int": "numbers", "double": "numbers", "bool": "true and false", "person": "ids"}
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class ValueFilter:
    """What a value has to fulfil. Of a column of ids, texts and integers each have their own part of it.

    bounds: (operator, number) of gt, gte, lt, lte.  numbers, texts, bools: whether values of the kind may pass at all.
    """

    bounds: tuple[tuple[str, Number], ...] = ()
    equal_number: Number | None = None
    equal_text: str | None = None
    equal_bool: bool | None = None
    pattern: Pattern | None = None
    substring: str | None = None
    numbers: bool = True
    texts: bool = True

    @property
    def takes_all_texts(self) -> bool:
        """Whether no text is left out."""
        return self.texts and self.equal_text is None and self.pattern is None and self.substring is None

    def number_mask(self, values: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which of some int64 or float64 values pass; None for all."""
        if not self.numbers:
            return np.zeros(len(values), np.bool_)
        bounds = list(self.bounds)
        if self.equal_number is not None:
            bounds += [("gte", self.equal_number), ("lte", self.equal_number)]
        mask: NDArray[np.bool_] | None = None
        for operator, bound in bounds:
            passing = _compare_int(values, operator, bound) if values.dtype.kind == "i" else _compare(
                values, operator, float(bound)
            )  # fmt: skip
            mask = passing if mask is None else mask & passing
        return mask

    def bool_mask(self, values: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """Which of some bools, stored as 0 and 1, pass; None for all."""
        return None if self.equal_bool is None else values == int(self.equal_bool)

    def text_mask(self, dictionary: TextDictionary, deadline: float | None) -> NDArray[np.bool_]:
        """Which texts of a dictionary pass, by code. deadline: time.monotonic() seconds. Raises RunTimeError."""
        mask = np.zeros(len(dictionary), np.bool_)
        if not self.texts:
            return mask
        if self.equal_text is not None:
            code = dictionary.code(self.equal_text)
            if code is not None and self._passes(self.equal_text, deadline):
                mask[code] = True
            return mask
        for code, text in enumerate(dictionary.texts()):
            if self._passes(text, deadline):
                mask[code] = True
        return mask

    def _passes(self, text: str, deadline: float | None) -> bool:
        if self.substring is not None and self.substring not in text:
            return False
        return self.pattern is None or self.pattern.found_in(text, deadline)


def value_filter(column: str, column_type: FilteredType, given: Mapping[str, str]) -> ValueFilter:
    """The filter that request parameters ask for. given: the parameters of FILTERS that are there, as text.

    Raises QueryError for filters that make no sense for the column's type, or have no proper value.
    """
    _check_kinds(column, column_type, given)
    bounds: list[tuple[str, Number]] = []
    for name in ("gt", "gte", "lt", "lte"):
        if name in given:
            bounds.append((name, parse_number(name, given[name])))
    if ("between" in given) != ("and" in given):
        missing, there = ("and", "between") if "between" in given else ("between", "and")
        raise QueryError(f"{there}= needs {missing}=: between=LOW&and=HIGH takes values from LOW to below HIGH")
    if "between" in given:
        bounds += [("gte", parse_number("between", given["between"])), ("lt", parse_number("and", given["and"]))]
    pattern = Pattern.parse(given["rx"]) if "rx" in given else None
    kinds = (not ({"rx", "sub"} & given.keys()), not bounds)
    made = ValueFilter(tuple(bounds), pattern=pattern, substring=given.get("sub"), numbers=kinds[0], texts=kinds[1])
    return made if "eq" not in given else _with_equal(made, column_type, given["eq"])


def _with_equal(made: ValueFilter, column_type: FilteredType, text: str) -> ValueFilter:
    number: Number | None = None
    truth: bool | None = None
    numbers = made.numbers
    if column_type in ("int", "double"):
        number = parse_number("eq", text)
    elif column_type == "bool":
        truth = parse_bool("eq", text)
    elif column_type == "person":
        # eq=7 means the text "7" and the integer 7, which are two people.
        try:
            number = parse_number("eq", text)
        except QueryError:
            numbers = False
    texts = text if column_type in ("text", "person") else None
    return ValueFilter(made.bounds, number, texts, truth, made.pattern, made.substring, numbers, made.texts)


def _check_kinds(column: str, column_type: FilteredType, given: Mapping[str, str]) -> None:
    numbers = [name for name in NUMBER_FILTERS if name in given]
    texts = [name for name in TEXT_FILTERS if name in given]
    holds = _TYPES[column_type]
    if texts and column_type not in ("text", "person"):
        raise QueryError(f"{texts[0]}= is for texts; the column {column!r} holds {holds}")
    if numbers and column_type not in ("int", "double", "person"):
        raise QueryError(f"{numbers[0]}= is for numbers; the column {column!r} holds {holds}")
    if numbers and texts:
        raise QueryError(f"{numbers[0]}= is for integer ids and {texts[0]}= for text ids: no id can pass both")


def _compare(values: NDArray[Any], operator: str, bound: Any) -> NDArray[np.bool_]:
    compared: Any
    if operator == "gt":
        compared = values > bound
    elif operator == "gte":
        compared = values >= bound
    else:
        compared = values < bound if operator == "lt" else values <= bound
    return np.asarray(compared, np.bool_)


def _compare_int(values: NDArray[Any], operator: str, bound: Number) -> NDArray[np.bool_]:
    """Integers against any number, exactly: the bound becomes the integer that decides the same."""
    whole = math.floor(bound) if operator in ("gt", "lte") else math.ceil(bound)
    if whole > _INT64_MAX or whole < _INT64_MIN:
        upwards = operator in ("gt", "gte")
        return np.full(len(values), upwards == (whole < _INT64_MIN), np.bool_)
    return _compare(values, operator, whole)
