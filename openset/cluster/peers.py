"""Requests to other nodes: whom they are for, what proves who asks, and their errors as members of the error tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

import openset.errors as errors
from openset.cluster.keeper import Revision
from openset.cluster.kept_alive import Channel, Received
from openset.cluster.map import NodeName
from openset.cluster.security import Security
from openset.errors import ForbiddenError, InternodeError, OpenSetError, UnreachableError

ROUTES = "/v1/internode/"
# Of what nodes say to each other; nodes of different versions do not talk.
PROTOCOL = "1"

PROTOCOL_HEADER = "OpenSet-Protocol"
CLUSTER_HEADER = "OpenSet-Cluster"
FROM_HEADER = "OpenSet-From"
TO_HEADER = "OpenSet-To"
NODE_HEADER = "OpenSet-Node"
PROCESS_HEADER = "OpenSet-Process"
REVISION_HEADER = "OpenSet-Revision"
ERROR_HEADER = "OpenSet-Error"


class Address(NamedTuple):
    """Where a node is reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Reply(NamedTuple):
    """What a node answered. node: its name, empty where it has none yet. process: tells two of one name apart."""

    node: NodeName
    body: bytes
    process: str


class Peers:
    """The other nodes. Several requests to one node may run at one time; connections are kept."""

    def __init__(
        self,
        security: Security,
        node: NodeName = "",
        cluster: str = "",
        address_of: Callable[[NodeName], Address | None] = lambda node: None,
        revision: Callable[[], Revision] = lambda: 0,
    ):
        """node, cluster: of the one who asks, empty outside of a cluster.  revision: of its view, sent along."""
        self._security = security
        self._node = node
        self._cluster = cluster
        self._address_of = address_of
        self._revision = revision
        self._channels: dict[Address, Channel] = {}

    def close(self) -> None:
        """Requests that run go on."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    async def call(self, node: NodeName, route: str, body: bytes = b"", *, timeout_ms: int) -> bytes:
        """POST /v1/internode/{route} to a member; its answer.

        Raises UnreachableError (no connection, time is up, not the node that was meant: then nobody knows whether the
        request was carried out), or the error with which the other node answered: same class, message and detail.
        """
        return (await self.ask(self._found(node), route, body, to=node, timeout_ms=timeout_ms)).body

    async def ask(
        self,
        address: Address,
        route: str,
        body: bytes = b"",
        *,
        to: NodeName = "",
        timeout_ms: int,
        method: str = "POST",
    ) -> Reply:
        """`call` for a node that may be no member, by its address. to: its name where that is known."""
        path = ROUTES + route
        headers = self._headers(path, address, to)
        received = await self._channel(address).ask(method, path, headers, body, timeout_ms)
        return self._reply(address, to, headers, received)

    def _found(self, node: NodeName) -> Address:
        address = self._address_of(node)
        if address is None:
            raise UnreachableError(f"{node} is no member of the cluster")
        return address

    def _channel(self, address: Address) -> Channel:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = Channel(address.host, address.port, self._security)
        return channel

    def _headers(self, path: str, address: Address, to: NodeName) -> dict[str, str]:
        headers = {
            PROTOCOL_HEADER: PROTOCOL,
            CLUSTER_HEADER: self._cluster,
            FROM_HEADER: self._node,
            TO_HEADER: to,
            REVISION_HEADER: str(self._revision()),
        }
        return headers | self._security.request_headers(path, address.port)

    def _reply(self, address: Address, to: NodeName, sent: Mapping[str, str], received: Received) -> Reply:
        protocol = received.headers.get(PROTOCOL_HEADER.lower())
        if protocol is None:
            raise UnreachableError(f"what answers at {address} is no node of OpenSet")
        if not self._security.is_proved(sent, received.headers):
            if received.status == ForbiddenError.status:
                raise ForbiddenError(f"{address} refuses: {_envelope(received.body).get('message')}")
            raise UnreachableError(f"what answers at {address} does not know the secret of the cluster")
        if protocol != PROTOCOL:
            raise UnreachableError(f"{address} runs another version of OpenSet: it speaks {protocol}, not {PROTOCOL}")
        node = received.headers.get(NODE_HEADER.lower(), "")
        if received.status != 200:
            raise _rebuilt(received, f"{to or address}")
        if to and node != to:
            raise UnreachableError(f"{address} is {node or 'no member'}, not {to}")
        return Reply(node, received.body, received.headers.get(PROCESS_HEADER.lower(), ""))


def error_name(error: OpenSetError) -> str:
    """How an answer names the class of an error, so that the one who asked raises the same."""
    return type(error).__name__


def _envelope(body: bytes) -> dict[str, Any]:
    try:
        envelope: dict[str, Any] = msgspec.json.decode(body, type=dict[str, dict[str, Any]])["error"]
    except (msgspec.DecodeError, KeyError, UnicodeDecodeError, RecursionError):
        return {}
    return envelope


def _rebuilt(received: Received, who: str) -> OpenSetError:
    """The error of an answer. What is no member of the tree here is one of the class and status it says."""
    envelope = _envelope(received.body)
    message = envelope.get("message")
    if not isinstance(message, str):
        return UnreachableError(f"{who} answers with status {received.status} and no reason")
    kind = getattr(errors, received.headers.get(ERROR_HEADER.lower(), ""), None)
    if kind is errors.AbsentError:  # whoever it means, the one that was asked is there
        kind = UnreachableError
    if not isinstance(kind, type) or not issubclass(kind, OpenSetError):
        if received.status == 503:  # it starts, or stops
            return UnreachableError(f"{who} does not answer now: {message}")
        kind = InternodeError
    if issubclass(kind, errors.MisdirectedError):
        return UnreachableError(message)
    line, column = envelope.get("line"), envelope.get("column")
    error = kind(
        message,
        detail=envelope.get("detail"),
        line=line if isinstance(line, int) else None,
        column=column if isinstance(column, int) else None,
    )
    error.status = received.status
    return error
