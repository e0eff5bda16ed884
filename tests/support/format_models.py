"""Plain Python models of partitions and batches, for the tests of the file format.

A model is what a reader of the specification would write down: a list of people, each with a list of events, each
event with a stamp, an action and its rows as dictionaries. The slow loops here are the point: nothing is shared with
the code under test.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from openset_format.batch import EventBatch, PartitionSlice
from openset_format.block import Column, ColumnType, PersonId, PersonIds, TextDictionary
from openset_format.files import FileLayer, WritableFile
from openset_format.reader import PartitionFile
from openset_format.writer import PartitionContent

Row = dict[int, Any]
Event = tuple[int, str, list[Row]]
Person = tuple[PersonId, list[Event]]

SCHEMA: dict[int, ColumnType] = {1: "text", 2: "int", 3: "double", 4: "bool"}

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
integers = st.integers(-(2**63), 2**63 - 1)
person_ids = st.one_of(texts.filter(bool), integers)
values: dict[int, st.SearchStrategy[Any]] = {
    1: texts,
    2: integers,
    3: st.floats(allow_nan=False),
    4: st.booleans(),
}
rows = st.fixed_dictionaries({}, optional=values)
# Numbers that are stored narrow.
narrow_rows = st.fixed_dictionaries(
    {}, optional=values | {2: st.integers(-300, 300), 3: st.integers(-(10**5), 10**5).map(lambda cents: cents / 100)}
)


def events_of(people: st.SearchStrategy[Row]) -> st.SearchStrategy[list[Event]]:
    """Events of one person: ordered by stamp, no two with the same stamp and action."""
    event = st.tuples(st.integers(0, 2**45), texts.filter(bool), st.lists(people, min_size=1, max_size=3))
    unique = st.lists(event, max_size=5, unique_by=lambda one: one[:2])
    return unique.map(lambda found: sorted(found, key=lambda one: one[0]))


people_models = st.sampled_from([rows, narrow_rows]).flatmap(
    lambda one: st.lists(st.tuples(person_ids, events_of(one)), max_size=8, unique_by=lambda person: repr(person[0]))
)


def column_of(column_type: ColumnType, cells: Sequence[Any]) -> Column:
    """A column from Python values; its dictionary has the texts in order of appearance."""
    valid = np.array([cell is not None for cell in cells], np.bool_)
    mask = None if valid.all() else valid
    if column_type == "text":
        entries = list(dict.fromkeys(cell for cell in cells if cell is not None))
        codes = [0 if cell is None else entries.index(cell) for cell in cells]
        return Column("text", np.array(codes, np.uint32), mask, TextDictionary(entries))
    dtype = {"int": np.int64, "double": np.float64, "bool": np.uint8}[column_type]
    return Column(column_type, np.array([0 if cell is None else cell for cell in cells], dtype), mask)


def content_of(people: Sequence[Person], schema: Mapping[int, ColumnType] = SCHEMA, **changes: Any) -> PartitionContent:
    """The content of a partition file for a model. `changes` replace fields."""
    row_start, stamps, starts, actions = [0], [], [], []
    cells: dict[int, list[Any]] = {column_id: [] for column_id in schema}
    for _, events in people:
        for stamp, action, event_rows in events:
            for position, row in enumerate(event_rows):
                stamps.append(stamp)
                starts.append(position == 0)
                actions.append(action)
                for column_id in schema:
                    cells[column_id].append(row.get(column_id))
        row_start.append(len(stamps))
    fields: dict[str, Any] = {
        "table_id": 3,
        "partition": 7,
        "generation": 1,
        "journal_id": "0123456789abcdef" * 2,
        "applied_sequence": 41,
        "schema": dict(schema),
        "z_order": ["view", "purchase"],
        "persons": PersonIds.of([person_id for person_id, _ in people]),
        "row_start": np.array(row_start, np.int64),
        "stamp": np.array(stamps, np.int64),
        "event_start": np.array(starts, np.bool_),
        "action": column_of("text", actions),
        "columns": {column_id: column_of(schema[column_id], cells[column_id]) for column_id in schema},
    }
    return PartitionContent(**(fields | changes))


def model_of(file: PartitionFile) -> list[Person]:
    """The model a file stands for."""
    people: list[Person] = []
    for person, person_id in enumerate(file.persons):
        events: list[Event] = []
        for row in range(int(file.row_start[person]), int(file.row_start[person + 1])):
            cells = {column_id: column.value(row) for column_id, column in file.columns.items()}
            cells = {column_id: cell for column_id, cell in cells.items() if cell is not None}
            if file.event_start is None or file.event_start[row]:
                events.append((int(file.stamp[row]), str(file.action.value(row)), []))
            events[-1][2].append(cells)
        people.append((person_id, events))
    return people


def without_nones(people: Sequence[Person]) -> list[Person]:
    """A model with absent instead of None cells."""
    return [
        (
            person_id,
            [
                (stamp, action, [{key: cell for key, cell in row.items() if cell is not None} for row in event_rows])
                for stamp, action, event_rows in events
            ],
        )
        for person_id, events in people
    ]


PEOPLE: list[Person] = [
    (
        "7",
        [
            (1000, "view", [{1: "rug", 2: 1, 3: 1.5, 4: True}]),
            (2000, "purchase", [{1: "rug", 3: 9.25}, {1: "péniche ⛵", 2: -4}, {4: False}]),
        ],
    ),
    (7, [(1500, "view", [{}])]),
    ("nobody", []),
    (-(2**63), [(1, "purchase", [{1: "", 2: 2**63 - 1}]), (1, "view", [{1: "rug"}])]),
]

# The same with ints of two bytes.
NARROW_PEOPLE: list[Person] = [*PEOPLE[:3], (-(2**63), [(1, "purchase", [{1: "", 2: 300}]), (1, "view", [{1: "rug"}])])]


def batch_of(partitions: Mapping[int, Sequence[Person]], schema: Mapping[int, ColumnType] = SCHEMA) -> EventBatch:
    """A batch from models by partition; columns nobody mentions are absent."""
    ids: list[PersonId] = []
    persons, stamps, actions, row_start, slices = [], [], [], [0], []
    all_rows: list[Row] = []
    for partition in sorted(partitions):
        first_event, first_person = len(stamps), len(ids)
        for person_id, events in partitions[partition]:
            ids.append(person_id)
            for stamp, action, event_rows in events:
                persons.append(len(ids) - 1)
                stamps.append(stamp)
                actions.append(action)
                all_rows.extend(event_rows)
                row_start.append(len(all_rows))
        counts = len(stamps) - first_event, first_person, len(ids) - first_person
        slices.append(PartitionSlice(partition, first_event, *counts))
    names = list(dict.fromkeys(actions))
    mentioned = [column_id for column_id in schema if any(column_id in row for row in all_rows)]
    return EventBatch(
        persons=PersonIds.of(ids),
        person=np.array(persons, np.uint32),
        stamp=np.array(stamps, np.int64),
        action=np.array([names.index(action) for action in actions], np.uint32),
        actions=names,
        row_start=np.array(row_start, np.int64),
        columns={key: column_of(schema[key], [row.get(key) for row in all_rows]) for key in mentioned},
        partitions=tuple(slices),
    )


def models_of(batch: EventBatch) -> dict[int, list[Person]]:
    """The models by partition a batch stands for."""
    found: dict[int, list[Person]] = {}
    for entry in batch.partitions:
        people: list[Person] = [
            (batch.persons[entry.first_person + position], []) for position in range(entry.person_count)
        ]
        for event in range(entry.first_event, entry.first_event + entry.event_count):
            event_rows: list[Row] = []
            for row in range(int(batch.row_start[event]), int(batch.row_start[event + 1])):
                cells = {key: column.value(row) for key, column in batch.columns.items()}
                event_rows.append({key: cell for key, cell in cells.items() if cell is not None})
            person = int(batch.person[event]) - entry.first_person
            action = batch.actions[int(batch.action[event])]
            people[person][1].append((int(batch.stamp[event]), action, event_rows))
        found[entry.partition] = people
    return found


class FailingFiles(FileLayer):
    """Fails one step: the `fail_at`-th (from 0) of all steps whose name is in `steps`, half-way where it can.

    Steps: create, write, truncate, sync, rename, unlink, sync_directory.
    """

    def __init__(self, fail_at: int = -1, steps: Sequence[str] = ()):
        self.fail_at = fail_at
        self.steps = steps
        self.taken: list[str] = []

    def step(self, name: str) -> bool:
        """Count a step; True when it is the one that has to fail."""
        if self.steps and name not in self.steps:
            return False
        self.taken.append(name)
        return len(self.taken) - 1 == self.fail_at

    def refuse(self, name: str) -> None:
        if self.step(name):
            raise OSError(errno.EIO, f"injected at {name}")

    def create(self, path: Path) -> WritableFile:
        self.refuse("create")
        file = super().create(path)
        return FailingFile(self, file)

    def open(self, path: Path) -> WritableFile:
        return FailingFile(self, super().open(path))

    def rename(self, source: Path, target: Path) -> None:
        self.refuse("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self.refuse("unlink")
        super().unlink(path)

    def sync_directory(self, path: Path) -> None:
        self.refuse("sync_directory")
        super().sync_directory(path)


class FailingFile(WritableFile):
    """A file of FailingFiles."""

    def __init__(self, layer: FailingFiles, file: WritableFile):
        super().__init__(file.path, file._descriptor)
        self.layer = layer

    def write_at(self, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
        if self.layer.step("write"):
            whole = b"".join(bytes(buffer) for buffer in buffers)
            super().write_at([whole[: len(whole) // 2]], offset)
            raise OSError(errno.ENOSPC, "injected at write")
        return super().write_at(buffers, offset)

    def truncate(self, size: int) -> None:
        self.layer.refuse("truncate")
        super().truncate(size)

    def sync(self) -> None:
        self.layer.refuse("sync")
        super().sync()

    def sync_data(self) -> None:
        self.layer.refuse("sync")
        super().sync_data()
