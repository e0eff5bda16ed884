"""Arrays and lists of values as bytes: little-endian, integers as narrow as they fit, everything back as it was.

Values keep their kinds exactly: 1, 1.0 and True are three things, doubles come back bit for bit, integers of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from openset.pyql.states import Value
from openset.query.wire.codec import checked

_WIDTHS = ("i1", "i2", "i4", "i8")
_NONE, _FALSE, _TRUE, _INT, _DOUBLE, _TEXT, _LONG = range(7)
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
# More decimal digits than any integer has that a script can make.
_MOST_DIGITS = 400


class Packed(msgspec.Struct, array_like=True, frozen=True):
    """An array of one dimension. code: i1 … i8 for int64, f8 for float64, b for flags, eight of them in a byte."""

    code: str
    data: bytes


class PackedValues(msgspec.Struct, array_like=True, frozen=True):
    """Values of mixed kinds, None among them. kinds: one per value, or a single one that all have.

    texts: each once. codes: which of them each text is; empty where they are all of them in their order. longs:
    integers beyond 64 bits, in decimal digits.
    """

    kinds: bytes
    ints: Packed
    doubles: Packed
    texts: list[str]
    codes: Packed
    longs: list[str]


def pack(array: NDArray[Any]) -> Packed:
    """An array of int64, float64 or bool."""
    if array.dtype == np.bool_:
        return Packed("b", np.packbits(array).tobytes())
    if array.dtype == np.float64:
        return Packed("f8", np.ascontiguousarray(array, "<f8").tobytes())
    assert array.dtype == np.int64, array.dtype
    low, high = (int(array.min()), int(array.max())) if len(array) else (0, 0)
    for code in _WIDTHS:
        bounds = np.iinfo(code)
        if bounds.min <= low and high <= bounds.max:
            return Packed(code, np.ascontiguousarray(array, "<" + code).tobytes())
    raise AssertionError


def ints(packed: Packed, count: int | None = None) -> NDArray[np.int64]:
    """int64[count], writable; any number of them where count is None. Raises WireError."""
    checked(packed.code in _WIDTHS, "an array of integers has another type")
    return _numbers(packed, count).astype(np.int64)


def doubles(packed: Packed, count: int | None = None) -> NDArray[np.float64]:
    """float64[count], writable. Raises WireError."""
    checked(packed.code == "f8", "an array of doubles has another type")
    return _numbers(packed, count).astype(np.float64)


def numbers(packed: Packed, count: int | None = None) -> NDArray[Any]:
    """int64 or float64, as it was packed. Raises WireError."""
    return doubles(packed, count) if packed.code == "f8" else ints(packed, count)


def flags(packed: Packed, count: int) -> NDArray[np.bool_]:
    """bool[count], writable. Raises WireError."""
    checked(packed.code == "b" and len(packed.data) == (count + 7) // 8, "an array of flags has another size")
    return np.unpackbits(np.frombuffer(packed.data, np.uint8), count=count).astype(np.bool_)


def table(packed: Packed, rows: int, columns: int) -> NDArray[np.int64]:
    """int64[rows, columns], from an array that was flattened. Raises WireError."""
    return ints(packed, rows * columns).reshape(rows, columns)


def _numbers(packed: Packed, count: int | None) -> NDArray[Any]:
    width = int(packed.code[1])
    size = len(packed.data)
    checked(size % width == 0 if count is None else size == count * width, "an array has another size")
    return np.frombuffer(packed.data, "<" + packed.code)


def pack_values(values: Sequence[Value | None]) -> PackedValues:
    """Values as they are in result trees and states."""
    kinds = bytes(map(_kind_of, values))
    found: dict[int, list[Any]] = {_INT: [], _DOUBLE: [], _TEXT: [], _LONG: []}
    for kind, value in zip(kinds, values, strict=True):
        if kind in found:
            found[kind].append(value)
    texts = list(dict.fromkeys(found[_TEXT]))
    codes = np.zeros(0, np.int64)
    if len(texts) < len(found[_TEXT]):
        place = {text: code for code, text in enumerate(texts)}
        codes = np.array([place[text] for text in found[_TEXT]], np.int64)
    return PackedValues(
        kinds[:1] if len(set(kinds)) == 1 else kinds,
        pack(np.array(found[_INT], np.int64)),
        pack(np.array(found[_DOUBLE], np.float64)),
        texts,
        pack(codes),
        [str(value) for value in found[_LONG]],
    )


def unpack_values(packed: PackedValues, count: int) -> list[Value | None]:
    """The values, of which there must be so many. The caller knows that the count was paid for. Raises WireError."""
    kinds = packed.kinds
    if len(kinds) == 1:
        kinds = kinds * count
    checked(len(kinds) == count and max(kinds, default=0) <= _LONG, "values have kinds that are not known")
    texts = packed.texts
    if packed.codes.data:
        codes = ints(packed.codes)
        checked(not len(codes) or (codes.min() >= 0 and codes.max() < len(texts)), "a text is missing")
        texts = [texts[code] for code in codes.tolist()]
    digits = [text for text in packed.longs if len(text) <= _MOST_DIGITS and _is_integer(text)]
    checked(len(digits) == len(packed.longs), "an integer is none")
    parts: dict[int, list[Any]] = {
        _INT: ints(packed.ints, kinds.count(_INT)).tolist(),
        _DOUBLE: doubles(packed.doubles, kinds.count(_DOUBLE)).tolist(),
        _TEXT: texts,
        _LONG: [int(text) for text in digits],
        _NONE: [None] * kinds.count(_NONE),
        _FALSE: [False] * kinds.count(_FALSE),
        _TRUE: [True] * kinds.count(_TRUE),
    }
    for kind, part in parts.items():
        checked(len(part) == kinds.count(kind), "there are more or fewer values than kinds")
    if count and len(packed.kinds) == 1:
        return parts[kinds[0]]
    sources = {kind: iter(part) for kind, part in parts.items()}
    return [next(sources[kind]) for kind in kinds]


def _is_integer(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()


def _kind_of(value: Value | None) -> int:
    if value is None:
        return _NONE
    if isinstance(value, str):
        return _TEXT
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, float):
        return _DOUBLE
    assert isinstance(value, int), type(value)
    return _INT if _INT64_MIN <= value <= _INT64_MAX else _LONG
