"""What PyQL's operators mean for Python values: truth, equality, order, arithmetic, membership.

Values are None, bool, int (64 bits), float (finite), str, list, DictValue and SetValue. Errors are RunTimeErrors
without a position: whoever knows the place in the script adds it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import (
    CONTAINERS,
    DictValue,
    SetValue,
    Value,
    contains,
    kind_of,
    minus,
    plus,
    strictly_equal,
)
from openset.pyql.meaning.text import checked_text, read_number

INT_LEAST = -(1 << 63)
INT_GREATEST = (1 << 63) - 1


def is_true(value: Value) -> bool:
    """Truth as in Python: 0, 0.0, '', None and empty containers are false."""
    if isinstance(value, (DictValue, SetValue)):
        return bool(value.entries)
    return bool(value)


def in_range(number: int | float) -> int | float | None:
    """A number as the language holds it: an int beyond 64 bits becomes a double, a non-finite double None."""
    if isinstance(number, int):
        return int(number) if INT_LEAST <= number <= INT_GREATEST else float(number)
    return number if math.isfinite(number) else None


# ---------------------------------------------------------------- comparisons


def loosely_equal(left: Value, right: Value) -> bool:
    """left == right: by value; True is 1; a text that reads as a number equals that number (but never a bool)."""
    if isinstance(left, CONTAINERS) or isinstance(right, CONTAINERS):
        return strictly_equal(left, right)
    if isinstance(left, str) and isinstance(right, (int, float)):
        return not isinstance(right, bool) and read_number(left) == right
    if isinstance(right, str) and isinstance(left, (int, float)):
        return not isinstance(left, bool) and read_number(right) == left
    return left == right


def ordered(operator: str, left: Value, right: Value) -> bool:
    """left < right and its like. Numbers (bools are 0 and 1) and texts have an order; everything else is false."""
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return _compare(operator, left, right)
    if isinstance(left, str) and isinstance(right, str):
        return _compare(operator, left, right)
    return False


def _compare(operator: str, left: int | float | str, right: int | float | str) -> bool:
    if operator == "<":
        return left < right  # type: ignore[operator]
    if operator == "<=":
        return left <= right  # type: ignore[operator]
    if operator == ">":
        return left > right  # type: ignore[operator]
    assert operator == ">="
    return left >= right  # type: ignore[operator]


# ---------------------------------------------------------------- arithmetic


def arithmetic(operator: str, left: Value, right: Value) -> Value:
    """left operator right for + - * / // %. Containers know + and -, text knows +. Raises RunTimeError otherwise.

    None gives None, except on the right of a container, which takes or drops it like any other element.
    """
    if isinstance(left, CONTAINERS) and operator in ("+", "-"):
        return plus(left, right) if operator == "+" else minus(left, right)
    if left is None or right is None:
        return None
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return in_range(_number_operation(operator, left, right))
    if isinstance(left, str) and isinstance(right, str) and operator == "+":
        return checked_text(left + right)
    raise RunTimeError(_no_such_operation(operator, left, right))


def _number_operation(operator: str, left: int | float, right: int | float) -> int | float:
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        # Division by zero gives 0, of the kind that the division would have had.
        both_int = isinstance(left, int) and isinstance(right, int)
        return 0 if both_int and operator != "/" else 0.0
    if operator == "/":
        # On doubles, also for two ints, as the vectorised form divides.
        return float(left) / float(right)
    if operator == "//":
        return left // right
    assert operator == "%"
    return left % right


def _no_such_operation(operator: str, left: Value, right: Value) -> str:
    message = f"{kind_of(left)} {operator} {kind_of(right)} is not possible"
    if operator == "+" and isinstance(left, str):
        return message + "; str(x) turns a value into text"
    if operator == "+" and isinstance(right, str):
        return message + "; str(x) turns a value into text, int(x) or float(x) text into a number"
    if isinstance(left, str) or isinstance(right, str):
        return message + "; int(x) or float(x) turns text into a number"
    return message


def negated(value: Value) -> Value:
    """-value"""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return in_range(-value)
    raise RunTimeError(f"- needs a number, this is {kind_of(value)}")


def unchanged(value: Value) -> Value:
    """+value: the number itself (True becomes 1)."""
    if value is None:
        return None
    if isinstance(value, (int, float)):
        return +value
    raise RunTimeError(f"+ needs a number, this is {kind_of(value)}")


def _arithmetic_operation(operator: str) -> Callable[[Value, Value], Value]:
    return lambda left, right: arithmetic(operator, left, right)


def _order_operation(operator: str) -> Callable[[Value, Value], Value]:
    return lambda left, right: ordered(operator, left, right)


# `and` and `or` are not here: they do not always evaluate their right side.
BINARY_OPERATIONS: dict[str, Callable[[Value, Value], Value]] = {
    **{operator: _arithmetic_operation(operator) for operator in ("+", "-", "*", "/", "//", "%")},
    **{operator: _order_operation(operator) for operator in ("<", "<=", ">", ">=")},
    "==": loosely_equal,
    "!=": lambda left, right: not loosely_equal(left, right),
    "in": lambda item, container: contains(container, item),
    "not in": lambda item, container: not contains(container, item),
}
