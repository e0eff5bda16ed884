"""What routes for other nodes share: who may call them, for which node they are, and being as current as the caller.

Bodies are bytes and are hostile until they are checked, also those of nodes that have proved who they are.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from tornado.iostream import SSLIOStream

from openset.cluster.peers import (
    CLUSTER_HEADER,
    ERROR_HEADER,
    FROM_HEADER,
    NODE_HEADER,
    PROCESS_HEADER,
    PROTOCOL,
    PROTOCOL_HEADER,
    REVISION_HEADER,
    TO_HEADER,
    error_name,
)
from openset.cluster.security import HOW_TO, Caller
from openset.errors import ForbiddenError, InternodeError, MisdirectedError, OpenSetError
from openset.http.envelope import UnavailableError, as_error
from openset.http.resource import Answer, Resource
from openset_format.decoding import msgpack_decoder

if TYPE_CHECKING:
    from openset.cluster.member import Membership

CATCH_UP_MS = 5_000

Message = TypeVar("Message")


class InternodeResource(Resource):
    """Base of the routes below /v1/internode. The handler's method calls `serve` with what it does.

    for_members: only nodes of the same cluster may call it.  catches_up: once this one has seen what the caller has.
    takes_parameters: the route has some, and checks them.
    """

    error_kind: type[OpenSetError] = InternodeError
    uses_store = False
    for_members = True
    catches_up = True
    takes_parameters = False
    # What shows the caller that this node knows the secret of the cluster.
    _proof: Mapping[str, str] = {}

    def prepare(self) -> None:
        """Refuses strangers before anything of the body is kept."""
        super().prepare()
        self._check_caller()
        self._say_who()
        # Whoever invites a node that has just been started waits for its answer.
        if self.for_members and not self.node.cluster.is_open:
            raise UnavailableError("the node starts")
        headers = self.request.headers
        # People who ask by hand leave these headers out: they have shown that they may, and mean this node.
        protocol = headers.get(PROTOCOL_HEADER, PROTOCOL)
        if protocol != PROTOCOL:
            raise InternodeError(f"this node runs another version of OpenSet, which speaks {PROTOCOL}, not {protocol}")
        identity = self.node.cluster.identity
        to = headers.get(TO_HEADER, "")
        if to and to != self.node.cluster.name:
            raise MisdirectedError(f"this is {self.node.cluster.name or 'a node without a name'}, not {to}")
        if self.for_members and not identity.cluster:
            raise MisdirectedError("this node belongs to no cluster")
        if self.for_members and headers.get(CLUSTER_HEADER, identity.cluster) != identity.cluster:
            raise MisdirectedError("this node does not belong to that cluster")

    def _check_caller(self) -> None:
        security = self.node.cluster.security
        if security is None:
            raise ForbiddenError(f"this node does not speak to others: {HOW_TO}")
        connection: Any = self.request.connection
        stream = connection.stream
        if stream.socket is None:
            raise UnavailableError("the connection has ended")
        caller = Caller(
            path=self.request.uri or "",
            remote_ip=self.request.remote_ip or "",
            local_port=stream.socket.getsockname()[1],
            has_certificate=isinstance(stream, SSLIOStream) and bool(stream.socket.getpeercert()),
            headers={name.lower(): value for name, value in self.request.headers.get_all()},
        )
        self._proof = security.check_request(caller)

    def _say_who(self) -> None:
        self.set_header(NODE_HEADER, self.node.cluster.name)
        self.set_header(PROCESS_HEADER, self.node.cluster.process)
        for name, value in self._proof.items():
            self.set_header(name, value)

    @property
    def caller(self) -> str:
        """The name of the node that asks, empty for one without."""
        return self.request.headers.get(FROM_HEADER, "")

    @property
    def member(self) -> str:
        """The name of the member that asks. Raises InternodeError for others."""
        if self.caller not in self.membership().view.members:
            raise InternodeError(f"{FROM_HEADER} has to say which member asks")
        return self.caller

    async def serve(self, work: Coroutine[Any, Any, Answer], *, cancellable: bool = False) -> None:
        """Answers with what the work gives, once this node has seen what the caller has.

        cancellable: it ends when the caller goes away.
        """
        current = self._current(work) if self.for_members and self.catches_up else work
        try:
            if not self.takes_parameters:
                self.parameters().finish()
            await self.respond(current, cancellable=cancellable)
        finally:
            if self.work is None or self.work.done():
                # Neither may have begun.
                current.close()
                work.close()

    async def _current(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        await self.membership().caught_up(self._revision(), CATCH_UP_MS)
        return await work

    def _revision(self) -> int:
        text = self.request.headers.get(REVISION_HEADER, "0")
        if not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise InternodeError(f"{text!a} is no revision")
        return int(text)

    def membership(self) -> Membership:
        """Raises MisdirectedError on a node that is no member, or not yet."""
        membership = self.node.membership
        if membership is None and self.node.cluster.identity.mode == "member":
            raise UnavailableError("this node waits for the coordinator of its cluster")
        if membership is None:
            raise MisdirectedError("this node belongs to no cluster")
        return membership

    async def message(self, kind: type[Message]) -> Message:
        """The body as a message in msgpack. Raises InternodeError for what is none."""
        try:
            return msgpack_decoder(kind).decode(await self.body())
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise InternodeError(f"the body is no {kind.__name__}: {error}") from error

    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header(PROTOCOL_HEADER, PROTOCOL)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        raised = kwargs.get("exc_info", (None, None, None))[1]
        self.set_header(ERROR_HEADER, error_name(as_error(raised, status_code)))
        self._say_who()
        super().write_error(status_code, **kwargs)
