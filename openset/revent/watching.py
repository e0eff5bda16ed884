"""Stored segments that somebody watches: who enters and who leaves becomes messages, like emissions of a trigger.

What was told last is a set of people per partition, kept with the state of triggers. A new computation of the segment
is compared with it; where the script allows, people whom inserts touch are judged at once: not for set algebra, and not
where the script reads `now`, for then people come and go without an insert.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pyroaring import BitMap

from openset.pyql import tree
from openset.query.work import CompiledSection, WorkerState
from openset.revent.evaluation import TriggerTools
from openset.store.snapshot import PartitionSnapshot
from openset.store.trigger_changes import Change, Emitted, OnceMarked, OnceUnmarked
from openset_format.block import ERASED_PERSON, PersonId

ENTERED = "entered"
EXITED = "exited"


def follows_inserts(section: CompiledSection) -> bool:
    """Whether an insert alone decides who of the people it touched belongs to a segment."""
    return section.section.script is not None and not _reads_now(section.section.script)


def _reads_now(node: Any) -> bool:
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, tree.Call) and one.function == "now":
            return True
        if isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif dataclasses.is_dataclass(one):
            waiting += [getattr(one, part.name) for part in dataclasses.fields(one)]
    return False


@dataclass(frozen=True, slots=True, eq=False)
class PersonIdsWork:
    """The ids of some people of a partition, by ordinal; None for those who were erased."""

    snapshot: PartitionSnapshot
    ordinals: list[int]

    def run(self, state: WorkerState) -> list[PersonId | None]:
        """Raises StaleSnapshotError, InternalError."""
        people = state.kept(TriggerTools).people.now(self.snapshot).people
        return [
            None if ordinal >= len(people) or people.kinds[ordinal] == ERASED_PERSON else people[ordinal]
            for ordinal in self.ordinals
        ]


@dataclass(slots=True)
class Moves:
    """Who entered and left a segment in a partition, in the order in which it happened.

    told: who belonged to it before, then who belongs to it after.
    """

    told: BitMap
    steps: list[tuple[int, str]] = field(default_factory=list)
    entered: BitMap = field(default_factory=BitMap)
    left: BitMap = field(default_factory=BitMap)

    def judge(self, people: BitMap, members: BitMap) -> None:
        """These of the people are members now, the others are not."""
        entering, leaving = (people & members) - self.told, (people - members) & self.told
        self.steps += [(ordinal, ENTERED) for ordinal in entering] + [(ordinal, EXITED) for ordinal in leaving]
        self.told = (self.told | entering) - leaving
        self.entered = (self.entered - leaving) | entering
        self.left = (self.left - entering) | leaving

    def changes(
        self, trigger_id: int, epoch: int, segment: str, ids: dict[int, PersonId | None], now_ms: int
    ) -> list[Change]:
        """What is written down. ids: of everybody who moved; an erased person's moves are not told."""
        changes: list[Change] = []
        for ordinal, name in self.steps:
            person = ids[ordinal]
            if person is not None:
                changes.append(Emitted(now_ms, ordinal, person, trigger_id, segment, name))
        if self.entered:
            changes.append(OnceMarked(trigger_id, epoch, list(self.entered)))
        if self.left:
            changes.append(OnceUnmarked(trigger_id, epoch, list(self.left)))
        return changes
