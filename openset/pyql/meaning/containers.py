"""Lists, dicts and sets of PyQL: strict keys, copies, and what the operators and methods do to them.

A list is a Python list. Dicts and sets are small classes of their own because their keys are stricter than Python's:
`True`, `1` and `"1"` are three keys, `1` and `1.0` are one. Assignment and calls copy containers (`copy_value`), so
that two variables never share one; everything here that takes a container to put inside another expects a copy.
Element and key comparison is strict everywhere: the loose text/number equality is for `==` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from openset.errors import RunTimeError

CONTAINER_DEPTH_LIMIT = 64
# What an element is taken to cost in memory: a slot, its share of the hash table and a boxed number.
ELEMENT_BYTES = 96


class BoolKey:
    """Stands for True or False as a key, since Python takes True and 1 for the same key."""

    __slots__ = ("value",)

    def __init__(self, value: bool):
        self.value = value


_TRUE = BoolKey(True)
_FALSE = BoolKey(False)

Key = str | int | float | BoolKey | None


class DictValue:
    """A dict, in insertion order. entries: by strict key."""

    __slots__ = ("entries",)

    def __init__(self, entries: dict[Key, Value] | None = None):
        self.entries: dict[Key, Value] = {} if entries is None else entries


class SetValue:
    """A set, in insertion order. entries: strict key → None."""

    __slots__ = ("entries",)

    def __init__(self, entries: dict[Key, None] | None = None):
        self.entries: dict[Key, None] = {} if entries is None else entries

    @classmethod
    def of(cls, values: Iterable[Value]) -> SetValue:
        """From values; the elements of a container among them become elements, since sets cannot nest."""
        made = cls()
        for value in values:
            add_to_set(made, value)
        return made


Scalar = str | int | float | bool | None
Container = list[Any] | DictValue | SetValue
Value = Scalar | list[Any] | DictValue | SetValue
CONTAINERS = (list, DictValue, SetValue)


def kind_of(value: Value) -> str:
    """The kind of a value as messages name it."""
    if value is None:
        return "None"
    if isinstance(value, bool):
        return "a bool"
    if isinstance(value, str):
        return "text"
    if isinstance(value, (int, float)):
        return "a number"
    return {list: "a list", DictValue: "a dict", SetValue: "a set"}[type(value)]


# ---------------------------------------------------------------- keys and strict equality


def key_of(value: Value) -> Key:
    """The strict key of a value. Raises RunTimeError for a container."""
    if value is True:
        return _TRUE
    if value is False:
        return _FALSE
    if isinstance(value, CONTAINERS):
        raise RunTimeError(f"{kind_of(value)} cannot be a key of a dict or an element of a set")
    return value


def value_of(key: Key) -> Scalar:
    """The value a strict key was made from."""
    return key.value if isinstance(key, BoolKey) else key


def strictly_equal(left: Value, right: Value) -> bool:
    """Equality of elements: 1 and 1.0 are equal, True and 1 are not, text never equals a number."""
    if isinstance(left, CONTAINERS) or isinstance(right, CONTAINERS):
        return _containers_equal(left, right)
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return left == right


def _containers_equal(left: Value, right: Value) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(strictly_equal(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, SetValue) and isinstance(right, SetValue):
        return left.entries.keys() == right.entries.keys()
    if isinstance(left, DictValue) and isinstance(right, DictValue):
        if left.entries.keys() != right.entries.keys():
            return False
        return all(strictly_equal(value, right.entries[key]) for key, value in left.entries.items())
    return False


# ---------------------------------------------------------------- copies and sizes


def copy_value(value: Value, hold: Callable[[int], None]) -> Value:
    """A value that shares no container with another. `hold` is told the bytes of every container as it is copied.

    Raises RunTimeError for containers nested deeper than CONTAINER_DEPTH_LIMIT, and what `hold` raises.
    """
    if isinstance(value, CONTAINERS):
        return _copy(value, hold, 1)
    return value


def _copy(value: Container, hold: Callable[[int], None], depth: int) -> Container:
    check_depth(depth)
    hold(shallow_bytes(value))
    if isinstance(value, SetValue):
        return SetValue(dict(value.entries))
    if isinstance(value, DictValue):
        entries = {
            key: _copy(held, hold, depth + 1) if isinstance(held, CONTAINERS) else held
            for key, held in value.entries.items()
        }
        return DictValue(entries)
    return [_copy(held, hold, depth + 1) if isinstance(held, CONTAINERS) else held for held in value]


def check_depth(depth: int) -> None:
    """depth: 1 for a container that is in no other. Raises RunTimeError."""
    if depth > CONTAINER_DEPTH_LIMIT:
        raise RunTimeError(f"containers are nested deeper than {CONTAINER_DEPTH_LIMIT}")


def shallow_bytes(value: Container) -> int:
    """An estimate of the memory of a container and the texts in it, without the containers it holds."""
    if isinstance(value, list):
        texts = sum(len(held) for held in value if isinstance(held, str))
        return ELEMENT_BYTES * (1 + len(value)) + texts
    texts = sum(len(key) for key in value.entries if isinstance(key, str))
    if isinstance(value, DictValue):
        texts += sum(len(held) for held in value.entries.values() if isinstance(held, str))
    return ELEMENT_BYTES * (1 + len(value.entries)) + texts


def deep_bytes(value: Value) -> int:
    """An estimate of the memory of a value with everything in it."""
    if isinstance(value, list):
        return shallow_bytes(value) + sum(deep_bytes(held) for held in value if isinstance(held, CONTAINERS))
    if isinstance(value, DictValue):
        inner = sum(deep_bytes(held) for held in value.entries.values() if isinstance(held, CONTAINERS))
        return shallow_bytes(value) + inner
    if isinstance(value, SetValue):
        return shallow_bytes(value)
    return len(value) if isinstance(value, str) else 0


# ---------------------------------------------------------------- operators


def elements_of(value: Value) -> list[Any]:
    """What a value contributes to `container + value`: elements, the keys of a dict, or the scalar itself."""
    if isinstance(value, list):
        return value
    if isinstance(value, (DictValue, SetValue)):
        return [value_of(key) for key in value.entries]
    return [value]


def plus(container: Container, value: Value) -> Container:
    """container + value, a new container. Raises RunTimeError for a dict plus anything but a dict."""
    made = _shallow_copy(container)
    add_into(made, value)
    return made


def minus(container: Container, value: Value) -> Container:
    """container - value, a new container."""
    made = _shallow_copy(container)
    subtract_from(made, value)
    return made


def _shallow_copy(container: Container) -> Container:
    if isinstance(container, list):
        return list(container)
    if isinstance(container, DictValue):
        return DictValue(dict(container.entries))
    return SetValue(dict(container.entries))


def add_into(container: Container, value: Value) -> None:
    """container += value: a list or set takes the elements, a dict the entries of a dict."""
    if isinstance(container, list):
        container.extend(elements_of(value))
    elif isinstance(container, SetValue):
        add_to_set(container, value)
    elif isinstance(value, DictValue):
        container.entries.update(value.entries)
    else:
        raise RunTimeError(
            f"only a dict can be added to a dict, this is {kind_of(value)}; to set one entry: d[key] = v"
        )


def add_to_set(container: SetValue, value: Value) -> None:
    """Adds a scalar, or every element of a container."""
    if isinstance(value, (DictValue, SetValue)):
        container.entries.update(dict.fromkeys(value.entries))
    else:
        for element in elements_of(value):
            container.entries[key_of(element)] = None


def subtract_from(container: Container, value: Value) -> None:
    """container -= value: drops every element equal to one of the value's, or those keys. Missing ones do not count."""
    unwanted = elements_of(value)
    if not isinstance(container, list):
        for element in unwanted:
            if not isinstance(element, CONTAINERS):
                container.entries.pop(key_of(element), None)
        return
    scalars = {key_of(element) for element in unwanted if not isinstance(element, CONTAINERS)}
    nested = [element for element in unwanted if isinstance(element, CONTAINERS)]

    def is_wanted(element: Value) -> bool:
        if isinstance(element, CONTAINERS):
            return not any(strictly_equal(element, other) for other in nested)
        return key_of(element) not in scalars

    container[:] = [element for element in container if is_wanted(element)]


