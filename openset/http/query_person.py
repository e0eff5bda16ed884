"""GET /v1/query/{table}/person: the events of one person."""

from __future__ import annotations

from openset.errors import QueryError
from openset.http.query import QueryResource
from openset.http.resource import Answer, whole_or_pieces
from openset.query.parameters import RequestParameters
from openset.query.person import PersonRequest, person_pieces
from openset.store.stamps import BadStamp, parse_stamp
from openset_format.block import PersonId


def asked_person(parameters: RequestParameters) -> PersonRequest:
    """Whom a person query is about, and which events. Raises QueryError."""
    text, number = _id(parameters)
    from_ms = stamp_parameter("from", parameters.text("from"))
    to_ms = stamp_parameter("to", parameters.text("to"))
    limit = parameters.integer("limit", 0, (1 << 63) - 1)
    info, explain = parameters.flag("info"), parameters.flag("explain")
    parameters.finish()
    return PersonRequest(_person(text, number), from_ms, to_ms, limit, info, explain)


def asked_id(parameters: RequestParameters) -> PersonId:
    """Whom a request is about that has no other parameters. Raises QueryError."""
    text, number = _id(parameters)
    parameters.finish()
    return _person(text, number)


def person_named(parameters: RequestParameters) -> PersonId:
    """Whom a request is about that may have other parameters. Raises QueryError."""
    return _person(*_id(parameters))


def _id(parameters: RequestParameters) -> tuple[str | None, int | None]:
    return parameters.text("sid"), parameters.integer("id", -(1 << 63), (1 << 63) - 1)


def _person(text: str | None, number: int | None) -> PersonId:
    if (text is None) == (number is None):
        raise QueryError("give either sid= (a text id) or id= (an integer id)")
    if text == "":
        raise QueryError("sid= is empty, which nobody's id is")
    person: PersonId | None = text if number is None else number
    assert person is not None
    return person


def stamp_parameter(name: str, value: str | None) -> int | None:
    """A stamp as events have it: milliseconds, seconds or ISO 8601."""
    if value is None:
        return None
    # A + that was sent unescaped in an offset arrives as a space.
    text = value.strip().replace(" ", "+") if "T" in value.upper() else value.strip()
    try:
        return parse_stamp(int(text) if text.isascii() and text.isdigit() else text)
    except BadStamp as error:
        raise QueryError(f"{name}=: {error}") from None


class PersonQuery(QueryResource):
    async def get(self, table: str) -> None:
        await self.respond(self._person(table), cancellable=True)

    async def _person(self, table: str) -> Answer:
        request = asked_person(self.parameters())
        return await whole_or_pieces(person_pieces(await self.tools(), table, request))
