"""GET /v1/query/{table}/person: the events of one person."""

from __future__ import annotations

from openset.errors import QueryError
from openset.http.resource import Answer, Resource
from openset.query.parameters import RequestParameters
from openset.query.person import find_person
from openset_format.block import PersonId


def asked_person(parameters: RequestParameters) -> PersonId:
    """Whom a person query is about. Raises QueryError."""
    text = parameters.text("sid")
    number = parameters.integer("id", -(1 << 63), (1 << 63) - 1)
    parameters.finish()
    if (text is None) == (number is None):
        raise QueryError("give either sid= (a text id) or id= (an integer id)")
    if text == "":
        raise QueryError("sid= is empty, which nobody's id is")
    person: PersonId | None = text if number is None else number
    assert person is not None
    return person


class PersonQuery(Resource):
    async def get(self, table: str) -> None:
        await self.respond(self._person(table), cancellable=True)

    async def _person(self, table: str) -> Answer:
        person = asked_person(self.parameters())
        store = await self.node.store()
        return await find_person(store, self.node.executor, table, person)
