"""The column query: every value of a column, or every bucket of its numbers, with the distinct people who have it.

The root of the answer is the column itself and counts the people who have any value that passes the filters. Built-in
columns are queried as others are; `person` holds texts and integers, so its filters may be of either kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from openset.errors import QueryError
from openset.pyql.lanes.engine import BLOCK_ROWS
from openset.pyql.names import BUILTIN_COLUMNS, COLUMN_SYNONYMS
from openset.pyql.partial import shown_key
from openset.pyql.settings import SESSION_TIME_MS, RunSettings
from openset.query.answer import QueryAnswer, aggregate_names
from openset.query.compare import compared_blocks, scanned
from openset.query.fan_out import Portion, turn
from openset.query.frame import Common, Facts, Prepared, Tools
from openset.query.parameters import bucket_width
from openset.query.result import leaf_tree
from openset.query.value_counts import Key, ValueCounter, ValueCounts, bucket_key
from openset.query.value_filter import FilteredType, Number, ValueFilter, value_filter
from openset.query.wire.answers import ColumnAnswer, ColumnCodec
from openset.query.work import WorkerState
from openset.store.members import Compared
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.suggestion import suggestion
from openset_format.block import INTEGER_PERSON, Block, Column

PEOPLE = "people"


@dataclass(frozen=True, slots=True, eq=False)
class ColumnRequest:
    """A column query as it was asked. filters: the parameters of FILTERS that were given, as text."""

    kind: ClassVar[str] = "column"
    table: str
    column: str
    common: Common
    segments: Sequence[str] | None = None
    filters: Mapping[str, str] | None = None
    bucket: str | None = None
    ascending: bool = False
    trim: int | None = None
    session_time_ms: int = SESSION_TIME_MS

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared:
        """Raises QueryError for an unknown column, filters that do not fit it, values that are none."""
        column, column_type = _resolved(schema, self.column)
        # A pattern may take a while to compile.
        values = await asyncio.to_thread(value_filter, column, column_type, self.filters or {})
        bucket = _bucket(column, column_type, self.bucket)
        settings = RunSettings(
            now_ms=facts.now_ms,
            session_time_ms=self.session_time_ms,
            deadline=facts.deadline(self.common),
            timeout_ms=self.common.timeout_ms,
        )
        work = ColumnWork(column, values, bucket, (), settings, self.common.info, None)
        grouped = "" if bucket is None else f" in buckets of {bucket}"
        plan = f"distinct people per value of {column}{grouped}, counted on codes, without a script"
        shape = _Shape(column, bucket, self.ascending, self.trim, tuple(self.segments or ()))
        return Prepared(
            work, frozenset({column}), plan, shape.codec, partial(_rendered, shape, self.common.info)
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class ColumnWork:
    """One turn of a column query on a worker."""

    column: str
    values: ValueFilter
    bucket: Number | None
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    want_info: bool
    compared: Compared | None

    def run(self, state: WorkerState) -> Portion[ColumnAnswer]:
        """Raises RunTimeError."""
        compared: Compared = [None] if self.compared is None else self.compared
        counter = ValueCounter(self.values, self.bucket, len(compared), self.settings.deadline)
        people = events = rows = done = 0
        for snapshot in turn(self.snapshots):
            view = state.views.view(snapshot)
            if self.compared is None and not self.want_info:
                indexed = view.indexed_texts(self.column)
                if indexed is not None:
                    counter.add_indexed(*indexed)
                    for block in view.layer_blocks(BLOCK_ROWS):
                        self._count(block, [None], counter)
                    done += 1
                    continue
            blocks = view.blocks(BLOCK_ROWS)
            blocks, masks = compared_blocks(state.members, compared, snapshot.partition, blocks)
            for block, members in zip(blocks, masks, strict=True):
                self.settings.check_deadline()
                self._count(block, members, counter)
            if self.want_info:
                visited = scanned(blocks, masks)
                people, events, rows = people + visited[0], events + visited[1], rows + visited[2]
            done += 1
        return Portion(ColumnAnswer(counter.result(), people, events, rows), done)

    def _count(self, block: Block, members: Sequence[NDArray[np.bool_] | None], counter: ValueCounter) -> None:
        if block.include is not None:
            members = [block.include if member is None else member & block.include for member in members]
        for column, persons in _columns(block, self.column, self.settings.session_time_ms):
            counter.add(column, persons, members)


def _columns(block: Block, name: str, session_time_ms: int) -> Iterator[tuple[Column, NDArray[np.int32]]]:
    """The columns that hold the values of a name, each with the person (0…people-1) of every row."""
    if name == "person":
        yield from _ids(block)
    elif name == "stamp":
        yield Column("int", block.stamp), block.person_of_row
    elif name == "session":
        yield Column("int", block.sessions(session_time_ms)), block.person_of_row
    elif name in block.columns:
        yield block.columns[name], block.person_of_row


def _ids(block: Block) -> Iterator[tuple[Column, NDArray[np.int32]]]:
    """The ids of a Block's people with rows as two columns, one of texts and one of integers."""
    people = block.runnable
    persons = people.astype(np.int32)
    places = people + block.first_person
    integer = block.ids.kinds[places] == INTEGER_PERSON
    if integer.any():
        yield Column("int", block.ids.integers[places], integer), persons
    if not integer.all():
        yield Column("text", places, ~integer, block.ids.texts), persons


