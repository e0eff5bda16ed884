"""What only shows when the files of a data directory and its journal are read together: `openset verify --deep`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from openset.errors import OpenSetError
from openset.store.offline import OfflineStore, OpenTable
from openset.store.schema import TableSchema
from openset.store.segment import SEGMENT_SUFFIX, SEGMENTS_DIRECTORY
from openset.store.snapshot import TABLES_DIRECTORY
from openset.store.views import PartitionView
from openset_format.block import Block
from openset_format.errors import FormatError
from openset_format.hashing import partitions_of
from openset_format.membership import MembershipFile
from openset_format.verify import Problem


def verify_contents(store: OfflineStore, damaged: Collection[str], advance: Callable[..., None]) -> Iterator[Problem]:
    """Merges all partitions with the journal and looks at everybody.

    damaged: paths of files of which it is known and told that they are not sound. advance: is told of rows, table by
    table.
    """
    partitions = store.catalog.partitions or 1
    directory = str(store.data_dir)
    for schema in store.catalog.tables():
        try:
            with OpenTable(store.data_dir, schema.name) as opened:
                people = {number: view.people for number, view in opened.views.items()}
                yield from (
                    Problem(directory, None, None, message)
                    for message in opened.problems
                    if message not in opened.store.problems and not any(file in message for file in damaged)
                )
                sound = {
                    number: view
                    for number, view in opened.views.items()
                    if view.file is None or str(view.file.path) not in damaged
                }
                total, done = sum(view.rows for view in sound.values()), 0
                for number, view in sound.items():
                    yield from _people(view, f"table {schema.name}, partition {number}", partitions)
                    advance(done := done + view.rows, total, f"verify table {schema.name}")
        except OpenSetError as error:
            yield Problem(directory, None, None, error.message)
            continue
        yield from _segments(store, schema, people)


def _people(view: PartitionView, where: str, partitions: int) -> Iterator[Problem]:
    for block in view.stream():
        ids = [block.person_id(person) for person in block.runnable.tolist()]
        wrong = np.flatnonzero(partitions_of(ids, len(ids), partitions) != view.partition)
        if len(wrong):
            others = "" if len(wrong) == 1 else f" and {len(wrong) - 1} others"
            yield Problem(where, None, None, f"person {ids[wrong[0]]!r}{others} belong to another partition")
        disorder = _disorder(block, view.schema.z_order)
        if disorder is not None:
            yield Problem(where, None, None, f"merged with the journal, {disorder}")
            return


def _disorder(block: Block, z_order: Sequence[str]) -> str | None:
    """Which order the events of a person lack."""
    same = block.person_of_row[1:] == block.person_of_row[:-1]
    if ((block.stamp[1:] < block.stamp[:-1]) & same).any():
        return "events are not in the order of time"
    action = block.columns["action"]
    assert action.dictionary is not None
    ranks = np.full(len(action.dictionary), len(z_order), np.int64)
    for rank, name in enumerate(z_order):
        code = action.dictionary.code(name)
        if code is not None:
            ranks[code] = rank
    ranked = ranks[action.values]
    if ((ranked[1:] < ranked[:-1]) & same & (block.stamp[1:] == block.stamp[:-1])).any():
        return "events of one stamp are not in the z-order"
    return None


def _segments(store: OfflineStore, schema: TableSchema, people: dict[int, int]) -> Iterator[Problem]:
    """Stored segments have nobody whom the table does not have."""
    directory = store.data_dir / TABLES_DIRECTORY / str(schema.id) / SEGMENTS_DIRECTORY
    for path in sorted(directory.glob(f"*{SEGMENT_SUFFIX}")):
        try:
            file = MembershipFile.open(path)
            for number in store.here.intersection(file.partitions):
                members = file.members(number)
                if members and members.max() >= people.get(number, 0):
                    message = f"partition {number} has no person {members.max()}, who is in the segment"
                    yield Problem(str(path), None, None, message)
        except FileNotFoundError:
            continue  # computed again meanwhile
        except (FormatError, OSError, ValueError):
            continue  # told by the check of the file