def contains(container: Value, item: Value) -> bool:
    """item in container: an element, a key, a substring. Nothing is in None. Raises RunTimeError for other scalars."""
    if container is None:
        return False
    if isinstance(container, str):
        return isinstance(item, str) and item in container
    if isinstance(container, list):
        return any(strictly_equal(element, item) for element in container)
    if isinstance(container, (DictValue, SetValue)):
        return not isinstance(item, CONTAINERS) and key_of(item) in container.entries
    raise RunTimeError(f"`in` needs a list, set, dict or text on its right side, this is {kind_of(container)}")


# ---------------------------------------------------------------- elements


def position_of(index: Value) -> int:
    """An index of a list or text as an int. Raises RunTimeError unless it is a whole number."""
    if isinstance(index, int):
        return int(index)
    if isinstance(index, float) and index.is_integer():
        return int(index)
    shown = str(index) if isinstance(index, float) else kind_of(index)
    raise RunTimeError(f"an index into a list or text must be a whole number, this is {shown}")


def element(container: Value, index: Value) -> Value:
    """container[index]; None for what is missing. Raises RunTimeError for values without elements."""
    if container is None:
        return None
    if isinstance(container, DictValue):
        return container.entries.get(key_of(index))
    if isinstance(container, (list, str)):
        if index is None:
            return None
        position = position_of(index)
        if -len(container) <= position < len(container):
            found: Value = container[position]
            return found
        return None
    raise RunTimeError(f"{kind_of(container)} has no elements to index")