def _resolved(schema: TableSchema, name: str) -> tuple[str, FilteredType]:
    """The column of a name and what it holds. Raises QueryError."""
    name = COLUMN_SYNONYMS.get(name, name)
    if name == "person":
        return name, "person"
    if name in BUILTIN_COLUMNS:
        return name, "text" if name == "action" else "int"
    column = schema.column(name)
    if column is None:
        known = [*(column.name for column in schema.columns), *BUILTIN_COLUMNS]
        raise QueryError(f"table {schema.name!r} has no column {name!r}{suggestion(name, known)}")
    return name, column.type


def _bucket(column: str, column_type: FilteredType, text: str | None) -> Number | None:
    """The width of buckets. Raises QueryError."""
    if text is None:
        return None
    if column_type in ("text", "bool"):
        raise QueryError(f"bucket= is for numbers; the column {column!r} holds {column_type} values")
    return bucket_width(text)


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """How the counts become a tree."""

    column: str
    bucket: Number | None
    ascending: bool
    trim: int | None
    segments: tuple[str, ...]

    @property
    def codec(self) -> ColumnCodec:
        return ColumnCodec(max(1, len(self.segments)))


def _rendered(shape: _Shape, info: bool, answers: Sequence[ColumnAnswer], facts: Facts) -> QueryAnswer:
    answer = shape.codec.merged(answers)
    keys, people = _ranked(answer.counts, shape)
    body = leaf_tree(shape.column, answer.counts.any_value, keys, people)
    if info:
        body["info"] = facts.shown(answer.people, answer.events, answer.rows)
    return QueryAnswer(body, aggregate_names([PEOPLE], shape.segments))


def _ranked(counts: ValueCounts, shape: _Shape) -> tuple[list[Key], NDArray[np.int64]]:
    """The values in the order of the answer, by people of the first segment, then by value; and int64[segments, n].

    Only what `trim` leaves is sorted by value: values are many where people ask for the first ten.
    """
    people = np.concatenate([counts.bool_counts, counts.number_counts, counts.text_counts], axis=1)
    rank = people[0] if shape.ascending else -people[0]
    chosen = np.flatnonzero(people.any(axis=0))
    if shape.trim is not None and shape.trim < len(chosen):
        limit = np.partition(rank[chosen], shape.trim)[shape.trim]
        chosen = chosen[rank[chosen] <= limit]
    first_text = 2 + len(counts.numbers)
    texts = chosen[chosen >= first_text].tolist()
    texts.sort(key=lambda place: counts.texts[place - first_text])
    chosen = np.concatenate([chosen[chosen < first_text], np.array(texts, np.int64)])
    chosen = chosen[np.argsort(rank[chosen], kind="stable")][: shape.trim]
    return [_key(counts, place, shape) for place in chosen.tolist()], people[:, chosen]


def _key(counts: ValueCounts, place: int, shape: _Shape) -> Key:
    if place < 2:
        return bool(place)
    if place >= 2 + len(counts.numbers):
        return counts.texts[place - 2 - len(counts.numbers)]
    number = counts.numbers[place - 2].item()
    return shown_key(number if shape.bucket is None else bucket_key(number, shape.bucket))
