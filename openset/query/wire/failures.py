"""Errors that a query of a batch ended with, as bytes: another query's results stand beside them."""

from __future__ import annotations

from typing import Any

import msgspec

from openset import errors
from openset.errors import InternalError, OpenSetError

_KINDS = {
    kind.__name__: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, OpenSetError) and kind is not OpenSetError
}


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """An error by the name of its class; detail: what msgpack can hold."""

    kind: str
    message: str
    detail: Any = None
    line: int | None = None
    column: int | None = None


def packed_error(error: OpenSetError) -> Failure:
    """An error as it is sent; one of a layer above is sent as what it is for clients: its class of errors."""
    kind = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS), InternalError.__name__)
    detail = error.detail if isinstance(error.detail, str | int | float | list | dict) else None
    return Failure(kind, error.message, detail, error.line, error.column)


def unpacked_error(failure: Failure) -> OpenSetError:
    """The error, in its class where this version knows that."""
    kind = _KINDS.get(failure.kind, InternalError)
    return kind(failure.message, detail=failure.detail, line=failure.line, column=failure.column)
