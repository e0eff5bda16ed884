"""The built-in functions that depend on their arguments alone, for single values; and the methods.

A function of None gives None, except `len`, `int`, `float` (0) and `str` ('None').
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo
from decimal import ROUND_HALF_UP, Context, Decimal
from functools import lru_cache, partial

from openset.errors import RunTimeError
from openset.pyql.meaning import containers, dates, text
from openset.pyql.meaning.containers import CONTAINERS, DictValue, SetValue, Value, kind_of
from openset.pyql.meaning.values import in_range

# Wide enough for every double written out in full (309 digits before the point) with the most decimals allowed.
_DECIMALS = Context(prec=1200)
MOST_DECIMALS = 400


def _number(function: str, value: Value) -> int | float:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, (int, float)):
        return value
    raise RunTimeError(f"{function}() needs a number, this is {kind_of(value)}")


def bucket(value: Value, width: Value) -> Value:
    """bucket(x, n): floor(x/n)*n; 0 for a width of zero. An int when both are ints."""
    if value is None or width is None:
        return None
    number, step = _number("bucket", value), _number("bucket", width)
    if isinstance(number, int) and isinstance(step, int):
        return in_range(number // step * step) if step else 0
    if step == 0:
        return 0.0
    quotient = number / step
    return in_range(math.floor(quotient) * float(step)) if math.isfinite(quotient) else None


def trunc(value: Value) -> Value:
    """trunc(x): toward zero, an int."""
    return None if value is None else in_range(math.trunc(_number("trunc", value)))


def rounded(value: Value, *decimals: Value) -> Value:
    """round(x): an int. round(x, d): of the kind of x. Halves go away from zero on the shortest decimal text."""
    if value is None or (decimals and decimals[0] is None):
        return None
    number = _number("round", value)
    places = _decimals("round", decimals[0], -MOST_DECIMALS) if decimals else 0
    exact = _half_away(number, places)
    if isinstance(number, int) or not decimals:
        return in_range(int(exact))
    # Adding 0.0 turns a negative zero into zero.
    return in_range(float(exact) + 0.0)


def fix(value: Value, decimals: Value) -> str | None:
    """fix(x, d): text with exactly d decimals."""
    if value is None or decimals is None:
        return None
    exact = _half_away(_number("fix", value), _decimals("fix", decimals, 0))
    return format(abs(exact) if exact.is_zero() else exact, "f")


def _decimals(function: str, value: Value, least: int) -> int:
    number = _number(function, value)
    if isinstance(number, float) and not number.is_integer():
        raise RunTimeError(f"{function}() needs a whole number of decimals, not {number}")
    if not least <= number <= MOST_DECIMALS:
        raise RunTimeError(f"{function}() takes {least} to {MOST_DECIMALS} decimals, not {text.to_text(number)}")
    return int(number)


def _half_away(number: int | float, places: int) -> Decimal:
    """A number rounded to decimal places, halves away from zero, on the text that str() shows."""
    # Decimal's HALF_UP looks at the magnitude: half away from zero.
    return Decimal(repr(number)).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, _DECIMALS)


def to_int(value: Value) -> int | float:
    """int(x): truncated; 0 where x is no number. A double beyond 64 bits stays one."""
    number = to_number(value)
    result = in_range(math.trunc(number))
    assert isinstance(result, (int, float))
    return result


def to_float(value: Value) -> float:
    """float(x): 0 where x is no number."""
    return float(to_number(value))


def to_number(value: Value) -> int | float:
    """The number a value converts to, 0 when it does not."""
    if isinstance(value, str):
        number = text.read_number(value)
        return 0 if number is None else number
    if isinstance(value, bool):
        return int(value)
    return value if isinstance(value, (int, float)) else 0


def length(value: Value) -> int:
    """len(x): characters of a text, elements of a container; 0 for None."""
    if value is None:
        return 0
    if isinstance(value, (str, list)):
        return len(value)
    if isinstance(value, (DictValue, SetValue)):
        return len(value.entries)
    raise RunTimeError(f"len() needs text or a container, this is {kind_of(value)}")


def _by_unit(
    function: Callable[..., int | float | None], prefix: str, units: str, **more: tzinfo
) -> dict[str, Function]:
    return {f"{prefix}_{unit}": partial(function, unit, **more) for unit in units.split()}


Function = Callable[..., Value]


@lru_cache(maxsize=64)
def pure_functions(zone: tzinfo = UTC) -> Mapping[str, Function]:
    """Every pure function of names.FUNCTIONS, by name; the date functions in a time zone."""
    return {
        "bucket": bucket,
        "trunc": trunc,
        "round": rounded,
        "fix": fix,
        "int": to_int,
        "float": to_float,
        "str": text.to_text,
        "len": length,
        "list": lambda *elements: list(elements),
        "set": lambda *elements: SetValue.of(elements),
        "dict": lambda: DictValue(),
        "url_decode": text.url_decode,
        **_by_unit(dates.span_in, "to", "seconds minutes hours days weeks"),
        **_by_unit(
            dates.date_part,
            "get",
            "second minute hour day_of_week day_of_month day_of_year month quarter year",
            zone=zone,
        ),
        **_by_unit(dates.interval_start, "date", "second minute hour day week month quarter year", zone=zone),
    }


# ---------------------------------------------------------------- methods

_TEXT_METHODS: dict[str, Function] = {
    "find": text.find,
    "rfind": text.rfind,
    "split": text.split,
    "strip": text.strip,
    "replace": text.replace,
}
_CHANGING_METHODS: dict[str, Function] = {
    "append": containers.append,
    "add": containers.append,
    "update": containers.append,
    "remove": containers.remove,
    "pop": containers.pop,
    "clear": containers.clear,
}


def call_method(target: Value, method: str, arguments: list[Value]) -> Value:
    """target.method(arguments); a container argument must already be a copy. Raises RunTimeError for a wrong target."""
    if method in _TEXT_METHODS:
        if target is None:
            return None
        if isinstance(target, str):
            return _TEXT_METHODS[method](target, *arguments)
        raise RunTimeError(f".{method}() is for text, this is {kind_of(target)}")
    if method == "keys":
        if target is None:
            return None
        if isinstance(target, DictValue):
            return containers.elements_of(target)
        raise RunTimeError(f".keys() is for dicts, this is {kind_of(target)}")
    if isinstance(target, CONTAINERS):
        return _CHANGING_METHODS[method](target, *arguments)
    if target is None:
        raise RunTimeError(f".{method}() of None; assign [], {{}} or set() first")
    raise RunTimeError(f".{method}() is for lists, dicts and sets, this is {kind_of(target)}")
