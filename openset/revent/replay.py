"""Replaying the history of the people of one Block: on_insert event by event, scheduled runs at their times.

A run of on_insert follows from the rows up to its event alone, so runs for many events are made at once: a Block in
which a person occurs once per event, each time with the rows up to it. What they scheduled is then played through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql.lanes.engine import Plan
from openset.pyql.lanes.triggers import BlockActions, block_actions
from openset.pyql.names import IS_NEW, NOW, ON_INSERT
from openset.pyql.settings import RunSettings
from openset.revent.disabling import AT_ONCE, DUE, INSERTED, LAST_MOMENT, Failures, moments_of
from openset.revent.timelines import Ints, Moments, Timelines
from openset.store.identity import SelectedPersonIds
from openset.store.ranges import expand_ranges, offsets_of
from openset_format.block import Block, Column, PersonId

# At most so many rows are put together for one run of the engine, unless one person has more.
ROWS_AT_ONCE = 1 << 19
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
    """What some people would have emitted.

    people: whom on_insert ran for. failed: the moment of every run that failed, in pieces. last_failure: the moment of
    the last of them and why. successes: where that was asked for, which moments of known failures had a run without an
    error before them.
    """

    emissions: list[Replayed] = field(default_factory=list)
    people: int = 0
    runs: int = 0
    failed: list[Ints] = field(default_factory=list)
    last_failure: tuple[int, str] | None = None
    successes: NDArray[np.bool_] | None = None

    @property
    def errors(self) -> int:
        """Runs that failed."""
        return sum(map(len, self.failed))

    def add(self, emissions: list[Replayed]) -> None:
        """Raises RunTimeError when it is too much."""
        self.emissions += emissions
        if len(self.emissions) > MOST_EMISSIONS:
            raise RunTimeError(f"the backtest emits more than its budget of {MOST_EMISSIONS:,} messages")

    def fail(self, failed: list[Ints], last: tuple[int, str] | None) -> None:
        """Runs failed; of those of one moment the message that sorts last is that of the last."""
        self.failed += failed
        self.last_failure = max((one for one in (self.last_failure, last) if one is not None), default=None)

    def merge(self, other: Replay) -> None:
        """Adds what was found among other people. Raises RunTimeError when it is too much."""
        self.add(other.emissions)
        self.people += other.people
        self.runs += other.runs
        self.fail(other.failed, other.last_failure)
        if other.successes is not None:
            self.successes = other.successes if self.successes is None else self.successes | other.successes


@dataclass(frozen=True, slots=True, eq=False)
class _Runs:
    """Runs of a function. person: in the Block.  end: of the rows each sees; those from new_from on are new.

    moment: see `disabling`.
    """

    person: Ints
    end: Ints
    new_from: Ints
    now_ms: Ints
    moment: Ints

    def __len__(self) -> int:
        return len(self.person)

    def part(self, first: int, last: int) -> _Runs:
        """Some of them."""
        own = slice(first, last)
        return _Runs(self.person[own], self.end[own], self.new_from[own], self.now_ms[own], self.moment[own])


class BlockReplay:
    """The replay of the people of one Block. from_ms, to_ms: events from the one to before the other are inserts."""

    def __init__(
        self,
        plan: Plan,
        block: Block,
        settings: RunSettings,
        *,
        once: bool,
        from_ms: int,
        to_ms: int,
        failures: Failures | None = None,
        last_moment: int | None = None,
    ):
        """failures: tells which of these moments have a run without an error before them. last_moment: of all runs."""
        self._plan = plan
        self._block = block
        self._settings = settings
        self._once = once
        self._from_ms, self._to_ms = from_ms, to_ms
        self._event_rows = block.event_first_row
        self._stamps = block.stamp[self._event_rows[:-1]]
        self._columns = [name for name in sorted({"action", *plan.script.columns}) if name in block.columns]
        self._failures = failures
        self._last_moment = LAST_MOMENT if last_moment is None else last_moment
        self._found = Replay()
        if failures is not None:
            self._found.successes = np.zeros(len(failures.moments), np.bool_)

    def replay(self, people: Ints) -> Replay:
        """Everything. people: whom to do it for, ascending. Raises RunTimeError when a budget is used up."""
        scheduling, moments = self._inserts(people)
        if len(scheduling):
            functions = len(self._plan.script.functions)
            self._schedules(scheduling, Timelines(moments, len(scheduling), functions, self._to_ms))
        return self._found

    # ---------------------------------------------------------------- inserts

    def _inserts(self, people: Ints) -> tuple[Ints, Moments]:
        """Runs on_insert for the events in the window; who scheduled anything, and what.

        With once, nobody needs the events after their first emission, so a window of events grows as nothing is found.
        A script that reads ids gets one event of everybody at a time: in a Block they must be distinct.
        """
        event, number = self._window(people)
        some = np.flatnonzero(number)
        people, event, number = people[some], event[some], number[some]
        self._found.people += len(people)
        found: list[_Scheduled] = []
        done = 0
        while len(people):
            distinct = "person" in self._plan.script.columns
            most = 1 if distinct else max(1, done // 2) if self._once else int(number.max())
            taken = np.minimum(number, most)
            slot = np.repeat(np.arange(len(people)), taken)
            events = expand_ranges(event, taken)
            now_ms = self._stamps[events]
            ends, starts = self._event_rows[events + 1], self._event_rows[events]
            runs = _Runs(people[slot], ends, starts, now_ms, moments_of(now_ms, INSERTED))
            ended = np.zeros(len(people), np.bool_)
            for first, last in self._pieces(runs):
                scheduled = self._insert(runs.part(first, last), slot[first:last], ended)
                if len(scheduled.run):
                    found.append(scheduled)
            going = np.flatnonzero((number > taken) & ~ended)
            people, event, number = people[going], (event + taken)[going], (number - taken)[going]
            done += most
        return _moments(found)

    def _window(self, people: Ints) -> tuple[Ints, Ints]:
        """Per person the first event that is an insert, and how many are. Within a person stamps ascend."""
        first = np.searchsorted(self._event_rows[:-1], self._block.row_start)
        low, high = first[people], first[people + 1]
        before = offsets_of((self._stamps < self._from_ms).astype(np.int64))
        inside = offsets_of(((self._stamps >= self._from_ms) & (self._stamps < self._to_ms)).astype(np.int64))
        return low + before[high] - before[low], inside[high] - inside[low]

    def _pieces(self, runs: _Runs) -> list[tuple[int, int]]:
        """Cuts runs so that each piece has a bounded number of rows."""
        ends = np.cumsum(runs.end - self._block.row_start[runs.person])
        pieces = []
        first = 0
        while first < len(runs):
            reach = (int(ends[first - 1]) if first else 0) + ROWS_AT_ONCE
            last = max(first + 1, int(np.searchsorted(ends, reach, side="right")))
            pieces.append((first, last))
            first = last
        return pieces

    def _insert(self, runs: _Runs, slot: Ints, ended: NDArray[np.bool_]) -> _Scheduled:
        """Some runs of on_insert, by person and event; with once those after an emission never happened.

        slot, ended: the place of each run's person in `ended`, which says who has emitted.
        """
        actions = self._run(runs, ON_INSERT)
        happened = np.ones(len(runs), np.bool_)
        if self._once:
            happened = ~ended[slot]
            emits = np.zeros(len(runs), np.bool_)
            emits[[one.person for one in actions.emissions]] = True
            # The first emission of each person, among runs that happened.
            at = np.flatnonzero(emits & happened)
            emitting, first = np.unique(slot[at], return_index=True)
            until = np.full(len(ended), len(runs), np.int64)
            until[emitting] = at[first]
            happened &= np.arange(len(runs)) <= until[slot]
            ended[emitting] = True
        self._note(actions, runs, happened)
        schedules = actions.schedules.keep(np.flatnonzero(happened[actions.schedules.lane]))
        return _Scheduled(runs, schedules.lane, schedules.function, schedules.span_ms)

    # ---------------------------------------------------------------- schedules

    def _schedules(self, people: Ints, timelines: Timelines) -> None:
        """Runs what is due, everybody's next moment at once, until nothing is due before the end."""
        functions = list(self._plan.script.functions)
        last_moment = np.full(len(people), -1, np.int64)
        while (due := timelines.next_due()) is not None:
            self._settings.check_deadline()
            person = people[due.person]
            before = self._rows_before(person, due.at_ms)
            end = np.maximum(before, due.end)
            # Who scheduled it saw events of this very millisecond.
            moment = moments_of(due.at_ms, np.where(due.end > before, AT_ONCE, DUE))
            # What was scheduled for at once runs after what scheduled it.
            moment = last_moment[due.person] = np.maximum(moment, last_moment[due.person] + 1)
            # The order in which the daemon runs what is due at one moment.
            for place in sorted(range(len(functions)), key=functions.__getitem__):
                chosen = np.flatnonzero(due.functions[:, place])
                if not len(chosen):
                    continue
                runs = _Runs(person[chosen], end[chosen], end[chosen], due.at_ms[chosen], moment[chosen])
                actions = self._run(runs, functions[place])
                self._note(actions, runs, np.ones(len(runs), np.bool_))
                made = actions.schedules
                at = made.lane
                timelines.schedule(due.person[chosen][at], made.function, made.span_ms, runs.now_ms[at], runs.end[at])

    def _rows_before(self, people: Ints, moments: Ints) -> Ints:
        """The end of each person's rows of stamps before a moment: a binary search for all at once."""
        low, high = self._block.row_start[people].copy(), self._block.row_start[people + 1].copy()
        while True:
            open_ = np.flatnonzero(low < high)
            if not len(open_):
                return low
            middle = (low[open_] + high[open_]) // 2
            before = self._block.stamp[middle] < moments[open_]
            low[open_[before]] = middle[before] + 1
            high[open_[~before]] = middle[~before]

    # ---------------------------------------------------------------- running

    def _run(self, runs: _Runs, function: str) -> BlockActions:
        """A function for people as they were. Raises BudgetError."""
        block = self._block
        starts = block.row_start[runs.person]
        lengths = runs.end - starts
        rows = expand_ranges(starts, lengths)
        columns: dict[str, Column] = {}
        for name in self._columns:
            column = block.columns[name]
            valid = None if column.valid is None else column.valid[rows]
            columns[name] = Column(column.type, column.values[rows], valid, column.dictionary)
        columns[IS_NEW] = Column("bool", (rows >= np.repeat(runs.new_from, lengths)).astype(np.uint8))
        columns[NOW] = Column("int", np.repeat(runs.now_ms, lengths))
        seen = Block(
            ids=SelectedPersonIds(block.ids, runs.person + block.first_person),
            row_start=offsets_of(lengths),
            stamp=block.stamp[rows],
            event_start=None if block.event_start is None else block.event_start[rows],
            columns=columns,
        )
        return block_actions(self._plan, seen, self._settings, function)

    def _note(self, actions: BlockActions, runs: _Runs, happened: NDArray[np.bool_]) -> None:
        """Notes what was emitted and what failed in runs that happened."""
        found = self._found
        happened = happened & (runs.moment <= self._last_moment)
        found.runs += int(happened.sum())
        found.add(
            [
                Replayed(
                    int(runs.now_ms[one.person]),
                    self._block.person_id(int(runs.person[one.person])),
                    one.name,
                    one.value,
                )
                for one in actions.emissions
                if happened[one.person]
            ]
        )
        failed = [place for place, _ in actions.failures if happened[place]]
        if failed:
            last = max((int(runs.moment[place]), error.message) for place, error in actions.failures if happened[place])
            found.fail([runs.moment[failed]], last)
        if self._failures is not None:
            assert found.successes is not None
            succeeded = happened.copy()
            succeeded[failed] = False
            found.successes |= self._failures.gaps_with_success(runs.moment[succeeded])


