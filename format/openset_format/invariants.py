"""What must be true of the arrays of a partition file whose checksums are right: a writer's mistakes, not the disk's.

Each check yields (dataset, index of the first offending element, what is wrong).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .block import ERASED_PERSON, INTEGER_PERSON, PersonIds
from .dictionary import PackedTexts
from .encoding import StoredColumn
from .hashing import HashIndex, hashes_of
from .person_index import BITMAP_SHARE, DamagedBitmapError, PersonIndex
from .persons import MappedPersonIds, person_hashes
from .reader import ACTION_GROUP, PartitionFile
from .seal import ERASED_PEOPLE, NARROW_NUMBERS

Finding = tuple[str, int, str]

# The last millisecond of the year 9999.
_LAST_STAMP = 253_402_300_799_999


def findings(file: PartitionFile) -> Iterator[Finding]:
    """Everything that is wrong with a file's contents."""
    row_start = file.row_start
    broken = list(_row_start(row_start, file.rows))
    yield from broken
    yield from _persons(file)
    action = file.column(ACTION_GROUP, "text")
    yield from _column(ACTION_GROUP, action)
    if action.valid is not None:
        yield f"{ACTION_GROUP}/valid", 0, "a row without an action"
    if not broken:
        yield from _events(file)
        yield from _index(file, ACTION_GROUP, action)
    is_narrow = any(column.is_narrow for column in file.columns.values())
    if is_narrow != bool(file.seal.required_features & NARROW_NUMBERS):
        yield "/manifest", 0, "narrow numbers, and the seal does not say so, or the other way round"
    for column_id, column in file.columns.items():
        yield from _column(f"/columns/{column_id}", column)
        if not broken:
            yield from _index(file, f"/columns/{column_id}", column)


def misfits(file: PartitionFile) -> Iterator[Finding]:
    """What keeps a file from being read: bounds that do not ascend, codes and look-ups of no text, texts that are none,
    stamps that are no time."""
    broken = list(_row_start(file.row_start, file.rows))
    yield from broken
    persons = file.persons
    assert isinstance(persons, MappedPersonIds) and isinstance(persons.texts, PackedTexts)
    yield from _kinds(persons)
    yield from _texts("/persons/texts", persons.texts)
    yield from _order("/persons", persons.lookup, file.people)
    yield from _stamps(file.stamp)
    if not broken and file.event_start is not None and file.rows:
        yield from _starts(file.event_start, _first_of_person(file))
    yield from _values(ACTION_GROUP, file.column(ACTION_GROUP, "text"))
    for column_id, column in file.columns.items():
        yield from _values(f"/columns/{column_id}", column)


def _first(dataset: str, wrong: NDArray[np.bool_], message: str) -> Iterator[Finding]:
    if wrong.any():
        yield dataset, int(np.argmax(wrong)), message


def _row_start(row_start: NDArray[np.int64], rows: int) -> Iterator[Finding]:
    name = "/persons/row_start"
    if row_start[0] != 0 or row_start[-1] != rows:
        yield name, 0, f"does not go from 0 to {rows}"
    yield from _first(name, row_start[1:] < row_start[:-1], "descends")


def _kinds(persons: PersonIds) -> Iterator[Finding]:
    yield from _first("/persons/kinds", persons.kinds > ERASED_PERSON, "a person neither text nor integer nor erased")


def _order(group: str, lookup: HashIndex | None, count: int) -> Iterator[Finding]:
    if lookup is not None:
        yield from _first(f"{group}/hash_order", lookup.order >= count, "leads to no entry")


def _stamps(stamp: NDArray[np.int64]) -> Iterator[Finding]:
    yield from _first("/events/stamp", (stamp < 0) | (stamp > _LAST_STAMP), "a stamp before 1970 or after 9999")


