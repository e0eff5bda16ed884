"""Merging events of the same people: the newest version of each event, in the order of people, stamp, z-order, arrival.

Nothing here knows files or columns. Rows are named by numbers (`source`): first those of the partition's file, then
those of the delta in journal order. Overlays and compaction both use it; neither loops over rows or people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.store.ranges import expand_ranges, offsets_of, picked


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Events in arrival order, or in final order after `merge`.

    person: int64[events], ordinals. stamp: int64[events], ms. action: integers[events], codes of the partition.
    first_row, rows: int64[events], the numbers of each event's rows: first_row … first_row+rows-1.
    """

    person: NDArray[np.int64]
    stamp: NDArray[np.int64]
    action: NDArray[Any]
    first_row: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.person)

    def take(self, positions: NDArray[Any]) -> Events:
        """The events at these positions, in that order."""
        return Events(
            self.person[positions],
            self.stamp[positions],
            self.action[positions],
            self.first_row[positions],
            self.rows[positions],
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Events]) -> Events:
        """All events, one part after the other."""
        return cls(
            np.concatenate([part.person for part in parts]),
            np.concatenate([part.stamp for part in parts]),
            np.concatenate([part.action for part in parts]),
            np.concatenate([part.first_row for part in parts]),
            np.concatenate([part.rows for part in parts]),
        )


@dataclass(eq=False)
class Layer:
    """All rows of some people, in final order.

    people:      int64[people], ordinals, ascending.
    row_start:   int64[people+1]
    source:      int64[rows], which row of file and delta each row is.
    stamp:       int64[rows], ms.
    action:      integers[rows], codes of the partition.
    event_start: bool[rows]
    """

    people: NDArray[np.int64]
    row_start: NDArray[np.int64]
    source: NDArray[np.int64]
    stamp: NDArray[np.int64]
    action: NDArray[Any]
    event_start: NDArray[np.bool_]

    @property
    def rows(self) -> int:
        return len(self.source)

    @cached_property
    def is_flat(self) -> bool:
        """Whether every event is one row."""
        return bool(self.event_start.all())

    def find(self, people: NDArray[np.int64]) -> tuple[Events, NDArray[np.int64]]:
        """The events of those of `people` (ascending) that this layer has, in order, and the people it has not."""
        place = np.searchsorted(self.people, people)
        place[place == len(self.people)] = 0
        here = self.people[place] == people if len(self.people) else np.zeros(len(people), np.bool_)
        place = place[here]
        lengths = self.row_start[place + 1] - self.row_start[place]
        rows = expand_ranges(self.row_start[place], lengths)
        person = np.repeat(self.people[place], lengths)
        starts = np.flatnonzero(self.event_start[rows])
        first = rows[starts]
        events = Events(
            person[starts],
            self.stamp[first],
            self.action[first],
            self.source[first],
            np.diff(np.append(starts, len(rows))),
        )
        return events, people[~here]

    def part(self, first: int, last: int) -> Layer:
        """The people at places first…last-1 as a layer of their own that shares all memory."""
        low, high = int(self.row_start[first]), int(self.row_start[last])
        rows = slice(low, high)
        return Layer(
            people=self.people[first:last],
            row_start=self.row_start[first : last + 1] - low,
            source=self.source[rows],
            stamp=self.stamp[rows],
            action=self.action[rows],
            event_start=self.event_start[rows],
        )


def no_events() -> Events:
    """Nobody's."""
    nothing = np.zeros(0, np.int64)
    return Events(nothing, nothing, np.zeros(0, np.uint8), nothing, nothing)


def empty_layer() -> Layer:
    """A layer of nobody."""
    nothing = np.zeros(0, np.int64)
    return Layer(nothing, np.zeros(1, np.int64), nothing, nothing, nothing, np.zeros(0, np.bool_))


def layer_without_rows(people: NDArray[np.int64]) -> Layer:
    """A layer of people (ascending ordinals) who have nothing."""
    nothing = np.zeros(0, np.int64)
    return Layer(people, np.zeros(len(people) + 1, np.int64), nothing, nothing, nothing, np.zeros(0, np.bool_))


