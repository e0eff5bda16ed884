"""One query from the client's side: the request, the answer, the names of its columns, the time it took.

Responsible for asking and for naming what came back. The daemon's answer has aggregators as bare lists; their names
are in the script, so it is parsed here too, against the columns of the table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from openset.client.connection import Connection, segment
from openset.errors import ParseError

_COUNT_SCRIPT = """\
agg:
    count stamp as events
    people
match:
    tally('all')
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """The daemon's JSON as it is, and the seconds from the request to its last byte."""

    body: dict[str, Any]
    seconds: float

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The children of the root of the result tree."""
        nodes: list[dict[str, Any]] = self.body.get("_", [])
        return nodes


def run_query(
    connection: Connection,
    table: str,
    script: str,
    parameters: Mapping[str, str] | None = None,
    resource: Literal["events", "counts"] = "events",
) -> Answer:
    """Runs a script for everyone in the table, or makes segments of its sections. Raises Refused and Unreachable."""
    started = time.perf_counter()
    body = connection.request(
        "POST",
        f"/v1/query/{segment(table)}/{resource}",
        parameters=parameters,
        body=script.encode(),
        content_type="text/plain; charset=utf-8",
    )
    return Answer(body, time.perf_counter() - started)


def stored_counts(connection: Connection, table: str) -> tuple[int, int]:
    """How many events, and of how many people, the table holds now."""
    nodes = run_query(connection, table, _COUNT_SCRIPT).nodes
    if not nodes:
        return 0, 0
    events, people = nodes[0]["c"]
    return int(events), int(people)


def aggregator_names(connection: Connection, table: str, script: str) -> list[str]:
    """The aliases of the script's aggregators; empty where a newer daemon understands more than this client."""
    from openset.pyql.syntax.parse import (
        parse_script,  # here, because loading a grammar takes longer than the other commands
    )

    description = connection.get(f"/v1/table/{segment(table)}")
    columns = {column["name"]: column["type"] for column in description["columns"]}
    try:
        return [aggregator.alias for aggregator in parse_script(script, columns).aggregators]
    except ParseError:
        return []