def _persons(file: PartitionFile) -> Iterator[Finding]:
    persons = file.persons
    assert isinstance(persons, MappedPersonIds) and isinstance(persons.texts, PackedTexts)
    integer = persons.kinds == INTEGER_PERSON
    erased = persons.kinds == ERASED_PERSON
    yield from _kinds(persons)
    if bool(erased.any()) != bool(file.seal.required_features & ERASED_PEOPLE):
        yield "/persons/kinds", 0, "people who were erased, and the seal does not say so, or the other way round"
    row_counts = np.diff(file.row_start)
    yield from _first("/persons/row_start", (row_counts != 0) & erased, "rows of somebody who was erased")
    yield from _first("/persons/integers", (persons.integers != 0) & ~integer, "an integer for a person with a text id")
    broken = list(_texts("/persons/texts", persons.texts))
    yield from broken
    if broken:
        return
    lengths = np.diff(persons.texts.offsets)
    without_text = integer | erased
    yield from _first("/persons/texts/offsets", (lengths != 0) & without_text, "a text for a person without a text id")
    yield from _first("/persons/texts/offsets", (lengths == 0) & ~without_text, "an empty person id")
    hashes = person_hashes(PersonIds(persons.kinds, persons.integers, persons.texts))
    # Everybody who was erased is somebody else.
    ids = [object() if gone else person for person, gone in zip(persons, erased.tolist(), strict=True)]
    yield from _lookup("/persons", persons.lookup, hashes, ids)


def _texts(group: str, texts: PackedTexts) -> Iterator[Finding]:
    offsets = texts.offsets
    if offsets[0] != 0 or offsets[-1] != len(texts.data):
        yield f"{group}/offsets", 0, f"does not go from 0 to {len(texts.data)}"
        return
    if (offsets[1:] < offsets[:-1]).any():
        yield from _first(f"{group}/offsets", offsets[1:] < offsets[:-1], "descends")
        return
    try:
        texts.data.tobytes().decode()
    except UnicodeDecodeError as error:
        code = int(np.searchsorted(offsets, error.start, side="right")) - 1
        yield f"{group}/bytes", error.start, f"text {code} is not UTF-8"
        return
    # All of it is UTF-8, and so is each text unless it begins inside a character.
    begins = offsets[:-1][offsets[:-1] < len(texts.data)]
    inside = (texts.data[begins] & 0xC0) == 0x80
    if inside.any():
        code = int(np.argmax(inside))
        yield f"{group}/bytes", int(begins[code]), f"text {code} is not UTF-8"


def _lookup(group: str, lookup: HashIndex, hashes: NDArray[np.uint64], entries: list[Any]) -> Iterator[Finding]:
    """The look-up table leads to every entry, and no entry is there twice."""
    order = lookup.order
    if (order >= len(entries)).any() or len(np.unique(order)) != len(entries):
        yield f"{group}/hash_order", 0, "is not a permutation"
        return
    yield from _first(f"{group}/hashes", lookup.hashes != hashes[order], "not the hash of its entry")
    yield from _first(f"{group}/hashes", lookup.hashes[1:] < lookup.hashes[:-1], "descends")
    same = np.flatnonzero(lookup.hashes[1:] == lookup.hashes[:-1])
    for first in same.tolist():
        one, other = (entries[int(order[place])] for place in (first, first + 1))
        if type(one) is type(other) and one == other:
            yield f"{group}/hash_order", first, f"{one!r} is there twice"


def _column(group: str, column: StoredColumn) -> Iterator[Finding]:
    values = f"{group}/values"
    if column.valid is not None:
        yield from _first(f"{group}/valid", column.valid.view(np.uint8) > 1, "neither 0 nor 1")
        yield from _first(values, (column.values != 0) & ~column.valid, "a value where there should be none")
    if column.type == "bool":
        yield from _first(values, column.values > 1, "neither 0 nor 1")
    if column.dictionary is not None:
        assert isinstance(column.dictionary, PackedTexts)
        yield from _dictionary(f"{group}/dictionary", column.dictionary)
        yield from _codes(values, column)


def _codes(values: str, column: StoredColumn) -> Iterator[Finding]:
    assert column.dictionary is not None
    # The code of a row without a value is 0, whether or not there is any text.
    beyond = column.values >= max(len(column.dictionary), 1)
    if column.valid is None and not len(column.dictionary):
        beyond = np.ones(len(column.values), np.bool_)
    yield from _first(values, beyond, "a code that is not in the dictionary")


def _values(group: str, column: StoredColumn) -> Iterator[Finding]:
    if column.dictionary is not None:
        assert isinstance(column.dictionary, PackedTexts)
        yield from _texts(f"{group}/dictionary", column.dictionary)
        yield from _order(f"{group}/dictionary", column.dictionary.lookup, len(column.dictionary))
        yield from _codes(f"{group}/values", column)


