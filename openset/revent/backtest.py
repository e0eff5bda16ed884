"""Backtests on the side of the workers: the replay of partitions, and what is counted of it.

Nothing is emitted. Shortcuts: what emit_as_event would have inserted is not part of the history, a filter means the
people of today, and of an event only its last version is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from openset.pyql.settings import RunSettings
from openset.query.fan_out import Portion, turn
from openset.query.work import WorkerState
from openset.revent.disabling import Failures
from openset.revent.evaluation import TriggerTools
from openset.revent.replay import BlockReplay, Replay, Replayed
from openset.store.members import SegmentRef
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import PersonId

BLOCK_ROWS = 1 << 18


@dataclass(frozen=True, slots=True, eq=False)
class BacktestWork:
    """The replay of some partitions.

    from_ms, to_ms: events from the one to before the other are inserts. failures: known from a replay before.
    last_moment: nothing happens after it (`disabling`).
    """

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    once: bool
    filter: SegmentRef | None
    from_ms: int
    to_ms: int
    failures: Failures | None = None
    last_moment: int | None = None
    compared: None = None

    def run(self, state: WorkerState) -> Portion[Replay]:
        """Raises RunTimeError, InternalError for damaged files."""
        plan = state.kept(TriggerTools).plans.get(self.script, self.schema)
        found = Replay()
        done = 0
        for snapshot in turn(self.snapshots):
            for block in state.views.view(snapshot).blocks(BLOCK_ROWS):
                people = block.runnable
                if self.filter is not None:
                    (mask,) = state.members.masks([self.filter], snapshot.partition, block)
                    assert mask is not None
                    people = people[mask[people]]
                replay = BlockReplay(
                    plan,
                    block,
                    self.settings,
                    once=self.once,
                    from_ms=self.from_ms,
                    to_ms=self.to_ms,
                    failures=self.failures,
                    last_moment=self.last_moment,
                )
                found.merge(replay.replay(people))
            done += 1
        return Portion(found, done)


def by_day(emissions: Sequence[Replayed]) -> Iterator[Mapping[str, Any]]:
    """How many emissions and people there are for each day (UTC) and name, in order."""
    counts: dict[tuple[int, str], int] = {}
    people: dict[tuple[int, str], set[PersonId]] = {}
    for one in emissions:
        key = (one.stamp_ms // 86_400_000, one.name)
        counts[key] = counts.get(key, 0) + 1
        people.setdefault(key, set()).add(one.person)
    for day, name in sorted(counts):
        shown = str(np.datetime64(day, "D"))
        yield {"day": shown, "name": name, "count": counts[day, name], "people": len(people[day, name])}
