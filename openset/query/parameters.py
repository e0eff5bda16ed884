"""Parameters of a request: typed, each given once, none unknown; and the values of a script's placeholders.

A request's handler reads the parameters it knows by name and then calls `finish`, which refuses what is left and names
the nearest known one. `str_`, `int_`, `dbl_` and `bool_` parameters are values of `{{name}}` in the script; they are
bound as values and never become part of its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from urllib.parse import parse_qsl

from openset.errors import OpenSetError, QueryError
from openset.pyql.settings import ParameterValue
from openset.suggestion import suggestion

_INTEGER = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_DOUBLE = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_KINDS = {"str_": "text", "int_": "an integer", "dbl_": "a number", "bool_": "true or false"}
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1


def read_number(text: str) -> int | float | None:
    """An integer of 64 bits or a finite double; None for what is no number."""
    if _INTEGER.fullmatch(text) and _INT64_MIN <= int(text) <= _INT64_MAX:
        return int(text)
    if _DOUBLE.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    return None


def parse_number(name: str, text: str) -> int | float:
    """The number a parameter gives. Raises QueryError."""
    number = read_number(text)
    if number is None:
        raise QueryError(f"{name}={text} is not a number")
    return number


def bucket_width(text: str) -> int | float:
    """The width that `bucket=` gives. Raises QueryError."""
    width = parse_number("bucket", text)
    if width <= 0:
        raise QueryError(f"bucket={text} must be above zero")
    return width


def parse_bool(name: str, text: str) -> bool:
    """true or false, as a parameter gives it. Raises QueryError."""
    if text.lower() not in ("true", "false"):
        raise QueryError(f"{name}={text} must be true or false")
    return text.lower() == "true"


class RequestParameters:
    """The parameters of one request, read by name. Every failure is an error of `kind`."""

    def __init__(
        self, pairs: Sequence[tuple[str, str]], kind: type[OpenSetError] = QueryError, known: Iterable[str] = ()
    ):
        """known: names that may be given besides those that are read."""
        self._kind = kind
        self._values: dict[str, str] = {}
        self._known = set(known)
        for name, value in pairs:
            if name in self._values:
                raise kind(f"the parameter {name!r} is given more than once")
            self._values[name] = value

    @classmethod
    def parse(cls, query: str, kind: type[OpenSetError] = QueryError) -> RequestParameters:
        """From the part of the address after the question mark. Raises `kind` for what is not UTF-8."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=1000)
        except UnicodeDecodeError as error:
            raise kind("the parameters of the request are not UTF-8") from error
        except ValueError as error:
            raise kind("the request has more than 1,000 parameters") from error
        return cls(pairs, kind)

    def text(self, name: str) -> str | None:
        """The value as it is, or None when it is not given."""
        self._known.add(name)
        return self._values.get(name)

    def flag(self, name: str) -> bool:
        """true or false; False when it is not given."""
        value = self.text(name)
        return False if value is None else self._bool(name, value)

    def integer(self, name: str, least: int, greatest: int) -> int | None:
        """An integer within bounds, or None when it is not given."""
        value = self.text(name)
        if value is None:
            return None
        number = self._integer(name, value)
        if not least <= number <= greatest:
            raise self._kind(f"{name}={value} is not between {least} and {greatest}")
        return number

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """One of a few words, or None when it is not given."""
        value = self.text(name)
        if value is None or value in choices:
            return value
        words = " or ".join(choices)
        raise self._kind(f"{name}={value} must be {words}")

    def script_values(self, placeholders: Iterable[str]) -> dict[str, ParameterValue]:
        """The values of a script's placeholders. Raises when one is missing, doubled, of the wrong kind or not used."""
        wanted = set(placeholders)
        values: dict[str, ParameterValue] = {}
        for given, text in self._values.items():
            prefix, name = _split(given)
            if prefix is None or given in self._known:
                continue
            self._known.add(given)
            if not _NAME.fullmatch(name):
                raise self._kind(f"the parameter {given!r} has no name of a placeholder after {prefix!r}")
            if name in values:
                raise self._kind(f"two parameters give a value for {{{{{name}}}}}")
            if name not in wanted:
                raise self._kind(
                    f"the parameter {given!r} is not used: the script has no {{{{{name}}}}}{suggestion(name, wanted)}"
                )
            values[name] = self._typed(prefix, given, text)
        for name in sorted(wanted - values.keys()):
            raise self._kind(f"the script's {{{{{name}}}}} has no value: give str_{name}=, int_{name}=, dbl_{name}= "
                             f"or bool_{name}=")  # fmt: skip
        return values

    def unread(self) -> list[tuple[str, str]]:
        """The parameters that nobody has read: what they mean is known when the script is."""
        return [(name, value) for name, value in self._values.items() if name not in self._known]

    def known(self) -> list[str]:
        """The names that somebody has asked for, given or not."""
        return sorted(self._known)

    def finish(self) -> None:
        """Refuses parameters that nobody has read."""
        for name in self._values:
            if name not in self._known:
                raise self._kind(f"unknown parameter {name!r}{suggestion(name, self._known)}")

    def _typed(self, prefix: str, given: str, text: str) -> ParameterValue:
        if prefix == "int_":
            return self._integer(given, text)
        if prefix == "dbl_":
            return self._double(given, text)
        return self._bool(given, text) if prefix == "bool_" else text

    def _integer(self, name: str, value: str) -> int:
        if _INTEGER.fullmatch(value):
            number = int(value)
            if _INT64_MIN <= number <= _INT64_MAX:
                return number
        raise self._kind(f"{name}={value} is not an integer of 64 bits")

    def _double(self, name: str, value: str) -> float:
        if _DOUBLE.fullmatch(value):
            number = float(value)
            if math.isfinite(number):
                return number
        raise self._kind(f"{name}={value} is not a number")

    def _bool(self, name: str, value: str) -> bool:
        if value.lower() not in ("true", "false"):
            raise self._kind(f"{name}={value} must be true or false")
        return value.lower() == "true"


def _split(given: str) -> tuple[str | None, str]:
    for prefix in _KINDS:
        if given.startswith(prefix):
            return prefix, given.removeprefix(prefix)
    return None, given