def _dictionary(group: str, texts: PackedTexts) -> Iterator[Finding]:
    broken = list(_texts(group, texts))
    yield from broken
    if not broken and texts.lookup is not None:
        entries = texts.entries()
        yield from _lookup(group, texts.lookup, hashes_of(entries, len(entries)), entries)


def _events(file: PartitionFile) -> Iterator[Finding]:
    rows, stamp, action = file.rows, file.stamp, file.action.values
    if not rows:
        return
    yield from _stamps(stamp)
    first_of_person = _first_of_person(file)
    later = ~first_of_person[1:]
    yield from _first("/events/stamp", (stamp[1:] < stamp[:-1]) & later, "descends within a person")
    same_stamp = (stamp[1:] == stamp[:-1]) & later
    same_event = same_stamp & (action[1:] == action[:-1])
    yield from _events_twice(action, same_stamp)
    if file.event_start is None:
        yield from _first("/events/stamp", same_event, "two events of a person with the same stamp and action")
        return
    name = "/events/event_start"
    starts = file.event_start
    yield from _first(name, starts.view(np.uint8) > 1, "neither 0 nor 1")
    yield from _starts(starts, first_of_person)
    yield from _first(name, ~starts[1:] & ~same_event & later, "stamp or action changes inside an event")
    yield from _first(name, starts[1:] & same_event, "two events of a person with the same stamp and action")


def _events_twice(actions: NDArray[Any], same_stamp: NDArray[np.bool_]) -> Iterator[Finding]:
    """An action that a person has twice at one stamp, with others in between."""
    tied = np.flatnonzero(np.append(same_stamp, False) | np.append(False, same_stamp))
    group = np.cumsum(np.append(True, ~same_stamp))[tied]
    action = actions[tied].astype(np.int64)
    # Runs of one action: an event's rows. The same action in two runs is the same event twice.
    run = np.flatnonzero(np.append(True, (np.diff(group) != 0) | (np.diff(action) != 0))[: len(tied)])
    order = run[np.lexsort((action[run], group[run]))]
    twice = (np.diff(group[order]) == 0) & (np.diff(action[order]) == 0)
    if twice.any():
        at = int(tied[order[1:][np.argmax(twice)]])
        yield "/events/stamp", at, "two events of a person with the same stamp and action"


def _first_of_person(file: PartitionFile) -> NDArray[np.bool_]:
    first = np.zeros(file.rows, np.bool_)
    first[file.row_start[:-1][np.diff(file.row_start) > 0]] = True
    return first


def _starts(starts: NDArray[np.bool_], first_of_person: NDArray[np.bool_]) -> Iterator[Finding]:
    yield from _first("/events/event_start", first_of_person & ~starts, "a person's first row starts no event")


def _index(file: PartitionFile, group: str, column: StoredColumn) -> Iterator[Finding]:
    """The index says of every value who has it, as the rows say it."""
    stored = file.stored_index(group)
    if stored is None:
        return
    name = f"{group}/index/keys"
    keys, present = stored.keys, np.ones(len(column.values), np.bool_) if column.valid is None else column.valid
    values = column.values[present]
    if not np.array_equal(keys, np.unique(values)):
        yield name, 0, "not the distinct values of the column in ascending order"
        return
    too_large = np.diff(stored.offsets) * BITMAP_SHARE > column.size_bytes
    yield from _first(f"{group}/index/offsets", too_large, "a bitmap of more than a tenth of the column's bytes")
    people = np.repeat(np.arange(file.people, dtype=np.uint32), np.diff(file.row_start))[present]
    index = PersonIndex(stored, file.people)
    for place, key in enumerate(keys.tolist()):
        try:
            bitmap = index.people(key)
        except DamagedBitmapError as error:
            yield f"{group}/index/bytes", int(stored.offsets[place]), str(error)
            continue
        if bitmap is not None and not np.array_equal(bitmap.to_array(), np.unique(people[values == keys[place]])):
            yield f"{group}/index/bytes", int(stored.offsets[place]), f"not the people who have value {key}"
