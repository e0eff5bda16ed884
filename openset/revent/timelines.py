"""The schedules of many people in a replay, in columns: what on_insert scheduled, and whose function is due next.

Everybody goes on by themselves until a function of theirs is due; those are run together. What is due when an insert
comes runs before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.store.ranges import expand_ranges, offsets_of

NEVER = np.iinfo(np.int64).max
# A trigger that schedules itself on and on ends with an error.
RUNS_PER_PERSON = 10_000
# So many steps on, who is still under way does not keep those waiting whose functions are due.
_STEPS_TOGETHER = 64

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What runs of on_insert scheduled and cancelled, by person (0…people-1), then in the order of events.

    run: int64[n], to which run each belongs, ascending.  function: int32[n].  span_ms: int64[n], below 0: cancelled.
    person, at_ms, end: int64[runs], whose run it was, its `now`, the end of the rows it saw.
    """

    run: Ints
    function: NDArray[np.int32]
    span_ms: Ints
    person: Ints
    at_ms: Ints
    end: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Due:
    """Functions that are due: per person, ascending, when, the end of the rows they see at least, and which."""

    person: Ints
    at_ms: Ints
    end: Ints
    functions: NDArray[np.bool_]


class Timelines:
    """The timelines of `people` people who have moments. functions: how many the script has. to_ms: the end."""

    def __init__(self, moments: Moments, people: int, functions: int, to_ms: int):
        self._moments = moments
        self._to_ms = to_ms
        self._entries = offsets_of(np.bincount(moments.run, minlength=len(moments.person)))
        stops = offsets_of(np.bincount(moments.person, minlength=people))
        self._next, self._stop = stops[:-1].copy(), stops[1:]
        # By person and function: when it is due, and the end of the rows of the run that scheduled it.
        self._due = np.full((people, functions), NEVER, np.int64)
        self._end = np.zeros((people, functions), np.int64)
        self._runs = np.zeros(people, np.int64)
        self._under_way: Ints = np.arange(people, dtype=np.int64)

    def next_due(self) -> Due | None:
        """Each person's functions that are due next, which are taken away; None when nothing is due before the end.

        Raises RunTimeError for a person with too many runs.
        """
        found: list[Ints] = []
        count = steps = 0
        while len(self._under_way) and not (steps > _STEPS_TOGETHER and len(self._under_way) * 4 < count):
            waiting = self._step()
            found.append(waiting)
            count, steps = count + len(waiting), steps + 1
        if not count:
            return None
        person = np.sort(np.concatenate(found))
        held = self._due[person]
        at_ms = held.min(axis=1)
        functions = held == at_ms[:, None]
        end = np.where(functions, self._end[person], 0).max(axis=1)
        self._due[person] = np.where(functions, NEVER, held)
        self._runs[person] += 1
        if self._runs[person].max() > RUNS_PER_PERSON:
            raise RunTimeError(f"more than the budget of {RUNS_PER_PERSON:,} scheduled runs for one person")
        self._under_way = np.concatenate([self._under_way, person])
        return Due(person, at_ms, end, functions)

    def _step(self) -> Ints:
        """Takes in the next moment of everybody under way; gives those for whom something is due before it."""
        people = self._under_way
        first = self._due[people].min(axis=1)
        upcoming = np.full(len(people), NEVER, np.int64)
        more = np.flatnonzero(self._next[people] < self._stop[people])
        upcoming[more] = self._moments.at_ms[self._next[people[more]]]
        is_due = first <= upcoming  # with nothing due and nothing to come the timeline is over
        self._under_way = people[~is_due]
        self._take_in(self._under_way)
        found: Ints = people[is_due & (first < self._to_ms)]
        return found

    def _take_in(self, people: Ints) -> None:
        moment = self._next[people]
        self._next[people] += 1
        low = self._entries[moment]
        sizes = self._entries[moment + 1] - low
        entry = expand_ranges(low, sizes)
        at_ms, end = np.repeat(self._moments.at_ms[moment], sizes), np.repeat(self._moments.end[moment], sizes)
        self.schedule(np.repeat(people, sizes), self._moments.function[entry], self._moments.span_ms[entry], at_ms, end)

    def schedule(self, person: Ints, function: NDArray[np.int32], span_ms: Ints, at_ms: Ints, end: Ints) -> None:
        """Takes in what runs scheduled and cancelled, each function of a person once. at_ms, end: of the runs."""
        self._due[person, function] = np.where(span_ms < 0, NEVER, at_ms + span_ms)
        self._end[person, function] = end
