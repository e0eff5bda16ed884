"""Dead letters: kept within their bound, without people who were erased, and checked by verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import store_model as model

from openset.errors import InternalError
from openset.store import dead_letters
from openset.store.dead_letters import DeadLetter, DeadLetters, dead_letters_path
from openset_tools.verify import verify


def letter(number: int, person: Any = "ann", subscription: str = "s") -> DeadLetter:
    return DeadLetter(1, subscription, {"id": f"1-0-{number}", "person": person}, "status 500", 3, 7)


def test_letters_are_kept_replaced_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "LETTERS_KEPT", 3)
    letters = DeadLetters(tmp_path)
    letters.add(1, [letter(number) for number in (1, 2, 2, 3, 4)])
    letters.add(1, [letter(9, subscription="other")])
    assert ([one.id for one in letters.of(1, 1, "s")[0]], letters.of(1, 1, "s")[1]) == (["1-0-2", "1-0-3", "1-0-4"], 1)
    assert letters.try_again(1, 1, "s") == 3
    again = DeadLetters(tmp_path)
    assert [one.again for one in again.of(1, 1, "s")[0]] == [True] * 3
    assert [one.again for one in again.of(1, 1, "other")[0]] == [False]
    again.remove(1, 1, "s", ["1-0-3"])
    assert [one.id for one in again.of(1, 1, "s")[0]] == ["1-0-2", "1-0-4"]
    again.remove(1, 1, "s")
    assert again.of(1, 1, "s")[0] == [] and len(again.of(1, 1, "other")[0]) == 1


def test_people_who_are_erased_go_and_7_is_not_the_text_7(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path)
    letters.add(1, [letter(1, 7), letter(2, "7"), letter(3, True)])
    letters.forget_person(1, 7)
    assert [one.id for one in letters.of(1, 1, "s")[0]] == ["1-0-2", "1-0-3"]


def test_verify_reads_them(tmp_path: Path) -> None:
    store = model.new_store(tmp_path)
    store.dead_letters.add(store.table("t").id, [letter(1)])
    store.close()
    assert verify(tmp_path) == []
    path = tmp_path / dead_letters_path(1)
    path.write_bytes(path.read_bytes().replace(b"status 500", b"status 200"))
    (problem,) = verify(tmp_path)
    assert "checksum" in problem.message and problem.file == str(path)
    with pytest.raises(InternalError, match="damaged"):
        DeadLetters(tmp_path).of(1, 1, "s")
