"""Every failure as the one JSON envelope: operating errors, wrong routes and methods, and defects."""

from __future__ import annotations

from types import TracebackType

import msgspec
from tornado.web import HTTPError

from openset.errors import InternalError, OpenSetError, QueryError

ExceptionInfo = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]


class RouteError(QueryError):
    """Nothing answers at this address."""

    status = 404


class MethodError(QueryError):
    """The address is right, the method is not."""

    status = 405


class UnavailableError(OpenSetError):
    """The daemon cannot take requests at the moment."""

    error_class = "limit"
    status = 503


def as_error(raised: BaseException | None, status: int) -> OpenSetError:
    """What the client is told about an exception that reached the handler's edge.

    Tornado's own HTTPErrors (undecodable addresses, unsupported methods) keep their status; anything that is not an
    operating error is a defect, and its text stays in the log.
    """
    if isinstance(raised, OpenSetError):
        return raised
    if isinstance(raised, HTTPError) and raised.status_code < 500:
        error: OpenSetError = QueryError(raised.log_message or raised.reason or "the request cannot be understood")
        error.status = raised.status_code
        return error
    error = InternalError("an unexpected error, a defect of OpenSet; the daemon's log has the details")
    error.status = status if status >= 500 else 500
    return error


def encode_error(error: OpenSetError) -> bytes:
    """The envelope as JSON. Details that are no JSON values are shown as text."""
    return msgspec.json.encode(error.envelope(), enc_hook=str)
