"""What a trigger would have emitted had it been live: history replayed event by event, scheduled runs at their times.

on_insert runs for the k-th event of everybody at once, on the events up to it, with the event's stamp for `now`. Then
the schedules that came of it run when they were due, on the events before. Nothing is emitted. Shortcuts: what
emit_as_event would have inserted is not part of the history, a filter means the people of today, and of an event only
its last version is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql.actions import Actions, Scheduling
from openset.pyql.lanes.engine import Plan
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.names import IS_NEW, NOW, ON_INSERT
from openset.pyql.settings import RunSettings
from openset.query.fan_out import Portion, turn
from openset.query.work import WorkerState
from openset.revent.evaluation import TriggerTools
from openset.store.identity import SelectedPersonIds
from openset.store.members import SegmentRef
from openset.store.ranges import expand_ranges, offsets_of
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import Block, Column, PersonId

BLOCK_ROWS = 1 << 18
# A trigger that schedules itself on and on ends with an error.
RUNS_PER_PERSON = 10_000
MOST_EMISSIONS = 1_000_000


@dataclass(frozen=True, slots=True)
class Replayed:
    """An emission that would have been."""

    stamp_ms: int
    person: PersonId
    name: str
    value: Any


@dataclass(slots=True)
class Replay:
    """What some people would have emitted. people: whom on_insert ran for. errors: runs that failed."""

    emissions: list[Replayed] = field(default_factory=list)
    people: int = 0
    runs: int = 0
    errors: int = 0
    error: str | None = None

    def merge(self, other: Replay) -> None:
        """Adds what was found among other people. Raises RunTimeError when it is too much."""
        self.emissions += other.emissions
        self.people += other.people
        self.runs += other.runs
        self.errors += other.errors
        self.error = self.error or other.error
        if len(self.emissions) > MOST_EMISSIONS:
            raise RunTimeError(f"the backtest emits more than its budget of {MOST_EMISSIONS:,} messages")


@dataclass(frozen=True, slots=True, eq=False)
class BacktestWork:
    """The replay of some partitions. from_ms, to_ms: events from the one to before the other are inserts."""

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    once: bool
    filter: SegmentRef | None
    from_ms: int
    to_ms: int
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
                found.merge(_BlockReplay(self, plan, block).replay(people))
            done += 1
        return Portion(found, done)


class _BlockReplay:
    """The replay of the people of one Block."""

    def __init__(self, work: BacktestWork, plan: Plan, block: Block):
        self.work = work
        self.plan = plan
        self.block = block
        self.found = Replay()
        firsts = block.event_first_row
        self.event_rows = firsts
        # The events of person p are first_event[p] … first_event[p+1]-1.
        self.first_event = np.searchsorted(firsts[:-1], block.row_start)
        self.stamps = block.stamp[firsts[:-1]]
        self.names = [name for name in ("action", *plan.script.columns) if name in block.columns and name != IS_NEW]

    def replay(self, people: NDArray[np.int64]) -> Replay:
        """Everything. people: whom to do it for, ascending."""
        timelines = self._inserts(people)
        self._schedules({person: _Timeline(moments) for person, moments in timelines.items()})
        return self.found

    # ---------------------------------------------------------------- inserts

    def _inserts(self, people: NDArray[np.int64]) -> dict[int, list[_Moment]]:
        """Runs on_insert for every event in the window; what was scheduled, by person and moment."""
        timelines: dict[int, list[_Moment]] = {}
        low, high = self.first_event[people], self.first_event[people + 1]
        # Within a person stamps ascend: the window is a range of events.
        inside = (self.stamps >= self.work.from_ms) & (self.stamps < self.work.to_ms)
        counts = offsets_of(inside.astype(np.int64))
        number = counts[high] - counts[low]
        before = np.concatenate([[0], np.cumsum(self.stamps < self.work.from_ms)])
        event = low + before[high] - before[low]
        some = np.flatnonzero(number)
        people, event, number = people[some], event[some], number[some]
        self.found.people += len(people)
        while len(people):
            self.work.settings.check_deadline()
            now_ms = self.stamps[event]
            actions = self._run(people, self.event_rows[event + 1], self.event_rows[event], now_ms, ON_INSERT)
            emitted = self._take(actions, people, now_ms)
            for scheduling in actions.schedulings:
                at = scheduling.person
                moments = timelines.setdefault(int(people[at]), [])
                end = int(self.event_rows[event[at] + 1])
                if not moments or moments[-1].end != end:
                    moments.append(_Moment(int(now_ms[at]), end, []))
                moments[-1].schedulings.append(scheduling)
            going = number > 1
            if self.work.once and len(emitted):
                going[emitted] = False
            people, event, number = people[going], event[going] + 1, number[going] - 1
        return timelines

    # ---------------------------------------------------------------- schedules

    def _schedules(self, timelines: dict[int, _Timeline]) -> None:
        """Runs what is due, everybody's next moment at once, until nothing is due before the end."""
        while timelines:
            self.work.settings.check_deadline()
            due: dict[int, _Due] = {}
            for person, timeline in list(timelines.items()):
                moment = timeline.next_due(self.work.to_ms)
                if moment is None:
                    del timelines[person]
                else:
                    end = max(self._rows_before(person, moment.at_ms), moment.end)
                    due[person] = _Due(moment.at_ms, end, moment.functions)
            results: dict[int, list[Scheduling]] = {person: [] for person in due}
            for function in sorted({name for one in due.values() for name in one.functions}):
                chosen = sorted(person for person, one in due.items() if function in one.functions)
                moments = np.array([due[person].at_ms for person in chosen], np.int64)
                people = np.array(chosen, np.int64)
                ends = np.array([due[person].end for person in chosen], np.int64)
                actions = self._run(people, ends, ends, moments, function)
                self._take(actions, people, moments)
                for scheduling in actions.schedulings:
                    results[chosen[scheduling.person]].append(scheduling)
            for person, schedulings in results.items():
                timelines[person].apply(_Moment(due[person].at_ms, due[person].end, schedulings))

    def _rows_before(self, person: int, moment: int) -> int:
        """The end of a person's rows of stamps before a moment."""
        first, end = int(self.block.row_start[person]), int(self.block.row_start[person + 1])
        return first + int(np.searchsorted(self.block.stamp[first:end], moment))

    # ---------------------------------------------------------------- running

    def _run(
        self,
        people: NDArray[np.int64],
        ends: NDArray[np.int64],
        new_from: NDArray[np.int64],
        now_ms: NDArray[np.int64],
        function: str,
    ) -> Actions:
        """A function for people (ascending), each with the rows up to an end, those from another row on being new."""
        block = self.block
        starts = block.row_start[people]
        lengths = ends - starts
        rows = expand_ranges(starts, lengths)
        columns: dict[str, Column] = {}
        for name in self.names:
            column = block.columns[name]
            valid = None if column.valid is None else column.valid[rows]
            columns[name] = Column(column.type, column.values[rows], valid, column.dictionary)
        columns[IS_NEW] = Column("bool", (rows >= np.repeat(new_from, lengths)).astype(np.uint8))
        columns[NOW] = Column("int", np.repeat(now_ms, lengths))
        prefix = Block(
            ids=SelectedPersonIds(block.ids, people + block.first_person),
            row_start=offsets_of(lengths),
            stamp=block.stamp[rows],
            event_start=None if block.event_start is None else block.event_start[rows],
            columns=columns,
        )
        self.found.runs += len(people)
        return trigger_actions(self.plan, prefix, self.work.settings, function)

    def _take(self, actions: Actions, people: NDArray[np.int64], now_ms: NDArray[np.int64]) -> list[int]:
        """Notes emissions and failures; gives the places of the people who emitted."""
        for one in actions.emissions:
            person = self.block.person_id(int(people[one.person]))
            self.found.emissions.append(Replayed(int(now_ms[one.person]), person, one.name, one.value))
        self.found.errors += len(actions.failures)
        if actions.failures:
            self.found.error = self.found.error or actions.failures[0][1].message
        return [one.person for one in actions.emissions]


