"""Person ids of a partition file and of a delta on top of it: looked up by hash, extended without decoding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .block import ERASED_PERSON, INTEGER_PERSON, PersonId, PersonIds, TextDictionary
from .dictionary import ExtendedDictionary, PackedTexts, packed
from .hashing import ERASED_HASH, INTEGER_TAG, TEXT_TAG, HashIndex, hashes_of, look_up_bytes, person_hash


class MappedPersonIds(PersonIds):
    """The people of a file, with the look-up table the file holds."""

    def __init__(
        self, kinds: NDArray[np.uint8], integers: NDArray[np.int64], texts: PackedTexts, lookup: HashIndex
    ) -> None:
        super().__init__(kinds, integers, texts)
        self.lookup = lookup

    def index(self, person_id: PersonId) -> int | None:
        """The ordinal of an id, or None. Decodes nothing but the candidates."""
        if isinstance(person_id, str) and (not person_id or look_up_bytes(person_id) is None):
            return None
        for person in self.lookup.candidates(person_hash(person_id)):
            found = self[person]
            if type(found) is type(person_id) and found == person_id:
                return person
        return None


class ExtendedPersonIds(PersonIds):
    """People with new ones added behind them: the ordinals of the base stay. Arrays of everybody are made when read.

    The new ids must not occur in the base (the caller has just looked them up), but for those who were erased in it.
    erased: ordinals, of the base or added, that nobody has any more; what is in `added` for them does not matter.
    """

    def __init__(
        self,
        base: PersonIds,
        added: Sequence[PersonId],
        erased: Iterable[int] = (),
        *,
        count: int | None = None,
        ordinals: Mapping[PersonId, int] | None = None,
    ):
        """count: how many of `added` count, None for all; more may come. ordinals: of those of
        them who are not erased, and of those who come later; made when None.
        """
        self.base = base
        self._added = added
        self._count = len(added) if count is None else count
        self._gone = frozenset(erased)
        self._given_ordinals = ordinals

    @cached_property
    def added(self) -> PersonIds:
        """The new ones alone."""
        return PersonIds.of(self._added[: self._count])

    @cached_property
    def kinds(self) -> NDArray[np.uint8]:  # type: ignore[override]
        kinds = np.concatenate([self.base.kinds, self.added.kinds])
        kinds[self._erased] = ERASED_PERSON
        return kinds

    @cached_property
    def integers(self) -> NDArray[np.int64]:  # type: ignore[override]
        integers = np.concatenate([self.base.integers, self.added.integers])
        integers[self._erased] = 0
        return integers

    @cached_property
    def texts(self) -> TextDictionary:  # type: ignore[override]
        texts = ExtendedDictionary(self.base.texts, self.added.texts.texts())
        return without_texts(texts, self._erased) if self._gone else texts

    @property
    def _erased(self) -> NDArray[np.int64]:
        return np.fromiter(self._gone, np.int64, len(self._gone))

    @cached_property
    def _ordinals(self) -> Mapping[PersonId, int]:
        if self._given_ordinals is not None:
            return self._given_ordinals
        numbered = enumerate(self._added[: self._count], len(self.base))
        return {person_id: ordinal for ordinal, person_id in numbered if ordinal not in self._gone}

    def __len__(self) -> int:
        return len(self.base) + self._count

    def __getitem__(self, person: int) -> PersonId:
        person = range(len(self))[person]
        if person in self._gone:
            return ""
        known = len(self.base)
        return self.base[person] if person < known else self._added[person - known]

    def index(self, person_id: PersonId) -> int | None:
        ordinal = self._ordinals.get(person_id)
        if ordinal is not None and ordinal < len(self):
            return ordinal
        known = self.base.index(person_id)
        return None if known in self._gone else known


def without_texts(texts: TextDictionary, places: NDArray[np.int64]) -> PackedTexts:
    """The same texts, empty at some places: nothing of what stood there is kept."""
    whole = packed(texts)
    lengths = np.diff(whole.offsets).astype(np.int64)
    keep = np.ones(len(lengths), np.bool_)
    keep[places] = False
    data = whole.data[int(whole.offsets[0]) : int(whole.offsets[-1])][np.repeat(keep, lengths)]
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(np.where(keep, lengths, 0), out=offsets[1:])
    return PackedTexts(offsets, data)


def person_hashes(persons: PersonIds) -> NDArray[np.uint64]:
    """uint64[n]: the hash of each person; what a file has hashed already is not hashed again."""
    hashes = _person_hashes(persons)
    hashes[persons.kinds == ERASED_PERSON] = ERASED_HASH
    return hashes


def _person_hashes(persons: PersonIds) -> NDArray[np.uint64]:
    if isinstance(persons, MappedPersonIds):
        return persons.lookup.by_position()
    if isinstance(persons, ExtendedPersonIds):
        return np.concatenate([person_hashes(persons.base), person_hashes(persons.added)])
    integer = persons.kinds == INTEGER_PERSON
    raw = persons.integers.astype("<i8", copy=False).tobytes()
    texts = packed(persons.texts).entries()
    if not integer.any():
        return hashes_of((TEXT_TAG + text for text in texts), len(texts))
    flags = integer.tolist()
    return hashes_of(
        (
            INTEGER_TAG + raw[8 * person : 8 * person + 8] if flags[person] else TEXT_TAG + texts[person]
            for person in range(len(flags))
        ),
        len(flags),
    )
