"""A request body to events: a JSON array, or newline-delimited JSON.

The fast decoder takes well-formed events only. When it refuses, the body is read again generically to say which events
are bad and why; when that fails too, the body is no JSON. The price of a bad body is that second and third reading.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec

from openset.errors import InsertError
from openset.store.expand import BadEvent, is_text, shown
from openset.store.stamps import BadStamp, parse_stamp

_KEYS = frozenset({"person", "stamp", "action", "attr"})
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as sent. No stamp means now. Attributes are unchecked."""

    person: str | int
    action: str
    stamp: int | float | str | None = None
    attr: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """A bad event: its position in the request (from 0) and the reason."""

    index: int
    reason: str


@dataclass(slots=True)
class Decoded:
    """Events of a request with their positions in it, and the events that are none.

    checked: every text and number was looked at one by one, because a decoder read them that lets more pass.
    """

    events: list[Event]
    indices: list[int] | None
    problems: list[Problem]
    checked: bool = False

    def index_of(self, event: int) -> int:
        """The position in the request of an event of the list."""
        return event if self.indices is None else self.indices[event]


_array_decoder = msgspec.json.Decoder(list[Event])
_event_decoder = msgspec.json.Decoder(Event)
_REFUSALS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_body(body: bytes, newline_delimited: bool = False) -> Decoded:
    """The events of a body. Raises InsertError when it is not what it should be."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        if newline_delimited:
            return Decoded(_event_decoder.decode_lines(body), None, [])
        return Decoded(_array_decoder.decode(body), None, [])
    except _REFUSALS:
        return _sort_out_lines(body) if newline_delimited else sort_out(_read_array(body))


def _read_array(body: bytes) -> list[Any]:
    """The elements of the array, NaN and lone surrogates included, which Python's own decoder lets pass."""
    if not body.strip():
        raise InsertError("the body is empty; it must be a JSON array of events")
    try:
        found = json.loads(body)
    except RecursionError:
        raise InsertError("the body is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise InsertError(f"the body is not UTF-8: {error.reason} (byte {error.start})") from None
    except ValueError as error:
        raise InsertError(f"the body is not JSON: {error}") from None
    if not isinstance(found, list):
        raise InsertError("the body must be a JSON array of events")
    return found


def sort_out(elements: Iterable[Any]) -> Decoded:
    """The events of decoded elements, each looked at one by one. A BadEvent stands for one that could not be read."""
    decoded = Decoded([], [], [], checked=True)
    for index, element in enumerate(elements):
        _add(decoded, index, partial(_event, element))
    return decoded


def _sort_out_lines(body: bytes) -> Decoded:
    decoded = Decoded([], [], [], checked=True)
    for index, line in enumerate(line for line in body.split(b"\n") if line.strip()):
        _add(decoded, index, partial(_line_event, line))
    return decoded


def _line_event(line: bytes) -> Event:
    try:
        element = json.loads(line)
    except RecursionError:
        raise BadEvent("the line is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise BadEvent(f"the line is not UTF-8: {error.reason} (byte {error.start})") from None
    except ValueError as error:
        raise BadEvent(f"the line is not JSON: {error}") from None
    return _event(element)


def _add(decoded: Decoded, index: int, read: Callable[[], Event]) -> None:
    assert decoded.indices is not None
    try:
        event = read()
        check_event(event)
    except BadEvent as bad:
        decoded.problems.append(Problem(index, str(bad)))
    else:
        decoded.events.append(event)
        decoded.indices.append(index)


def _event(element: Any) -> Event:
    if isinstance(element, BadEvent):
        raise element
    if not isinstance(element, dict):
        raise BadEvent("an event must be a JSON object")
    for key in element:
        if key not in _KEYS:
            raise BadEvent(f"unknown key {shown(key)}; an event has person, stamp, action and attr")
    return Event(_person(element), _action(element), element.get("stamp"), _attr(element))


def _person(element: Mapping[str, Any]) -> str | int:
    person = element.get("person")
    if person is None:
        raise BadEvent("person is missing")
    if isinstance(person, bool) or not isinstance(person, str | int):
        raise BadEvent("person must be text or an int")
    return person


def _action(element: Mapping[str, Any]) -> str:
    action = element.get("action")
    if action is None:
        raise BadEvent("action is missing")
    if not isinstance(action, str):
        raise BadEvent("action must be text")
    return action


def _attr(element: Mapping[str, Any]) -> dict[str, Any] | None:
    attr = element.get("attr")
    if attr is not None and not isinstance(attr, dict):
        raise BadEvent("attr must be a JSON object")
    return attr


def check_event(event: Event) -> None:
    """Person, action and stamp of an event of the right types. Raises BadEvent."""
    if isinstance(event.person, str):
        if not event.person:
            raise BadEvent("person is empty")
        if not is_text(event.person):
            raise BadEvent("person has half of a surrogate pair, which is no character")
    elif not -(2**63) <= event.person < 2**63:
        raise BadEvent("person is an int beyond 64 bits")
    if not event.action:
        raise BadEvent("action is empty")
    if not is_text(event.action):
        raise BadEvent("action has half of a surrogate pair, which is no character")
    if event.stamp is not None:
        try:
            parse_stamp(event.stamp)
        except BadStamp as bad:
            raise BadEvent(str(bad)) from None