@dataclass(frozen=True, slots=True)
class _Moment:
    """What a run scheduled and cancelled. at_ms: its now. end: of the rows it saw."""

    at_ms: int
    end: int
    schedulings: list[Scheduling]


@dataclass(frozen=True, slots=True)
class _Due:
    """Functions that are due at a moment. end: of the rows that they see at least."""

    at_ms: int
    end: int
    functions: list[str]


class _Timeline:
    """A person's schedules. moments: what on_insert scheduled, in the order of events."""

    def __init__(self, moments: list[_Moment]):
        self._moments = moments
        self._next = 0
        # By function: when, and the end of the rows of the run that scheduled it.
        self._due: dict[str, tuple[int, int]] = {}
        self._runs = 0

    def next_due(self, to_ms: int) -> _Due | None:
        """The functions that are due next, before an end; they are taken away.

        What is due when an insert comes runs before it. Raises RunTimeError for a person with too many runs.
        """
        while True:
            first = min((due_ms for due_ms, _ in self._due.values()), default=None)
            upcoming = self._moments[self._next] if self._next < len(self._moments) else None
            if first is not None and (upcoming is None or first <= upcoming.at_ms):
                if first >= to_ms:
                    return None
                functions = sorted(name for name, (due_ms, _) in self._due.items() if due_ms == first)
                end = max(self._due.pop(name)[1] for name in functions)
                self._runs += 1
                if self._runs > RUNS_PER_PERSON:
                    raise RunTimeError(f"more than the budget of {RUNS_PER_PERSON:,} scheduled runs for one person")
                return _Due(first, end, functions)
            if upcoming is None:
                return None
            self.apply(upcoming)
            self._next += 1

    def apply(self, moment: _Moment) -> None:
        """Takes in what a run scheduled and cancelled, in order."""
        for one in moment.schedulings:
            if one.span_ms is None:
                self._due.pop(one.function, None)
            else:
                self._due[one.function] = (moment.at_ms + one.span_ms, moment.end)


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
