"""The body of an insert request to a batch of events, or to a list of what is wrong with it.

Events whose attributes are plain values are taken column by column, all events with the same keys at once; the types
of a whole column are checked in one pass of C code. Only events with lists or groups, and those of a column where
something is wrong, are looked at one by one (`expand`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import InsertError
from openset.store.decode import Decoded, Event, Problem, check_event, decode_body
from openset.store.encode import ColumnBuilder, build_batch
from openset.store.expand import ROWS_PER_EVENT, BadEvent, Row, expand
from openset.store.now import NOW, NowStamps
from openset.store.ranges import offsets_of
from openset.store.schema import TableSchema
from openset.store.stamps import LAST_STAMP, SECONDS_BELOW, BadStamp, parse_stamp
from openset_format.batch import EventBatch, encode_batch
from openset_format.block import Column, ColumnType

PROBLEMS_SHOWN = 20

_FITTING: dict[ColumnType, frozenset[type]] = {
    "text": frozenset({str, type(None)}),
    "int": frozenset({int, type(None)}),
    "double": frozenset({float, int, type(None)}),
    "bool": frozenset({bool, type(None)}),
}


@dataclass(frozen=True, slots=True)
class Insert:
    """A request ready to be committed.

    batch: the good events, None when there are none. payload: the same as the journal takes it.
    accepted, rejected: how many events of the request. problems: the first bad events of the request.
    table_id: of the table whose columns it was checked against.
    """

    batch: EventBatch | None
    payload: bytes
    accepted: int
    rejected: int
    problems: tuple[Problem, ...]
    table_id: int

    def report(self) -> list[dict[str, Any]]:
        """The problems as they are shown: index and reason."""
        return _report(self.problems)


def prepare_insert(
    body: bytes,
    schema: TableSchema,
    partitions: int,
    now_ms: int,
    *,
    newline_delimited: bool = False,
    skip_bad: bool = False,
    rows_per_event: int = ROWS_PER_EVENT,
    now_stamps: NowStamps | None = None,
) -> Insert:
    """Reads, checks, expands and encodes a request body.

    now_ms: what a missing stamp means; further events of the same person and action get the next milliseconds.
    now_stamps: of the table, where earlier requests without stamps count too.
    Raises InsertError when the body is not JSON, or when an event is bad and bad ones are not skipped.
    """
    events = prepare_events(
        decode_body(body, newline_delimited), schema, partitions, now_ms, rows_per_event, now_stamps or NowStamps()
    )
    if events.problems and not skip_bad:
        raise InsertError(
            f"{events.rejected} of {events.accepted + events.rejected} events are bad, nothing was inserted",
            detail=_report(events.problems[:PROBLEMS_SHOWN]),
        )
    payload = b"" if events.batch is None else encode_batch(events.batch)
    shown = tuple(events.problems[:PROBLEMS_SHOWN])
    return Insert(events.batch, payload, events.accepted, events.rejected, shown, schema.id)


@dataclass(frozen=True, slots=True)
class PreparedEvents:
    """The good events of a request, None when there are none, and what is wrong with the others, in their order."""

    batch: EventBatch | None
    accepted: int
    problems: list[Problem]

    @property
    def rejected(self) -> int:
        return len(self.problems)


def prepare_events(
    decoded: Decoded,
    schema: TableSchema,
    partitions: int,
    now_ms: int,
    rows_per_event: int = ROWS_PER_EVENT,
    now_stamps: NowStamps | None = None,
) -> PreparedEvents:
    """Checks, expands and encodes decoded events. now_stamps: what gives the missing stamps."""
    stamps = _drop_bad_events(decoded)
    collector = _Collector(schema.column_types, rows_per_event)
    collector.add(decoded)
    problems = sorted(chain(decoded.problems, collector.problems), key=lambda problem: problem.index)
    good = np.flatnonzero(collector.row_counts)
    batch = None
    if len(good):
        events = decoded.events if len(good) == len(decoded.events) else [decoded.events[e] for e in good.tolist()]
        _set_missing_stamps(stamps := stamps[good], events, now_ms, now_stamps or NowStamps())
        starts = offsets_of(collector.row_counts)
        batch = build_batch(
            [event.person for event in events],
            [event.action for event in events],
            stamps,
            np.append(starts[:-1][good], starts[-1]),
            collector.columns(schema, starts),
            partitions,
        )
    return PreparedEvents(batch, len(good), problems)


def _report(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    return [{"index": problem.index, "reason": problem.reason} for problem in problems]


def _drop_bad_events(decoded: Decoded) -> NDArray[np.int64]:
    """Takes events with a bad person, action or stamp out of the list, looking at each only when one is bad.

    Returns int64[events left]: their stamps in ms, NOW where there is none.
    """
    if decoded.checked:
        return _read_stamps(decoded.events)
    try:
        if _names_sound(decoded.events):
            return _read_stamps(decoded.events)
    except BadStamp:
        pass  # Which one and why is found below, with the other problems.
    events, indices = [], []
    for position, event in enumerate(decoded.events):
        try:
            check_event(event)
        except BadEvent as bad:
            decoded.problems.append(Problem(decoded.index_of(position), str(bad)))
        else:
            events.append(event)
            indices.append(decoded.index_of(position))
    decoded.events, decoded.indices = events, indices
    return _read_stamps(events)


def _names_sound(events: Sequence[Event]) -> bool:
    """False when a person or an action is bad."""
    persons = {event.person for event in events}
    if "" in persons or not all(-(2**63) <= person < 2**63 for person in persons if isinstance(person, int)):
        return False
    return "" not in {event.action for event in events}


def _read_stamps(events: Sequence[Event]) -> NDArray[np.int64]:
    """int64[events], ms, NOW where there is none. Raises BadStamp."""
    given: list[Any] = [event.stamp for event in events]
    if set(map(type, given)) <= {int}:
        if given and not (min(given) >= 0 and max(given) <= LAST_STAMP):
            raise BadStamp("a stamp is out of range")
        stamps = np.fromiter(given, np.int64, len(given))
        return np.where(stamps < SECONDS_BELOW, stamps * 1_000, stamps)
    return np.fromiter((NOW if stamp is None else parse_stamp(stamp) for stamp in given), np.int64, len(given))


class _Collector:
    """The attributes of all events of a request, checked and encoded column by column."""

    def __init__(self, columns: Mapping[str, ColumnType], rows_per_event: int):
        self._columns = columns
        self._rows_per_event = rows_per_event
        self._builders: dict[str, ColumnBuilder] = {}
        self.problems: list[Problem] = []
        self.row_counts = np.zeros(0, np.int64)

    def add(self, decoded: Decoded) -> None:
        """Takes all events. Afterwards `row_counts` (int64[events]) is 0 for the bad ones."""
        self.row_counts = np.zeros(len(decoded.events), np.int64)
        by_keys: dict[tuple[str, ...], list[int]] = {}
        for position, event in enumerate(decoded.events):
            by_keys.setdefault(tuple(event.attr) if event.attr else (), []).append(position)
        general: list[int] = []
        for keys, positions in by_keys.items():
            if decoded.checked or not self._add_flat(keys, positions, decoded.events):
                general += positions
        if general:
            self._add_general(sorted(general), decoded)

    def _add_flat(self, keys: tuple[str, ...], positions: list[int], events: Sequence[Event]) -> bool:
        """Takes events that all have these keys, when every value is plain and fits; otherwise takes none."""
        if not keys:
            self.row_counts[positions] = 1
            return True
        if not self._columns.keys() >= set(keys):
            return False
        transposed = list(zip(*[events[position].attr.values() for position in positions], strict=True))  # type: ignore[union-attr]
        kinds = [set(map(type, values)) for values in transposed]
        for key, values, found in zip(keys, transposed, kinds, strict=True):
            column_type = self._columns[key]
            if not found <= _FITTING[column_type]:
                return False
            if int in found and not _within_64_bits(values):
                return False
        where = np.array(positions, np.int64)
        for key, values, found in zip(keys, transposed, kinds, strict=True):
            self._builder(key).add(where, values, has_none=type(None) in found)
        self.row_counts[where] = 1
        return True

    def _add_general(self, positions: Sequence[int], decoded: Decoded) -> None:
        """Takes events one by one, collecting the problems of the bad ones."""
        gathered: dict[str, tuple[list[int], list[int], list[Any]]] = {}
        for position in positions:
            try:
                rows = expand(decoded.events[position].attr or {}, self._columns, self._rows_per_event)
            except BadEvent as bad:
                self.problems.append(Problem(decoded.index_of(position), str(bad)))
                continue
            self.row_counts[position] = len(rows)
            _gather_rows(gathered, position, rows)
        for key, (events, offsets, values) in gathered.items():
            self._builder(key).add(np.array(events, np.int64), values, np.array(offsets, np.int64))

    def columns(self, schema: TableSchema, row_start: NDArray[np.int64]) -> dict[int, Column]:
        """The columns that have a value in any of the rows, by id. row_start: int64[events+1], no row for a bad one."""
        columns: dict[int, Column] = {}
        for column in schema.columns:
            if column.name in self._builders:
                built = self._builders[column.name].build(row_start)
                if built is not None:
                    columns[column.id] = built
        return columns

    def _builder(self, key: str) -> ColumnBuilder:
        if key not in self._builders:
            self._builders[key] = ColumnBuilder(self._columns[key])
        return self._builders[key]


def _within_64_bits(values: Sequence[int | float | None]) -> bool:
    """False also when ints and None are mixed and one is out of range; a double column takes no larger ints here."""
    numbers = [value for value in values if value is not None]
    return min(numbers) >= -(2**63) and max(numbers) < 2**63


def _gather_rows(
    gathered: dict[str, tuple[list[int], list[int], list[Any]]], position: int, rows: Sequence[Row]
) -> None:
    for offset, row in enumerate(rows):
        for key, value in row.items():
            if value is not None:
                events, offsets, values = gathered.setdefault(key, ([], [], []))
                events.append(position)
                offsets.append(offset)
                values.append(value)


def _set_missing_stamps(stamps: NDArray[np.int64], events: Sequence[Event], now_ms: int, given: NowStamps) -> None:
    """Replaces NOW by now, now+1, … per person and action."""
    missing = np.flatnonzero(stamps == NOW)
    if len(missing):
        named = [events[position] for position in missing.tolist()]
        stamps[missing] = given.take([(event.person, event.action) for event in named], now_ms)
