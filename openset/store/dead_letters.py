"""Messages that a webhook did not take, however often it was tried: kept per table until somebody looks at them.

One small file a table (`dead_letters.json`, with a checksum, replaced as a whole). A subscription keeps its last ones;
what falls out is counted. People who are erased go from here too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import msgspec

from openset.errors import InternalError
from openset.store.health import Health
from openset.store.schema import TableSchema
from openset.store.sealed_json import check_version, encode_sealed, read_sealed
from openset.store.snapshot import TABLES_DIRECTORY
from openset_format.block import PersonId
from openset_format.files import FILES, FileLayer, replace_file

DEAD_LETTERS_NAME = "dead_letters.json"
LETTERS_KEPT = 1_000
FORMAT_VERSION = 1
_MEMBER = "dead_letters"


class DeadLetter(msgspec.Struct, frozen=True):
    """A message as it was sent. reason: of the last try. again: it is to be tried again."""

    trigger_id: int
    subscription: str
    message: dict[str, Any]
    reason: str
    tries: int
    at_ms: int
    again: bool = False

    @property
    def id(self) -> str:
        """The id of the message."""
        return str(self.message["id"])


class _Contents(msgspec.Struct):
    format_version: int = FORMAT_VERSION
    letters: list[DeadLetter] = []
    # By trigger and subscription ("7 name"), how many fell out.
    fallen: dict[str, int] = {}


def dead_letters_path(table_id: int) -> Path:
    """Where the dead letters of a table are, relative to the data directory."""
    return Path(TABLES_DIRECTORY) / str(table_id) / DEAD_LETTERS_NAME


class DeadLetters:
    """The dead letters of a node. Methods may be called from any thread; those that change sync."""

    def __init__(self, data_dir: Path, files: FileLayer = FILES, health: Health | None = None):
        self._data_dir = data_dir
        self._files = files
        self._health = health or Health()
        self._lock = threading.Lock()
        self._read: dict[int, _Contents] = {}
        # Tables of whose files somebody has to be removed who was erased.
        self._unwritten: set[int] = set()

    def of(self, table_id: int, trigger_id: int, subscription: str) -> tuple[list[DeadLetter], int]:
        """The letters of a subscription, oldest first, and how many fell out. Raises InternalError, ConfigError."""
        with self._lock:
            contents = self._contents(table_id)
            own = [one for one in contents.letters if _is_of(one, trigger_id, subscription)]
            return own, contents.fallen.get(f"{trigger_id} {subscription}", 0)

    def all(self, table_id: int) -> tuple[list[DeadLetter], dict[tuple[int, str], int]]:
        """The letters of a table, oldest first, and by trigger and subscription how many fell out.

        Raises InternalError, ConfigError.
        """
        with self._lock:
            contents = self._contents(table_id)
            fallen: dict[tuple[int, str], int] = {}
            for key, count in contents.fallen.items():
                trigger_id, _, subscription = key.partition(" ")
                fallen[int(trigger_id), subscription] = count
            return list(contents.letters), fallen

    def discard(self, tables: Iterable[TableSchema]) -> None:
        """Removes the files of tables. Raises OSError."""
        for table in tables:
            self._files.discard(self._data_dir / dead_letters_path(table.id))

    def add(self, table_id: int, letters: Iterable[DeadLetter], *, again: bool = False) -> None:
        """Keeps letters, each in place of one with the same message. Raises InternalError, ReadOnlyError.

        again: they were tried again, so each counts only where there still is the one before.
        """

        def added(contents: _Contents) -> _Contents:
            there = {(one.trigger_id, one.subscription, one.id) for one in contents.letters}
            wanted = [one for one in letters if not again or (one.trigger_id, one.subscription, one.id) in there]
            return reduce(_added, wanted, contents)

        self._change(table_id, added)

    def remove(self, table_id: int, trigger_id: int, subscription: str, ids: Iterable[str] | None = None) -> None:
        """Removes letters of a subscription: those of some messages, or all. Raises InternalError, ReadOnlyError."""
        wanted = None if ids is None else set(ids)
        self._keep(
            table_id, lambda one: not _is_of(one, trigger_id, subscription) or not (wanted is None or one.id in wanted)
        )

    def try_again(self, table_id: int, trigger_id: int, subscription: str) -> int:
        """Marks a subscription's letters to be tried again; how many there are. Raises InternalError, ReadOnlyError."""
        own, _ = self.of(table_id, trigger_id, subscription)
        if own:
            self._change(
                table_id,
                lambda contents: msgspec.structs.replace(
                    contents,
                    letters=[
                        msgspec.structs.replace(one, again=one.again or _is_of(one, trigger_id, subscription))
                        for one in contents.letters
                    ],
                ),
            )
        return len(own)

    def forget_person(self, table_id: int, person: PersonId) -> None:
        """Removes what is about somebody who was erased: at once from what is told, then from the file.

        Raises InternalError, ReadOnlyError; then the next change or another call removes it from the file.
        """
        with self._lock:
            contents = self._contents(table_id)
            kept = [one for one in contents.letters if not _is_about(one, person)]
            if len(kept) < len(contents.letters):
                self._read[table_id] = msgspec.structs.replace(contents, letters=kept)
                self._unwritten.add(table_id)
            if table_id not in self._unwritten:
                return
        self._change(table_id, lambda contents: contents)

    def _keep(self, table_id: int, wanted: Callable[[DeadLetter], bool]) -> None:
        with self._lock:
            letters = self._contents(table_id).letters
        if all(wanted(one) for one in letters):
            return
        self._change(
            table_id,
            lambda contents: msgspec.structs.replace(
                contents, letters=[one for one in contents.letters if wanted(one)]
            ),
        )

    def _change(self, table_id: int, change: Callable[[_Contents], _Contents]) -> None:
        path = self._data_dir / dead_letters_path(table_id)
        with self._health.writing(), self._lock:
            changed = change(self._contents(table_id))
            try:
                self._files.make_directory(path.parent)
                replace_file(path, encode_sealed(_MEMBER, changed), self._files)
            except OSError as error:
                raise InternalError(f"{path} could not be written: {error.strerror}") from error
            self._read[table_id] = changed
            self._unwritten.discard(table_id)

    def _contents(self, table_id: int) -> _Contents:
        if table_id not in self._read:
            self._read[table_id] = read_dead_letters(self._data_dir / dead_letters_path(table_id))
        return self._read[table_id]


def _is_of(letter: DeadLetter, trigger_id: int, subscription: str) -> bool:
    return letter.trigger_id == trigger_id and letter.subscription == subscription


def _is_about(letter: DeadLetter, person: PersonId) -> bool:
    found = letter.message["person"]
    return found == person and type(found) is type(person)


def _added(contents: _Contents, letter: DeadLetter) -> _Contents:
    letters = [
        one
        for one in contents.letters
        if not (_is_of(one, letter.trigger_id, letter.subscription) and one.id == letter.id)
    ]
    letters.append(letter)
    own = [one for one in letters if _is_of(one, letter.trigger_id, letter.subscription)]
    fallen = dict(contents.fallen)
    if len(own) > LETTERS_KEPT:
        letters.remove(own[0])
        key = f"{letter.trigger_id} {letter.subscription}"
        fallen[key] = fallen.get(key, 0) + 1
    return msgspec.structs.replace(contents, letters=letters, fallen=fallen)


def read_dead_letters(path: Path) -> _Contents:
    """What a file holds, nothing where there is none. Raises InternalError, ConfigError."""
    contents = read_sealed(path, _MEMBER, _Contents)
    if contents is None:
        return _Contents()
    check_version(path, contents.format_version, FORMAT_VERSION)
    return contents
