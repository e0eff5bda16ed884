"""What grows with the delta of a partition and never changes once given: person ordinals and dictionary codes.

Both go on where the partition's file ends, in journal order, so that every copy of a partition agrees on them and the
next generation of the file takes them over as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.store.ranges import expand_ranges, offsets_of
from openset_format.block import INTEGER_PERSON, PersonId, PersonIds, TextDictionary
from openset_format.dictionary import ExtendedDictionary, PackedTexts, packed
from openset_format.persons import ExtendedPersonIds, MappedPersonIds, person_hashes


class _Codes(dict[str, int]):
    """Text → code, filled from the dictionary below when a text is first asked for, else given the next code."""

    def __init__(self, base: TextDictionary):
        super().__init__()
        self._base = base
        self.added: list[str] = []

    def __missing__(self, text: str) -> int:
        code = self._base.code(text)
        if code is None:
            code = len(self._base) + len(self.added)
            self.added.append(text)
        self[text] = code
        return code


class GrowingDictionary:
    """The dictionary of a column: that of the file, and behind it the texts that arrived since."""

    def __init__(self, base: TextDictionary):
        self._base = base
        self._codes = _Codes(base)
        self._view: TextDictionary = base

    def __len__(self) -> int:
        return len(self._base) + len(self._codes.added)

    def encode(
        self, codes: NDArray[Any], valid: NDArray[np.bool_] | None, dictionary: TextDictionary
    ) -> NDArray[np.uint32]:
        """uint32[rows]: the same values in codes of this dictionary, which takes up the texts it lacks.

        Only texts that a row uses are taken up, in the order of their codes; where a row has no value the code is 0.
        """
        used = np.flatnonzero(np.bincount(codes if valid is None else codes[valid], minlength=len(dictionary)))
        texts = dictionary.texts()
        wanted = [texts[code] for code in used.tolist()]
        translation = np.zeros(max(len(dictionary), 1), np.uint32)
        translation[used] = np.fromiter(map(self._codes.__getitem__, wanted), np.uint32, len(wanted))
        encoded: NDArray[np.uint32] = translation[codes]
        if valid is not None:
            encoded[~valid] = 0
        return encoded

    def view(self) -> TextDictionary:
        """The dictionary as it is now; it does not change when this one grows."""
        if len(self._view) < len(self):
            self._view = ExtendedDictionary(
                self._base, self._codes.added, count=len(self._codes.added), codes=self._codes
            )
        return self._view


class _Ordinals(dict[PersonId, int]):
    """Person → ordinal of those who arrived since the file: looking up a new one gives the next ordinal."""

    def __init__(self, first: int):
        super().__init__()
        self._first = first
        self.added: list[PersonId] = []

    def copy(self) -> _Ordinals:
        copied = _Ordinals(self._first)
        copied.update(self)
        copied.added = list(self.added)
        return copied

    def __missing__(self, person_id: PersonId) -> int:
        ordinal = self[person_id] = self._first + len(self.added)
        self.added.append(person_id)
        return ordinal


class GrowingPersons:
    """The people of a partition: those of the file, and behind them those that arrived since."""

    def __init__(self, base: PersonIds):
        self._base = base
        self._ordinals = _Ordinals(len(base))
        self._view = base
        self._erased: set[int] = set()
        self._view_is_current = True
        self._is_shared = False

    def __len__(self) -> int:
        return len(self._base) + len(self._ordinals.added)

    def ordinals(self, persons: PersonIds) -> NDArray[np.int64]:
        """int64[len(persons)]: the ordinal of each person; new ones get the next ones, in their order."""
        found = find_people(self._base, persons)
        if self._erased:
            found[np.isin(found, list(self._erased))] = -1
        strangers = np.flatnonzero(found < 0)
        if len(strangers):
            ids = person_list(persons, strangers)
            found[strangers] = np.fromiter(map(self._ordinals.__getitem__, ids), np.int64, len(ids))
            self._view_is_current = False
        return found

    def erase(self, person_id: PersonId) -> int | None:
        """The ordinal that somebody had and nobody has any more, None when there is no such person.

        The same id is a new person when it comes again.
        """
        if self._is_shared and person_id in self._ordinals:
            # Views share what only grows.
            self._ordinals, self._is_shared = self._ordinals.copy(), False
        ordinal = self._ordinals.pop(person_id, None)
        if ordinal is None:
            ordinal = self._base.index(person_id)
            if ordinal is None or ordinal in self._erased:
                return None
        else:
            self._ordinals.added[ordinal - len(self._base)] = ""
        self._erased.add(ordinal)
        self._view_is_current = False
        return ordinal

    def person(self, ordinal: int) -> PersonId:
        """The id of one person; that of somebody who was erased is empty."""
        if ordinal in self._erased:
            return ""
        in_file = len(self._base)
        return self._base[ordinal] if ordinal < in_file else self._ordinals.added[ordinal - in_file]

    def view(self) -> PersonIds:
        """The people as they are now; it does not change when this grows."""
        if not self._view_is_current:
            added = self._ordinals.added
            self._view = ExtendedPersonIds(self._base, added, self._erased, count=len(added), ordinals=self._ordinals)
            self._view_is_current = self._is_shared = True
        return self._view


def join_texts(parts: Sequence[TextDictionary]) -> tuple[PackedTexts, NDArray[np.int64]]:
    """Dictionaries end to end, and int64[parts]: where each begins."""
    texts = [packed(part) for part in parts]
    lengths = [np.diff(part.offsets).astype(np.int64) for part in texts]
    data = [part.data[int(part.offsets[0]) : int(part.offsets[-1])] for part in texts]
    joined = PackedTexts(offsets_of(np.concatenate(lengths)), np.concatenate(data))
    return joined, offsets_of(np.array([len(part) for part in texts], np.int64))[:-1]


def join_persons(parts: Sequence[PersonIds]) -> PersonIds:
    """People end to end."""
    kinds = np.concatenate([part.kinds for part in parts])
    integers = np.concatenate([part.integers for part in parts])
    return PersonIds(kinds, integers, join_texts([part.texts for part in parts])[0])


def person_list(persons: PersonIds, positions: NDArray[np.int64] | None = None) -> list[PersonId]:
    """The ids at these positions (all when None) as Python values."""
    if positions is None:
        positions = np.arange(len(persons))
    integer = persons.kinds[positions] == INTEGER_PERSON
    texts = persons.texts.texts()
    ids: list[PersonId] = [texts[position] for position in positions.tolist()]
    for place in np.flatnonzero(integer).tolist():
        ids[place] = int(persons.integers[positions[place]])
    return ids


def find_people(base: PersonIds, persons: PersonIds) -> NDArray[np.int64]:
    """int64[len(persons)]: the position of each person in `base`, -1 for those who are not there."""
    if not len(base):
        return np.full(len(persons), -1, np.int64)
    assert isinstance(base, MappedPersonIds), "the people of a file have a look-up table"
    hashes = person_hashes(persons)
    place = np.minimum(np.searchsorted(base.lookup.hashes, hashes), len(base) - 1)
    candidates = base.lookup.order[place].astype(np.int64)
    hit = base.lookup.hashes[place] == hashes
    same = _same_people(base, candidates, persons) & hit
    found = np.where(same, candidates, -1)
    # Two people with one hash: the first of them need not be the one.
    for position in np.flatnonzero(hit & ~same).tolist():
        ordinal = base.index(persons[position])
        found[position] = -1 if ordinal is None else ordinal
    return found


def _same_people(base: PersonIds, candidates: NDArray[np.int64], persons: PersonIds) -> NDArray[np.bool_]:
    """bool[len(persons)]: whether person i is the candidate i of `base`; compares bytes, decodes nothing."""
    same: NDArray[np.bool_] = (base.kinds[candidates] == persons.kinds) & (
        base.integers[candidates] == persons.integers
    )
    ours, theirs = packed(base.texts), packed(persons.texts)
    our_start, our_length = _extent(ours, candidates)
    their_start, their_length = _extent(theirs, np.arange(len(persons)))
    same &= our_length == their_length
    compared = np.flatnonzero(same & (our_length > 0))
    if len(compared):
        lengths = our_length[compared]
        ours_at = expand_ranges(our_start[compared], lengths)
        theirs_at = expand_ranges(their_start[compared], lengths)
        equal = ours.data[ours_at] == theirs.data[theirs_at]
        same[compared] = np.logical_and.reduceat(equal, np.cumsum(lengths) - lengths)
    return same


def _extent(texts: PackedTexts, codes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    start = texts.offsets[codes].astype(np.int64)
    return start, texts.offsets[codes + 1].astype(np.int64) - start


class SelectedPersonIds(PersonIds):
    """Some people of a larger set, in ascending order of their ordinals; what is read of them is looked up then."""

    def __init__(self, all_people: PersonIds, ordinals: Sequence[int] | NDArray[np.int64]):
        self._people = all_people
        self._chosen = np.asarray(ordinals, np.int64)

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:  # type: ignore[override]
        return self._people.kinds[self._chosen]

    @cached_property
    def integers(self) -> NDArray[np.int64]:  # type: ignore[override]
        return self._people.integers[self._chosen]

    @cached_property
    def texts(self) -> TextDictionary:  # type: ignore[override]
        return _SelectedTexts(self._people.texts, self._chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, person: int) -> PersonId:
        return self._people[int(self._chosen[person])]

    def index(self, person_id: PersonId) -> int | None:
        ordinal = self._people.index(person_id)
        if ordinal is None:
            return None
        place = int(np.searchsorted(self._chosen, ordinal))
        return place if place < len(self._chosen) and self._chosen[place] == ordinal else None


class _SelectedTexts(TextDictionary):
    """The texts of the chosen people, by position among the chosen."""

    def __init__(self, base: TextDictionary, chosen: NDArray[np.int64]):
        self._base = base
        self._chosen = chosen
        self._decoded: list[str] | None = None
        self._codes = None

    def __len__(self) -> int:
        return len(self._chosen)

    def text(self, code: int) -> str:
        return self._base.text(int(self._chosen[code]))

    def texts(self) -> list[str]:
        if self._decoded is None:
            self._decoded = [self._base.text(ordinal) for ordinal in self._chosen.tolist()]
        return self._decoded

    def code(self, text: str) -> int | None:
        if self._codes is None:
            self._codes = {entry: code for code, entry in enumerate(self.texts())}
        return self._codes.get(text)
