"""Text in PyQL: how values are written as text, how text is read as a number, and the text functions.

Text is Python text, positions are code points. A text that an operation makes may have 64 KB in UTF-8 at most.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import (
    CONTAINERS,
    Container,
    DictValue,
    Scalar,
    SetValue,
    Value,
    kind_of,
    position_of,
)
from openset.pyql.meaning.containers import value_of as value_of_key
from openset.pyql.settings import TEXT_LIMIT_BYTES

_INT64_LEAST = -(1 << 63)
_INT64_GREATEST = (1 << 63) - 1
_NUMBER = re.compile(r"\s*[+-]?(?:\d+(?P<fraction>\.\d*)?|(?P<bare>\.\d+))(?P<exponent>[eE][+-]?\d+)?\s*", re.ASCII)
_HOST = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//(?P<host>[^/?#]*)")
_PORT = re.compile(r":\d*$")


def checked_text(text: str) -> str:
    """The text itself. Raises RunTimeError when it is longer than 64 KB."""
    if 4 * len(text) > TEXT_LIMIT_BYTES and len(text.encode("utf-8", "surrogatepass")) > TEXT_LIMIT_BYTES:
        raise RunTimeError(f"a text grew longer than {TEXT_LIMIT_BYTES // 1024} KB")
    return text


@lru_cache(maxsize=4096)
def read_number(text: str) -> int | float | None:
    """The number a text reads as (white space around it is ignored), or None. Ints beyond 64 bits become doubles."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    if not (found["fraction"] or found["bare"] or found["exponent"]) and len(text) < 400:
        number = int(text)
        if _INT64_LEAST <= number <= _INT64_GREATEST:
            return number
    as_double = float(text)
    return as_double if math.isfinite(as_double) else None


def to_text(value: Value) -> str:
    """str(value): numbers in their shortest form, containers as Python writes them."""
    if isinstance(value, str):
        return value
    if isinstance(value, CONTAINERS):
        pieces: list[str] = []
        _write(value, pieces, [TEXT_LIMIT_BYTES])
        return checked_text("".join(pieces))
    return _scalar_text(value)


def _scalar_text(value: Scalar) -> str:
    return repr(value) if isinstance(value, (str, float)) else str(value)


def _write(value: Value, pieces: list[str], room: list[int]) -> None:
    """Appends a value's text to `pieces`; `room` holds how many characters are left."""
    if not isinstance(value, CONTAINERS):
        _put(_scalar_text(value), pieces, room)
        return
    opening, closing = ("[", "]") if isinstance(value, list) else ("{", "}")
    if isinstance(value, SetValue) and not value.entries:
        opening, closing = "set(", ")"
    _put(opening, pieces, room)
    _write_inside(value, pieces, room)
    _put(closing, pieces, room)


def _write_inside(value: Container, pieces: list[str], room: list[int]) -> None:
    if isinstance(value, list):
        for position, element in enumerate(value):
            _put(", " if position else "", pieces, room)
            _write(element, pieces, room)
        return
    for position, held in enumerate(value.entries):
        _put(", " if position else "", pieces, room)
        _put(_scalar_text(value_of_key(held)), pieces, room)
        if isinstance(value, DictValue):
            _put(": ", pieces, room)
            nested: Value = value.entries[held]
            _write(nested, pieces, room)


def _put(piece: str, pieces: list[str], room: list[int]) -> None:
    room[0] -= len(piece)
    if room[0] < 0:
        raise RunTimeError(f"a text grew longer than {TEXT_LIMIT_BYTES // 1024} KB")
    pieces.append(piece)


# ---------------------------------------------------------------- functions on text


def _text_argument(method: str, value: Value) -> str:
    if not isinstance(value, str):
        raise RunTimeError(f".{method}() needs text as its argument, this is {kind_of(value)}")
    return value


def find(text: str, *arguments: Value) -> int | None:
    """.find(sub[, start[, end]]): the first position, or -1."""
    return _find("find", text, arguments)


def rfind(text: str, *arguments: Value) -> int | None:
    """.rfind(sub[, start[, end]]): the last position, or -1."""
    return _find("rfind", text, arguments)


def _find(method: str, text: str, arguments: tuple[Value, ...]) -> int | None:
    if any(argument is None for argument in arguments):
        return None
    sought = _text_argument(method, arguments[0])
    bounds = [position_of(argument) for argument in arguments[1:]]
    return text.find(sought, *bounds) if method == "find" else text.rfind(sought, *bounds)


def split(text: str, separator: Value) -> list[str] | None:
    """.split(separator): a list of texts. Raises RunTimeError for an empty separator."""
    if separator is None:
        return None
    if _text_argument("split", separator) == "":
        raise RunTimeError(".split() needs a separator that is not empty")
    return text.split(_text_argument("split", separator))


def strip(text: str) -> str:
    """.strip(): without white space at both ends."""
    return text.strip()


def replace(text: str, old: Value, new: Value) -> str | None:
    """.replace(old, new): every occurrence replaced."""
    if old is None or new is None:
        return None
    sought, put = _text_argument("replace", old), _text_argument("replace", new)
    # The size is checked first: 64 KB of one letter, each replaced by 64 KB, would be 4 GB.
    if len(text) + text.count(sought) * (len(put) - len(sought)) > TEXT_LIMIT_BYTES:
        raise RunTimeError(f"a text grew longer than {TEXT_LIMIT_BYTES // 1024} KB")
    return checked_text(text.replace(sought, put))


def url_decode(value: Value) -> DictValue | None:
    """url_decode(text): host (None for a relative address), path, query and params, all percent-decoded.

    The host is in lower case, without user and port. A bare key of the query is True, of equal keys the last one stays.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise RunTimeError(f"url_decode() needs text, this is {kind_of(value)}")
    address = value.strip().partition("#")[0]
    found = _HOST.match(address)
    host: str | None = None
    if found is not None:
        host = unquote(_PORT.sub("", found["host"].rpartition("@")[2]).lower())
        address = address[found.end() :]
    path, _, query = address.partition("?")
    params = DictValue()
    for piece in query.split("&"):
        if piece:
            key, equals, text = piece.partition("=")
            params.entries[unquote_plus(key)] = unquote_plus(text) if equals else True
    return DictValue({"host": host, "path": unquote(path), "query": unquote_plus(query), "params": params})
