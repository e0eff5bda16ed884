"""The person query: one person's events, folded back from rows to nested attributes."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from openset.errors import QueryError
from openset.query.executor import Executor
from openset.query.work import WorkerState
from openset.store.fold import fold_events
from openset.store.snapshot import PartitionSnapshot, StaleSnapshotError
from openset.store.store import Store
from openset_format.block import PersonId


@dataclass(frozen=True, slots=True, eq=False)
class PersonWork:
    """The look-up of a person in the partition they belong to."""

    snapshot: PartitionSnapshot
    person: PersonId

    def run(self, state: WorkerState) -> bytes | None:
        """The answer as JSON; None when there is no such person. Raises StaleSnapshotError."""
        block = state.views.person_rows(self.snapshot, self.person)
        if block is None:
            return None
        return msgspec.json.encode({"person": self.person, "events": fold_events(block)})


async def find_person(store: Store, executor: Executor, table: str, person: PersonId) -> bytes:
    """A person's events as JSON. Raises QueryError when there is none of this id."""
    while True:
        snapshot = store.person_snapshot(table, person)
        try:
            answer: bytes | None = await executor.run(
                executor.worker_of(snapshot.partition), PersonWork(snapshot, person)
            )
        except StaleSnapshotError:
            continue  # compacted between the snapshot and the look-up
        if answer is None:
            raise QueryError(f"there is no person {person!r} in table {table!r}")
        return answer
