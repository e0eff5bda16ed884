"""Person ids of a partition file and of a delta on top of it: looked up by hash, extended without decoding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .block import INTEGER_PERSON, PersonId, PersonIds
from .dictionary import ExtendedDictionary, PackedTexts, packed
from .hashing import INTEGER_TAG, TEXT_TAG, HashIndex, hashes_of, look_up_bytes, person_hash


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
    """People with new ones added behind them: the ordinals of the base stay.

    The new ids must not occur in the base (the caller has just looked them up).
    """

    def __init__(self, base: PersonIds, added: Sequence[PersonId]):
        extra = PersonIds.of(added)
        super().__init__(
            np.concatenate([base.kinds, extra.kinds]),
            np.concatenate([base.integers, extra.integers]),
            ExtendedDictionary(base.texts, extra.texts.texts()),
        )
        self.base = base
        self.added = extra
        self._added_index = {person_id: len(base) + position for position, person_id in enumerate(added)}

    def index(self, person_id: PersonId) -> int | None:
        added = self._added_index.get(person_id)
        return self.base.index(person_id) if added is None else added


def person_hashes(persons: PersonIds) -> NDArray[np.uint64]:
    """uint64[n]: the hash of each person; what a file has hashed already is not hashed again."""
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
