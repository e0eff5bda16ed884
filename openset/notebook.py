"""A table of a data directory in this process, without a daemon and beside one: `openset.open_table`.

Read-only and without a lock. A table is what it was when it was opened or last refreshed; the maps are kept open, so
nothing that happens to the directory changes it. Of a member of a cluster it has the partitions that are there. As for
queries, only the headers of files are verified: `openset verify` looks at all of them. Shortcut: a script reads
everyone in this thread, it asks no index.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from openset.errors import InternalError, QueryError
from openset.pyql.lanes.engine import EngineRun, compile_plan
from openset.pyql.settings import SESSION_TIME_MS, ParameterValue, RunSettings
from openset.pyql.syntax.parse import parse_script
from openset.query.result import Order, result_tree, sort_index
from openset.query.time_zone import UTC_NAME, zone_of
from openset.store.arrow_rows import ArrowRows, data_frame
from openset.store.fold import fold_events
from openset.store.offline import OpenTable, read_data_dir, table_named
from openset.store.rows import rows_of
from openset.store.schema import TableSchema
from openset.store.views import PartitionView
from openset_format.block import Block, ColumnType, PersonId

_ALL_ROWS = 1 << 62


class Table:
    """A table at one moment. Not thread-safe."""

    schema: TableSchema

    def __init__(self, data_dir: Path, name: str):
        """Use `open_table`."""
        self.data_dir = data_dir
        self.name = name
        self._views: dict[int, PartitionView] = {}
        self.refresh()

    def __repr__(self) -> str:
        columns = ", ".join(f"{name} {kind}" for name, kind in self.columns.items())
        return f"<openset table {self.name} of {self.people:,} people: {columns}>"

    def refresh(self) -> None:
        """Takes in what has been inserted meanwhile.

        Raises ConfigError, QueryError when the table is gone, InternalError when a file is damaged: an answer without
        some of the people would be wrong.
        """
        with OpenTable(self.data_dir, self.name) as opened:
            if opened.problems:
                raise InternalError(f"{self.data_dir} is damaged", detail=opened.problems)
            self.schema = opened.schema
            self._partition_of = opened.store.partition_of
            self._views = dict(opened.views)

    @property
    def columns(self) -> dict[str, ColumnType]:
        """The type of each column by name."""
        return self.schema.column_types

    @property
    def people(self) -> int:
        """How many people have events."""
        return sum(len(view.present) for view in self._views.values())

    def blocks(self) -> list[Block]:
        """The columns as numpy arrays, see `openset_format.block.Block`. Mind `include`."""
        return [block for view in self._views.values() for block in view.blocks()]

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """The rows as a pyarrow.Table: person, person_id, event, stamp, action, and the columns of the table.

        A row for each row of each event; of `person` and `person_id` one is null, for ids are text or integers; `event`
        counts the events of a person from 0. Texts are codes with a dictionary. columns: only these. Stamps, codes
        and numbers that are stored at full width are the mapped file's own where nothing in the journal touches a
        partition's people; else copies.
        Raises ConfigError without pyarrow, QueryError for an unknown column.
        """
        made = None
        arrays: dict[str, list[Any]] = {}
        for view in self._views.values():
            made = ArrowRows(self.schema, columns)
            for block in view.stream(_ALL_ROWS):
                for rows in rows_of(block):
                    for name, array in made.arrays(rows).items():
                        arrays.setdefault(name, []).append(array)
        return (made or ArrowRows(self.schema, columns)).table(arrays)

    def to_pandas(self, columns: Sequence[str] | None = None) -> Any:
        """The same rows as a pandas.DataFrame. Texts are categories, ints and bools with nulls of pandas' own kinds.

        Raises as `to_arrow`, and ConfigError without pandas.
        """
        return data_frame(self.to_arrow(columns))

    def query(
        self,
        script: str,
        parameters: Mapping[str, ParameterValue] | None = None,
        *,
        sort: str | None = None,
        order: Literal["asc", "desc"] = "desc",
        trim: int | None = None,
        timeout_ms: int | None = None,
        session_time_ms: int = SESSION_TIME_MS,
        time_zone: str = UTC_NAME,
    ) -> dict[str, Any]:
        """The result tree of a script over everyone, as the events query answers it.

        parameters: the values of `{{name}}`. timeout_ms: None for no limit; the other options are those of the events
        query. Raises ParseError, QueryError, RunTimeError.
        """
        plan = compile_plan(parse_script(script, self.columns))
        given = dict(parameters or {})
        wanted = set(plan.script.parameters)
        if given.keys() != wanted:
            named = ", ".join(sorted(wanted)) or "no parameters"
            raise QueryError(f"the script takes {named}, not {', '.join(sorted(given)) or 'none'}")
        settings = RunSettings(
            now_ms=int(time.time() * 1_000),
            session_time_ms=session_time_ms,
            parameters=given,
            deadline=None if timeout_ms is None else time.monotonic() + timeout_ms / 1_000,
            timeout_ms=timeout_ms or 0,
            zone=zone_of(time_zone),
        )
        run = EngineRun(plan, settings)
        for view in self._views.values():
            run.add(view.blocks(plan.block_rows))
        by = sort_index(plan.script.aggregators, sort if sort is not None else plan.script.sort)
        return result_tree(run.partial, Order(by, order == "asc", trim))

    def person(self, person: PersonId) -> list[dict[str, Any]]:
        """The events of one person, in the form in which they are inserted. Raises QueryError when there is none.

        In the directory of a cluster's member: ConfigError where the person's partition is not here.
        """
        self._partition_of(person)
        for view in self._views.values():
            block = view.person_rows(person)
            if block is not None:
                return fold_events(block)
        raise QueryError(f"there is no person {person!r} in table {self.name!r}")


def open_table(data_dir: Path | str, table: str | None = None) -> Table:
    """A table of a data directory, read-only; without a name the only one there is.

    Raises ConfigError for what is no data directory, QueryError for an unknown table, InternalError for damaged files.
    """
    directory = Path(data_dir)
    return Table(directory, table_named(read_data_dir(directory), table).name)
