"""Comparing two tables: everybody by a hash of their events, and event by event those who differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from openset.errors import ConfigError
from openset.store.fold import fold_events
from openset_format.block import PersonId
from openset_tools.diff.fingerprints import EventHashes, Fingerprints, Hashes, PeopleHashes, of_people
from openset_tools.diff.sides import Facts, Partition, Side, without

Advance = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Counts:
    """different: in both, but not the same. a, b: how many there are in all."""

    only_in_a: int
    only_in_b: int
    different: int
    a: int
    b: int

    @property
    def any(self) -> bool:
        return bool(self.only_in_a or self.only_in_b or self.different)

    def shown(self) -> dict[str, int]:
        """As JSON."""
        return {
            "only_in_a": self.only_in_a, "only_in_b": self.only_in_b, "different": self.different,
            "a": self.a, "b": self.b,
        }  # fmt: skip


def compare(
    a: Side, b: Side, pairs: Sequence[tuple[str, str]] | None, samples: int, advance: Advance
) -> dict[str, Any]:
    """What differs, as JSON: tables that only one has, and of those both have columns, settings, people and events.

    pairs: the tables to compare, by their names in a and b; those of the same name when None. samples: how many people
    to show of each table. advance: is told of rows, and of what is done. Raises ConfigError, QueryError, InternalError.
    """
    in_a, in_b = a.tables(), b.tables()
    if pairs is None:
        pairs = [(name, name) for name in in_a if name in in_b]
    else:
        for side, known, names in ((a, in_a, [one for one, _ in pairs]), (b, in_b, [other for _, other in pairs])):
            for name in without(names, known):
                raise ConfigError(f"{side.name} has no table {name!a}")
        in_a = {name: in_a[name] for name, _ in pairs}
        in_b = {name: in_b[name] for _, name in pairs}
    named_a, named_b = {one for one, _ in pairs}, {other for _, other in pairs}
    tables = [
        _table(a, b, one, other, in_a[one], in_b[other], samples, advance) for one, other in pairs
    ]  # fmt: skip
    found: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
        "only_in_a": without(in_a, named_a),
        "only_in_b": without(in_b, named_b),
        "tables": tables,
        "problems": [*(f"{a.name}: {one}" for one in a.problems), *(f"{b.name}: {one}" for one in b.problems)],
    }
    found["same"] = not (found["only_in_a"] or found["only_in_b"] or any(not table["same"] for table in tables))
    return found


def _table(
    a: Side, b: Side, name_a: str, name_b: str, facts_a: Facts, facts_b: Facts, samples: int, advance: Advance
) -> dict[str, Any]:
    label = f"diff table {name_a}"
    parts = [
        side.partitions(name, partial(_verifying, advance, f"{label}, verify {side.name}"))
        for side, name in ((a, name_a), (b, name_b))
    ]
    columns = [name for name, kind in facts_a.columns.items() if facts_b.columns.get(name) == kind]
    total, done = 2 * sum(one.rows for side in parts for one in side), 0
    people: list[PeopleHashes] = []
    for side in parts:
        found = []
        for one in side:
            fingerprints = Fingerprints(columns)
            found += [of_people(fingerprints.events(block)) for block in one.blocks()]
            advance(done := done + one.rows, total, label)
        people.append(_joined(found))
    counts, wanted = _people(people[0], people[1])
    events = [_events(side, columns, wanted) for side in parts]
    advance(total, total, label)
    event_counts = replace(
        _event_counts(events[0], events[1]), a=int(people[0].events.sum()), b=int(people[1].events.sum())
    )
    settings = _settings(facts_a, facts_b)
    differing_columns = _columns(facts_a, facts_b)
    return {
        "a": name_a,
        "b": name_b,
        "same": not (differing_columns or settings or counts.any),
        "columns": differing_columns,
        "settings": settings,
        "people": counts.shown(),
        "events": event_counts.shown(),
        "samples": _samples(parts[0], parts[1], wanted, samples),
    }


def _verifying(advance: Advance, label: str, done: int, total: int) -> None:
    advance(done, total, label)


def _columns(a: Facts, b: Facts) -> list[dict[str, Any]]:
    """Those that are not in both with one type."""
    return [
        {"column": name, "a": a.columns.get(name), "b": b.columns.get(name)}
        for name in [*a.columns, *without(b.columns, a.columns)]
        if a.columns.get(name) != b.columns.get(name)
    ]


def _settings(a: Facts, b: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if a.z_order != b.z_order:
        found["z_order"] = {"a": list(a.z_order), "b": list(b.z_order)}
    if a.retention_days != b.retention_days:
        found["retention_days"] = {"a": a.retention_days, "b": b.retention_days}
    return found


def _joined(parts: Sequence[PeopleHashes]) -> PeopleHashes:
    """Ordered by person."""
    person = np.concatenate([np.zeros(0, np.uint64), *(part.person for part in parts)])
    order = np.argsort(person, kind="stable")
    return PeopleHashes(
        person[order],
        np.concatenate([np.zeros(0, np.uint64), *(part.value for part in parts)])[order],
        np.concatenate([np.zeros(0, np.int64), *(part.events for part in parts)])[order],
    )


def _people(a: PeopleHashes, b: PeopleHashes) -> tuple[Counts, Hashes]:
    """How many differ, and the hashes of all their ids, ascending."""
    both, at_a, at_b = np.intersect1d(a.person, b.person, return_indices=True)
    different = both[a.value[at_a] != b.value[at_b]]
    one_side = np.setxor1d(a.person, b.person)
    counts = Counts(len(a.person) - len(both), len(b.person) - len(both), len(different), len(a.person), len(b.person))
    return counts, np.union1d(one_side, different)


def _events(side: Sequence[Partition], columns: Sequence[str], wanted: Hashes) -> EventHashes:
    """The events of some people, ordered by key."""
    found: list[EventHashes] = []
    if len(wanted):
        for one in side:
            fingerprints = Fingerprints(columns)
            for block in one.blocks():
                member = np.isin(fingerprints.people(block), wanted)
                include = member if block.include is None else member & block.include
                if include.any():
                    found.append(fingerprints.events(replace(block, include=include)))
    nothing = np.zeros(0, np.uint64)
    key = np.concatenate([nothing, *(part.key for part in found)])
    order = np.argsort(key, kind="stable")
    return EventHashes(
        np.concatenate([nothing, *(part.person for part in found)])[order],
        key[order],
        np.concatenate([nothing, *(part.value for part in found)])[order],
    )


def _event_counts(a: EventHashes, b: EventHashes) -> Counts:
    both, at_a, at_b = np.intersect1d(a.key, b.key, return_indices=True)
    different = int(np.count_nonzero(a.value[at_a] != b.value[at_b]))
    return Counts(len(a.key) - len(both), len(b.key) - len(both), different, len(a.key), len(b.key))


def _samples(a: Sequence[Partition], b: Sequence[Partition], wanted: Hashes, limit: int) -> list[dict[str, Any]]:
    """Of the first people who differ the events that do."""
    chosen: dict[tuple[bool, PersonId], None] = {}
    for side in (a, b):
        for one in side:
            if len(chosen) >= limit or not len(wanted):
                break
            fingerprints = Fingerprints(())
            for block in one.blocks():
                runnable = block.runnable
                found = runnable[np.isin(fingerprints.people(block)[runnable], wanted)]
                for person in found[:limit].tolist():
                    person_id = block.person_id(person)
                    if len(chosen) < limit:
                        chosen.setdefault((isinstance(person_id, int), person_id))
    return [_sample(a, b, person, limit) for _, person in chosen]


def _sample(a: Sequence[Partition], b: Sequence[Partition], person: PersonId, limit: int) -> dict[str, Any]:
    in_a, in_b = _history(a, person), _history(b, person)
    keys = [*in_a, *without(in_b, in_a)]
    differing = [key for key in sorted(keys) if in_a.get(key) != in_b.get(key)]
    return {
        "person": person,
        "a": len(in_a),
        "b": len(in_b),
        "differing_events": len(differing),
        "events": [
            {
                "stamp_iso": (in_a.get(key) or in_b[key])["stamp_iso"],
                "action": key[1],
                "a": None if key not in in_a else in_a[key]["attr"],
                "b": None if key not in in_b else in_b[key]["attr"],
            }
            for key in differing[:limit]
        ],
    }


def _history(side: Sequence[Partition], person: PersonId) -> Mapping[tuple[int, str], dict[str, Any]]:
    """The events of a person by stamp and action."""
    for one in side:
        block = one.person(person)
        if block is not None:
            return {(event["stamp"], event["action"]): event for event in fold_events(block)}
    return {}