def merge(events: Events, ranks: NDArray[np.int64]) -> Events:
    """Events in arrival order to final order, without those that a later one replaces.

    An event with the person, stamp and action of an earlier one takes that one's place.
    ranks: int64[action codes], the position of each action in the z-order, the same for all that are not in it.
    """
    rank = ranks[events.action]
    order = _order(events.person, events.stamp, rank)
    person, stamp, rank = events.person[order], events.stamp[order], rank[order]
    new = np.ones(len(order), np.bool_)
    new[1:] = (person[1:] != person[:-1]) | (stamp[1:] != stamp[:-1]) | (rank[1:] != rank[:-1])
    if new.all():
        return events.take(order)
    # Only events of one person, stamp and rank can be the same: look for equal actions among those.
    tied = ~new
    tied[:-1] |= tied[1:].copy()
    where = np.flatnonzero(tied)
    group = np.cumsum(new)[where]
    action = events.action[order[where]]
    by_action = np.lexsort((action, group))
    group, action = group[by_action], action[by_action]
    first = np.ones(len(where), np.bool_)
    first[1:] = (group[1:] != group[:-1]) | (action[1:] != action[:-1])
    starts = np.flatnonzero(first)
    places = where[by_action]
    # The last arrival of equal ones moves to the place of the first, the others go.
    last = np.append(starts[1:], len(where)) - 1
    newest = order[places[last]]
    order[places[starts]] = newest
    keep = np.ones(len(order), np.bool_)
    keep[places[~first]] = False
    return events.take(order[keep])


def _order(person: NDArray[np.int64], stamp: NDArray[np.int64], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64[events]: the stable order by person, stamp, rank; by one packed key where that fits 63 bits."""
    if not len(person):
        return np.zeros(0, np.int64)
    lowest = [int(key.min()) for key in (person, stamp, rank)]
    spans = [int(key.max()) - low for key, low in zip((person, stamp, rank), lowest, strict=True)]
    bits = [span.bit_length() for span in spans]
    if sum(bits) > 63:
        return np.lexsort((rank, stamp, person))
    packed = (person - lowest[0]) << bits[1]
    packed += stamp - lowest[1]
    packed <<= bits[2]
    packed += rank - lowest[2]
    return np.argsort(packed, kind="stable")


def layer_of(events: Events) -> Layer:
    """The layer of events in final order; it has the people that occur."""
    if not len(events):
        return empty_layer()
    person_starts = np.flatnonzero(np.append(True, events.person[1:] != events.person[:-1]))
    event_rows = offsets_of(events.rows)
    event_start = np.zeros(int(event_rows[-1]), np.bool_)
    event_start[event_rows[:-1]] = True
    return Layer(
        people=events.person[person_starts],
        row_start=np.append(event_rows[person_starts], event_rows[-1]),
        source=expand_ranges(events.first_row, events.rows),
        stamp=np.repeat(events.stamp, events.rows),
        action=np.repeat(events.action, events.rows),
        event_start=event_start,
    )


def splice(lower: Layer, upper: Layer) -> Layer:
    """The people of both layers; who is in both is taken from `upper`."""
    if not len(lower.people) or not len(upper.people):
        return upper if len(upper.people) else lower
    keep = np.flatnonzero(~np.isin(lower.people, upper.people, assume_unique=True))
    people = np.concatenate([lower.people[keep], upper.people])
    order = np.argsort(people, kind="stable")
    starts = np.concatenate([lower.row_start[keep], upper.row_start[:-1] + lower.rows])[order]
    lengths = np.concatenate([np.diff(lower.row_start)[keep], np.diff(upper.row_start)])[order]
    rows = expand_ranges(starts, lengths)
    return Layer(
        people=people[order],
        row_start=offsets_of(lengths),
        source=picked(lower.source, upper.source, rows),
        stamp=picked(lower.stamp, upper.stamp, rows),
        action=picked(lower.action, upper.action, rows),
        event_start=picked(lower.event_start, upper.event_start, rows),
    )
