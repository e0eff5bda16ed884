"""Ordinals and codes: found again by hash, also when hashes collide."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from openset.store import identity
from openset_format import persons as format_persons
from openset_format.block import ERASED_PERSON, PersonId, PersonIds, TextDictionary
from openset_format.dictionary import PackedTexts
from openset_format.hashing import HashIndex
from openset_format.persons import MappedPersonIds, person_hashes

PEOPLE: list[PersonId] = ["ann", 7, "7", "bob", -1, "zoë", "annn", 2**63 - 1]


def mapped(ids: Iterable[PersonId], constant_hash: bool) -> MappedPersonIds:
    """People as a file has them."""
    plain = PersonIds.of(list(ids))
    hashes = np.full(len(plain), 5, np.uint64) if constant_hash else person_hashes(plain)
    return MappedPersonIds(plain.kinds, plain.integers, PackedTexts.of(plain.texts.texts()), HashIndex.of(hashes))


@pytest.mark.parametrize("constant_hash", [False, True])
def test_people_are_found_and_new_ones_follow(constant_hash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if constant_hash:
        monkeypatch.setattr(identity, "person_hashes", lambda people: np.full(len(people), 5, np.uint64))
        monkeypatch.setattr(format_persons, "person_hash", lambda person: 5)
    growing = identity.GrowingPersons(mapped(PEOPLE, constant_hash))
    assert growing.ordinals(PersonIds.of(PEOPLE[::-1])).tolist() == list(range(len(PEOPLE)))[::-1]
    before = growing.view()
    asked: list[PersonId] = ["new", 7, 8, "ann", "an", "new", "8"]
    assert growing.ordinals(PersonIds.of(asked)).tolist() == [8, 1, 9, 0, 10, 8, 11]
    assert growing.ordinals(PersonIds.of(["8", 8])).tolist() == [11, 9]
    assert len(before) == 8 and len(growing.view()) == 12
    assert [growing.view()[ordinal] for ordinal in range(8, 12)] == ["new", 8, "an", "8"]
    assert growing.view().index("an") == 10 and growing.view().index("7") == 2


def test_codes_follow_those_of_the_file() -> None:
    growing = identity.GrowingDictionary(PackedTexts.of(["red", "green"]))
    sent = TextDictionary(["unused", "green", "blue", "", "red"])
    codes = np.array([4, 1, 2, 3, 2, 0], np.uint8)
    valid = np.array([1, 1, 1, 1, 1, 0], np.bool_)
    assert growing.encode(codes, valid, sent).tolist() == [0, 1, 2, 3, 2, 0]
    view = growing.view()
    assert growing.encode(np.array([0], np.uint8), None, TextDictionary(["unused"])).tolist() == [4]
    assert view.texts() == ["red", "green", "blue", ""]
    assert [view.code(text) for text in ("green", "blue", "unused", "never")] == [1, 2, None, None]
    with pytest.raises(IndexError):
        view.text(4)
    assert growing.view().texts() == ["red", "green", "blue", "", "unused"]


def test_views_stay_as_they_are_when_people_come_and_go() -> None:
    growing = identity.GrowingPersons(mapped(PEOPLE, constant_hash=False))
    growing.ordinals(PersonIds.of(["new", 8]))
    before = growing.view()
    assert [growing.erase(person) for person in ("new", "ann", "nobody")] == [8, 0, None]
    between = growing.view()
    assert growing.ordinals(PersonIds.of(["ann", "new", "last"])).tolist() == [10, 11, 12]
    after = growing.view()
    assert [before.index(person) for person in ("new", "ann", 8, "last")] == [8, 0, 9, None]
    assert [between.index(person) for person in ("new", "ann", 8, "last")] == [None, None, 9, None]
    assert [after.index(person) for person in ("new", "ann", 8, "last")] == [11, 10, 9, 12]
    assert list(before) == [*PEOPLE, "new", 8] and before.texts.text(8) == "new"
    assert list(between) == ["", *PEOPLE[1:], "", 8]
    assert list(after) == ["", *PEOPLE[1:], "", 8, "ann", "new", "last"]
    assert after.kinds.tolist().count(ERASED_PERSON) == 2 and after.texts.text(8) == ""


def test_selected_people() -> None:
    chosen = identity.SelectedPersonIds(PersonIds.of(PEOPLE), [1, 2, 5])
    assert list(chosen) == [7, "7", "zoë"]
    assert [chosen.index(person) for person in (7, "7", "zoë", "ann", 9)] == [0, 1, 2, None, None]
    assert chosen.texts.code("zoë") == 2 and chosen.texts.code("ann") is None
