"""GET /v1/query/{table}/person: the events of one person."""

from __future__ import annotations

from openset.errors import QueryError
from openset.http.resource import Answer, Resource
from openset.query.person import find_person
from openset_format.block import PersonId


class PersonQuery(Resource):
    async def get(self, table: str) -> None:
        await self.respond(self._person(table), cancellable=True)

    async def _person(self, table: str) -> Answer:
        parameters = self.parameters()
        text = parameters.text("sid")
        number = parameters.integer("id", -(1 << 63), (1 << 63) - 1)
        parameters.finish()
        if (text is None) == (number is None):
            raise QueryError("give either sid= (a text id) or id= (an integer id)")
        if text == "":
            raise QueryError("sid= is empty, which nobody's id is")
        person: PersonId | None = text if number is None else number
        assert person is not None
        store = await self.node.store()
        return await find_person(store, self.node.executor, table, person)