@dataclass(frozen=True, slots=True, eq=False)
class _Scheduled:
    """What runs scheduled: by place of the run, ascending, the function and the span (below 0: cancelled)."""

    runs: _Runs
    run: Ints
    function: NDArray[np.int32]
    span_ms: Ints


def _moments(found: list[_Scheduled]) -> tuple[Ints, Moments]:
    """The people who scheduled anything, and what they did, by person and moment."""
    none = np.zeros(0, np.int64)
    if not found:
        return none, Moments(none, np.zeros(0, np.int32), none, none, none, none)
    person = np.concatenate([one.runs.person[one.run] for one in found])
    end = np.concatenate([one.runs.end[one.run] for one in found])
    at_ms = np.concatenate([one.runs.now_ms[one.run] for one in found])
    order = np.lexsort((end, person))
    person, end, at_ms = person[order], end[order], at_ms[order]
    new = np.append(True, (person[1:] != person[:-1]) | (end[1:] != end[:-1]))
    people, slot = np.unique(person[new], return_inverse=True)
    return people, Moments(
        np.cumsum(new) - 1,
        np.concatenate([one.function for one in found])[order],
        np.concatenate([one.span_ms for one in found])[order],
        slot.astype(np.int64),
        at_ms[new],
        end[new],
    )
