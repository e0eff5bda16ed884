"""Several new files put in place as one: after a crash all of them are there, or none.

The files are written and synced under other names first. Then a list of renames is written to `placing.json`: that is
the moment from which the new files count. The renames follow, then the list is removed. A start that finds the list
does the renames that are missing, so whoever only reads leaves a directory with a list alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from openset.errors import InternalError
from openset_format.decoding import json_decoder
from openset_format.files import FILES, FileLayer, replace_file
from openset_format.hashing import checksum

PLACING_NAME = "placing.json"


class _Renames(msgspec.Struct):
    """Targets by staging name, both relative to the data directory. hash: xxh3_64 of the renames as JSON."""

    renames: dict[str, str]
    hash: str


def place(data_dir: Path, renames: Mapping[Path, Path], files: FileLayer = FILES) -> None:
    """Renames durable files (staging name → name, relative to the directory), all or none, durably.

    Raises InternalError. When it does, `is_placing` says whether the files count nevertheless.
    """
    named = {source.as_posix(): target.as_posix() for source, target in renames.items()}
    try:
        replace_file(data_dir / PLACING_NAME, msgspec.json.encode(_Renames(named, _hash(named))), files)
        _finish(data_dir, named, files)
    except OSError as error:
        raise InternalError(f"files in {data_dir} cannot be put in place: {error}") from error


def is_placing(data_dir: Path) -> bool:
    """Whether a list of renames is there: the next start does what is left of it."""
    return (data_dir / PLACING_NAME).exists()


def finish_placing(data_dir: Path, files: FileLayer = FILES) -> None:
    """Does what a crash left undone. The caller holds the directory's lock. Raises InternalError, OSError."""
    path = data_dir / PLACING_NAME
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return
    try:
        found = json_decoder(_Renames).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"{path} is damaged: {error}") from error
    if found.hash != _hash(found.renames):
        raise InternalError(f"{path} is damaged: its checksum does not match")
    _finish(data_dir, found.renames, files)


def _finish(data_dir: Path, renames: Mapping[str, str], files: FileLayer) -> None:
    for source, target in renames.items():
        if (data_dir / source).exists():
            files.rename(data_dir / source, data_dir / target)
        elif not (data_dir / target).exists():
            raise InternalError(f"{data_dir / source} is missing, which {PLACING_NAME} names")
    # Of the sources too: a rename is durable when both its directories are synced.
    for directory in {(data_dir / name).parent for name in (*renames, *renames.values())}:
        files.sync_directory(directory)
    files.unlink(data_dir / PLACING_NAME)
    files.sync_directory(data_dir)


def _hash(renames: Mapping[str, str]) -> str:
    return f"{checksum(msgspec.json.encode(renames)):016x}"
