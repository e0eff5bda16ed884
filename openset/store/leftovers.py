"""What is still in a partition's file although no query sees it: expired events, and values of dropped columns.

A compaction leaves it out. Looking for it reads where every person's rows begin and their first stamps, nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openset.errors import InternalError
from openset.store.expiry import first_stamps
from openset.store.schema import TableSchema
from openset_format.errors import FormatError
from openset_format.reader import PartitionFile

Key = tuple[int, int]

# Without being told to, a file is rewritten for expired events when they are of so many people, or so old.
EXPIRED_PEOPLE_SHARE = 0.05
EXPIRED_FOR_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Leftovers:
    """dropped_columns: how many with values are no columns of the table any more.

    people: who have any rows. expired_people: those of them with an expired one. oldest_ms: how long ago it expired.
    """

    dropped_columns: int
    people: int
    expired_people: int
    oldest_ms: int

    @property
    def any(self) -> bool:
        """Whether there is anything to leave out."""
        return bool(self.dropped_columns or self.expired_people)

    @property
    def are_worth_it(self) -> bool:
        """Whether the file should be rewritten for them alone, without being asked to."""
        many = self.expired_people > EXPIRED_PEOPLE_SHARE * self.people
        return self.dropped_columns > 0 or (self.expired_people > 0 and (many or self.oldest_ms > EXPIRED_FOR_MS))


def leftovers(path: Path, schema: TableSchema, expired_before: int) -> Leftovers:
    """What the file of a partition holds that the table does not. Raises FormatError, OSError."""
    file = PartitionFile.open(path)
    known = {column.id for column in schema.columns}
    dropped = sum(column_id not in known for column_id in file.columns)
    if not expired_before or not file.rows:
        return Leftovers(dropped, file.people, 0, 0)
    stamps, people = first_stamps(file)
    expired = stamps < expired_before
    oldest_ms = int(expired_before - stamps.min()) if expired.any() else 0
    return Leftovers(dropped, len(people), int(np.count_nonzero(expired)), oldest_ms)


def leftovers_of(
    paths: Mapping[Key, Path], schema: TableSchema, suspect: Callable[[Iterable[Path]], None]
) -> dict[Key, Leftovers]:
    """What the files of a table's partitions hold, those that were removed meanwhile left out.

    suspect: hears of files that cannot be read. Raises InternalError because of them.
    """
    expired_before = schema.expired_before(time.time_ns() // 1_000_000)
    found: dict[Key, Leftovers] = {}
    unreadable: dict[Path, Exception] = {}
    for key, path in paths.items():
        try:
            found[key] = leftovers(path, schema, expired_before)
        except (FormatError, OSError) as error:
            unreadable[path] = error
    suspect(unreadable)
    errors = [error for error in unreadable.values() if not isinstance(error, FileNotFoundError)]
    if errors:
        raise InternalError(str(errors[0])) from errors[0]
    return found
