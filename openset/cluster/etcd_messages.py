"""What is said to etcd's JSON gateway (version 3 of its API) and what its answers mean. No I/O.

The gateway writes 64-bit numbers as text, bytes in base64, and leaves out what is zero or empty.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, TypeVar

import msgspec

from openset.cluster.keeper import (
    Change,
    Changes,
    Commit,
    CompactedError,
    Contents,
    Expected,
    Item,
    Lease,
    LeaseId,
    Refused,
    Revision,
)
from openset.errors import ConfigError, LeaseLostError, UnreachableError

Value = TypeVar("Value")

RANGE = "/v3/kv/range"
TRANSACTION = "/v3/kv/txn"
GRANT = "/v3/lease/grant"
KEEP_ALIVE = "/v3/lease/keepalive"
REVOKE = "/v3/lease/revoke"
WATCH = "/v3/watch"
AUTHENTICATE = "/v3/auth/authenticate"

# Makes a member that has lost the others end a watch, instead of leaving it without news.
WATCH_HEADERS = {"Grpc-Metadata-Hasleader": "true"}

_INVALID_ARGUMENT, _NOT_FOUND, _PERMISSION_DENIED, _UNAUTHENTICATED = 3, 5, 7, 16
_NO_AUTHENTICATION = "authentication is not enabled"
_WRONG_PASSWORD = "authentication failed"
# The token is too old, or there was none because authentication was not enabled until now.
_NEEDS_TOKEN = ("invalid auth token", "user name is empty", "revision of auth store is old", "auth token is not")


class TokenNeededError(Exception):
    """The request was refused, and not carried out, because it needs a token or another one."""


class AuthenticationOffError(Exception):
    """There are no passwords at this etcd."""


class _KeyValue(msgspec.Struct):
    key: bytes
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0

    @property
    def item(self) -> Item:
        return Item(self.value, self.create_revision, self.mod_revision, self.lease)


class _Header(msgspec.Struct):
    revision: int = 0


class _Range(msgspec.Struct):
    header: _Header
    kvs: list[_KeyValue] = []


class _Operation(msgspec.Struct):
    response_range: _Range | None = None


class _Transaction(msgspec.Struct):
    header: _Header
    succeeded: bool = False
    responses: list[_Operation] = []


class _Lease(msgspec.Struct, rename={"lease": "ID", "ttl": "TTL"}):
    lease: int = 0
    ttl: int = 0


class _KeptAlive(msgspec.Struct):
    result: _Lease


class _Event(msgspec.Struct):
    kv: _KeyValue
    type: str = "PUT"


class _Watched(msgspec.Struct):
    header: _Header = msgspec.field(default_factory=_Header)
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[_Event] = []


class _Error(msgspec.Struct):
    message: str = ""
    error: Any = None
    code: int | None = None
    grpc_code: int | None = None


class _WatchLine(msgspec.Struct):
    result: _Watched | None = None
    error: _Error | None = None


class _Token(msgspec.Struct):
    token: str


class Keys:
    """Keys of this cluster among those of others: all of them begin with a prefix."""

    def __init__(self, prefix: str):
        self._start = f"{prefix}/".encode("ascii")

    def encode(self, key: str) -> str:
        return _text(self._start + key.encode("ascii"))

    def decode(self, key: bytes) -> str:
        """Raises ValueError for what is not of this cluster."""
        if not key.startswith(self._start):
            raise ValueError(f"etcd answers with a key that was not asked for: {key!r}")
        return key.removeprefix(self._start).decode("ascii", "backslashreplace")

    @property
    def all(self) -> dict[str, str]:
        """The range of all of them."""
        return {"key": _text(self._start), "range_end": _text(self._start[:-1] + bytes([self._start[-1] + 1]))}


# ---------------------------------------------------------------- requests


def range_of_all(keys: Keys) -> bytes:
    return msgspec.json.encode(keys.all)


def range_of_one(keys: Keys, key: str) -> bytes:
    return msgspec.json.encode({"key": keys.encode(key)})


def transaction(keys: Keys, commit: Commit) -> bytes:
    """All or nothing; when it is nothing, the answer has the items of the conditions."""
    compare = [each for condition in commit.conditions for each in _compared(keys, condition)]
    success = [_operation(keys, change) for change in commit.changes]
    failure = [{"request_range": {"key": keys.encode(condition.key)}} for condition in commit.conditions]
    return msgspec.json.encode({"compare": compare, "success": success, "failure": failure})


def grant(ttl_ms: int) -> bytes:
    """Whole seconds, rounded up."""
    return msgspec.json.encode({"TTL": str(-(-ttl_ms // 1_000))})


def lease_named(lease: LeaseId) -> bytes:
    """To keep it alive, or to revoke it."""
    return msgspec.json.encode({"ID": str(lease)})


def watch(keys: Keys, after: Revision) -> bytes:
    return msgspec.json.encode(
        {"create_request": {**keys.all, "start_revision": str(after + 1), "progress_notify": True}}
    )


def authenticate(user: str, password: str) -> bytes:
    return msgspec.json.encode({"name": user, "password": password})


def _compared(keys: Keys, condition: Expected) -> list[dict[str, str]]:
    common = {"key": keys.encode(condition.key), "result": "EQUAL"}
    compared = []
    if condition.revision is not None:
        compared.append({**common, "target": "MOD", "mod_revision": str(condition.revision)})
    if condition.created is not None:
        compared.append({**common, "target": "CREATE", "create_revision": str(condition.created)})
    return compared


def _operation(keys: Keys, change: Change) -> dict[str, dict[str, str]]:
    key = keys.encode(change.key)
    if change.value is None:
        return {"request_delete_range": {"key": key}}
    return {"request_put": {"key": key, "value": _text(change.value), "lease": str(change.lease)}}


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


# ---------------------------------------------------------------- answers; all raise ValueError for what is none


def contents(keys: Keys, body: bytes) -> Contents:
    answer = _decoded(body, _Range)
    return Contents(answer.header.revision, {keys.decode(each.key): each.item for each in answer.kvs})


def committed(keys: Keys, commit: Commit, body: bytes) -> Revision | Refused:
    answer = _decoded(body, _Transaction)
    if answer.succeeded:
        return answer.header.revision
    found: dict[str, Item | None] = dict.fromkeys(condition.key for condition in commit.conditions)
    for operation in answer.responses:
        for each in [] if operation.response_range is None else operation.response_range.kvs:
            found[keys.decode(each.key)] = each.item
    return Refused(answer.header.revision, found)


def granted(body: bytes) -> Lease:
    answer = _decoded(body, _Lease)
    if not answer.lease or answer.ttl <= 0:
        raise ValueError("etcd grants a lease without a number or without time")
    return Lease(answer.lease, answer.ttl * 1_000)


def kept_alive(body: bytes) -> int:
    """The time it has again, in ms. Raises LeaseLostError when the lease has ended."""
    ttl_seconds = _decoded(body, _KeptAlive).result.ttl
    if ttl_seconds <= 0:
        raise LeaseLostError("the lease has ended")
    return ttl_seconds * 1_000


def token(body: bytes) -> str:
    found = _decoded(body, _Token).token
    if not found or not found.isascii() or not found.isprintable():
        raise ValueError("etcd gives a token that is none")
    return found


class WatchReader:
    """Lines of a watch. after: up to where changes have been told."""

    def __init__(self, keys: Keys, after: Revision):
        self._keys = keys
        self.after = after

    def read(self, line: bytes) -> Changes | None:
        """Changes; None for a line that tells of none. Raises what the end of a watch means, or CompactedError."""
        told = _decoded(line, _WatchLine)
        if told.error is not None:
            raise failure(_code(told.error), told.error.message)
        if told.result is None:
            raise ValueError("etcd tells nothing")
        watched = told.result
        if watched.canceled:
            raise _watch_ended(watched)
        if not watched.events:
            # While it catches up, etcd names revisions ahead of the events it has sent; only without events, and not
            # when the watch begins, everything up to that revision has been told.
            if not watched.created:
                self.after = max(self.after, watched.header.revision)
            return None
        items: dict[str, Item | None] = {}
        for event in watched.events:
            items[self._keys.decode(event.kv.key)] = None if event.type == "DELETE" else event.kv.item
        self.after = max(self.after, watched.events[-1].kv.mod_revision)
        return Changes(self.after, items)


def refusal(status: int, body: bytes) -> Exception:
    """What an answer that is no success means."""
    try:
        answer = _decoded(body, _Error)
    except ValueError:
        if status == 400 and b"CommonName" in body:
            return ConfigError(
                "etcd with users takes no certificate of a client that has a common name: use one whose names are in "
                "subjectAltName only"
            )
        return UnreachableError(f"it answers with HTTP status {status}: {body[:100].decode('ascii', 'replace')}")
    return failure(answer.code, answer.message or str(answer.error))


def failure(code: int | None, message: str) -> Exception:
    """What an error of etcd means, from its gRPC code and its text."""
    text = message.removeprefix("etcdserver: ")
    if _NO_AUTHENTICATION in message:
        return AuthenticationOffError(message)
    if code == _UNAUTHENTICATED or any(each in message for each in _NEEDS_TOKEN):
        return TokenNeededError(message)
    if _WRONG_PASSWORD in message:
        return ConfigError("etcd refuses the user or the password")
    if code == _PERMISSION_DENIED or "permission denied" in message:
        return ConfigError(f"etcd does not let this user do that: {text}")
    if code == _NOT_FOUND and "lease not found" in message:
        return LeaseLostError("the lease has ended")
    if code == _INVALID_ARGUMENT:
        return ConfigError(f"etcd refuses a request: {text}")
    return UnreachableError(f"it says: {text}")


def _watch_ended(watched: _Watched) -> Exception:
    if watched.compact_revision:
        return CompactedError()
    return failure(None, watched.cancel_reason or "the watch was ended")


def _code(error: _Error) -> int | None:
    return error.grpc_code if error.code is None else error.code


def _decoded(body: bytes, kind: type[Value]) -> Value:
    try:
        return msgspec.json.decode(body, type=kind, strict=False)
    except msgspec.DecodeError as error:
        raise ValueError(f"etcd's answer cannot be read: {error}") from error