def set_element(container: Value, index: Value, value: Value) -> None:
    """container[index] = value. Raises RunTimeError where a list has no such element or there is no container."""
    if isinstance(container, DictValue):
        container.entries[key_of(index)] = value
    elif isinstance(container, list):
        position = position_of(index)
        if not -len(container) <= position < len(container):
            raise RunTimeError(
                f"the list has no element at {position}, its length is {len(container)}; use .append() to add one"
            )
        container[position] = value
    elif container is None:
        raise RunTimeError("cannot set an element of None; assign a list or dict first")
    else:
        raise RunTimeError(f"cannot set an element of {kind_of(container)}")


def delete_element(container: Value, index: Value) -> None:
    """del container[index]; nothing happens where it is missing."""
    if container is None:
        return
    if isinstance(container, DictValue):
        container.entries.pop(key_of(index), None)
    elif isinstance(container, list):
        if index is None:
            return
        position = position_of(index)
        if -len(container) <= position < len(container):
            del container[position]
    else:
        raise RunTimeError(f"cannot delete an element of {kind_of(container)}; use .remove()")


def slice_of(container: Value, start: Value, stop: Value) -> Value:
    """container[start:stop] of a list or text, ends as in Python; None stands for a missing end."""
    if container is None:
        return None
    if not isinstance(container, (list, str)):
        raise RunTimeError(f"only lists and text have slices, this is {kind_of(container)}")
    first = None if start is None else position_of(start)
    last = None if stop is None else position_of(stop)
    return container[first:last]


def loop_values(value: Value) -> list[Any]:
    """What `for v in value` visits: elements, keys, characters; nothing for None."""
    if value is None:
        return []
    if isinstance(value, str):
        return list(value)
    if isinstance(value, CONTAINERS):
        return elements_of(value)
    raise RunTimeError(f"`for` needs a list, set or dict, this is {kind_of(value)}")


def loop_pairs(value: Value) -> list[tuple[Any, Any]]:
    """What `for k, v in value` visits: the entries of a dict, or a list of lists of two elements."""
    if value is None:
        return []
    if isinstance(value, DictValue):
        return [(value_of(key), held) for key, held in value.entries.items()]
    if isinstance(value, list):
        for held in value:
            if not isinstance(held, list) or len(held) != 2:
                raise RunTimeError("`for k, v in` needs a dict or a list of lists of two elements")
        return [(held[0], held[1]) for held in value]
    raise RunTimeError(f"`for k, v in` needs a dict, this is {kind_of(value)}")


# ---------------------------------------------------------------- methods


def append(container: Container, value: Value) -> None:
    """.append/.add/.update: a list nests the value, a set takes its elements, a dict its entries."""
    if isinstance(container, list):
        container.append(value)
    else:
        add_into(container, value)


def remove(container: Container, value: Value) -> None:
    """.remove: the first equal element, an element of a set, a key of a dict; nothing when missing."""
    if isinstance(container, list):
        for position, held in enumerate(container):
            if strictly_equal(held, value):
                del container[position]
                return
    elif not isinstance(value, CONTAINERS):
        container.entries.pop(key_of(value), None)


def pop(container: Container) -> Value:
    """.pop(): the last element, taken out; of a dict [key, value]; None when empty."""
    if isinstance(container, list):
        last: Value = container.pop() if container else None
        return last
    if not container.entries:
        return None
    if isinstance(container, DictValue):
        key, value = container.entries.popitem()
        return [value_of(key), value]
    return value_of(container.entries.popitem()[0])


def clear(container: Container) -> None:
    """.clear()"""
    if isinstance(container, list):
        container.clear()
    else:
        container.entries.clear()
