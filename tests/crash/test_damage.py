"""Any bit of a data directory flipped: the answer is right, an error names the file, or the scrub finds it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.power_failure import UNSYNCED
from support.store_changes import CHANGES, seen

from openset.errors import OpenSetError
from openset.store.damage import Damage
from openset.store.lock import LOCK_NAME
from openset.store.scrub import Throttle, scrub
from openset.store.store import Store
from openset_format.errors import FormatError
from openset_format.journal import MARK_NAME

FLIPS_PER_FILE = 40


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything in it, some of it in files and some only in the journal."""
    directory = tmp_path_factory.mktemp("damage") / "data"
    store = Store.open(directory, files=UNSYNCED)
    for name, change in CHANGES:
        if name not in ("compact 4", "remove segment"):
            change(store)
    store.close()
    return directory


def test_no_flipped_bit_is_taken_for_the_truth(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.open(data, files=UNSYNCED)
    truth = seen(store)
    store.close()
    chance = random.Random(3)
    silent = {LOCK_NAME, MARK_NAME}  # who holds the lock; a note that only sharpens a judgement
    kinds = set()
    for path in sorted(path for path in data.rglob("*") if path.is_file() and path.name not in silent):
        sound, mode = path.read_bytes(), path.stat().st_mode
        for offset in {0, len(sound) - 1, *(chance.randrange(len(sound)) for _ in range(FLIPS_PER_FILE))}:
            damaged = bytearray(sound)
            damaged[offset] ^= 1 << chance.randrange(8)
            path.chmod(0o644)
            path.write_bytes(damaged)
            capsys.readouterr()
            reported = _reported(data, path, truth, capsys)
            assert reported, f"{path}, offset {offset}: nobody says that it is damaged"
            kinds.add((path.suffix, reported))
        path.write_bytes(sound)
        path.chmod(mode)
    assert {(".h5", "scrub"), (".journal", "error"), (".json", "error"), (".segment", "log")} <= kinds, kinds


def _reported(data: Path, path: Path, truth: object, capsys: pytest.CaptureFixture[str]) -> str:
    """Who says that the file is damaged: an error, the log or the scrub; "truth" where nothing went wrong."""
    try:
        store = Store.open(data, files=UNSYNCED)
    except OpenSetError as error:
        return "error" if str(path) in str(error) else ""
    try:
        found = seen(store)
    except (OpenSetError, FormatError) as error:
        return "error" if str(path) in str(error) else ""
    except Exception:  # a column that makes no sense; what matters is that the scrub says why
        found = {}
    finally:
        store.close()
    if str(path) in capsys.readouterr().out:
        return "log"
    damage = Damage()
    scrub(data, damage, Throttle(1e12))
    if any(problem.file == str(path) for problem in damage.all()):
        return "scrub"
    return "truth" if found == truth else ""
