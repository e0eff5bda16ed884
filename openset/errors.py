"""The one tree of errors OpenSet raises for operating conditions.

Everything a user or an operator can cause is an `OpenSetError`; it carries what the error envelope of the HTTP
interface shows. Programmer errors are assertions, not members of this tree.
"""

from __future__ import annotations

from typing import Any


class OpenSetError(Exception):
    """An operating error: a sentence for the user, and where it applies a detail, a line and a column (1-based)."""

    error_class = "internal"
    status = 400

    def __init__(self, message: str, *, detail: Any = None, line: int | None = None, column: int | None = None):
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.line = line
        self.column = column

    def envelope(self) -> dict[str, Any]:
        """The JSON body of this error: `{"error": {...}}`, without the fields that do not apply."""
        error: dict[str, Any] = {"class": self.error_class, "message": self.message}
        for name in ("detail", "line", "column"):
            value = getattr(self, name)
            if value is not None:
                error[name] = value
        return {"error": error}

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process boundaries with everything they carry."""
        return (_rebuild, (type(self), self.message, self.detail, self.line, self.column))


def _rebuild(kind: type[OpenSetError], message: str, detail: Any, line: int | None, column: int | None) -> OpenSetError:
    return kind(message, detail=detail, line=line, column=column)


class ParseError(OpenSetError):
    """A PyQL script that cannot be compiled. `detail` is the script's line with a caret under the column."""

    error_class = "parse"


class QueryError(OpenSetError):
    """A request that makes no sense for this table: an unknown sort column, person, table."""

    error_class = "query"


class RunTimeError(OpenSetError):
    """A script that failed while it ran: a type error, a budget that was used up."""

    error_class = "run_time"


class BudgetError(RunTimeError):
    """A budget of a whole run, time or visited rows, was used up, whoever of the people needed most of it."""


class ConfigError(OpenSetError):
    """Set-up: the cluster is not initialised, a table exists already, a data directory cannot be used."""

    error_class = "config"


class InsertError(OpenSetError):
    """Events that cannot be inserted. `detail` lists index and reason of the first 20."""

    error_class = "insert"


class InternodeError(OpenSetError):
    """Another node could not be reached or refused."""

    error_class = "internode"


class UnreachableError(InternodeError):
    """The coordinator does not answer, or cannot. Whether a change that was sent is made is not known."""

    status = 503


class AbsentError(UnreachableError):
    """Nobody listens at the address that was asked: the process that should is not running."""


class DamagedError(InternodeError):
    """Files on their way to another node do not hold what was written, though they arrive as they are sent."""


class LeaseLostError(InternodeError):
    """A lease has ended: this node is not held for alive any more, or is not the sentinel any more."""

    status = 503


class ConflictError(InternodeError):
    """Somebody else was first: what was to be changed in the coordinator is not what it was. Nothing was changed."""

    status = 409


class ForbiddenError(InternodeError):
    """A request that only nodes of the cluster may make, from somebody who did not prove to be one."""

    status = 403


class MisdirectedError(InternodeError):
    """A request for another node, or another cluster, than the one that answers at this address. Nothing was done."""

    status = 421


class PartitionsError(InternodeError):
    """Nobody answers for some partitions. `detail` lists them as missing_partitions."""

    status = 503


class LimitError(OpenSetError):
    """A limit of the server was reached (body size, load)."""

    error_class = "limit"
    status = 413


class ReadOnlyError(OpenSetError):
    """The node answers queries only, because its disk is full or has failed."""

    error_class = "limit"
    status = 503


class NoRoomError(OpenSetError):
    """What was asked for takes more room than the disk has left; nothing was begun."""

    error_class = "limit"
    status = 503


class InternalError(OpenSetError):
    """A defect of OpenSet, or of the disk below it."""

    error_class = "internal"
    status = 500


class WireError(InternalError):
    """Another node sent what cannot be understood."""
