"""Small JSON files with a checksum: `{"checksum": "…", "<member>": {…}}`. The checksum is of the member's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from openset.errors import ConfigError, InternalError
from openset_format.decoding import json_decoder
from openset_format.hashing import checksum

Contents = TypeVar("Contents")


def encode_sealed(member: str, contents: Any) -> bytes:
    """The bytes of a file."""
    encoded = msgspec.json.encode(contents)
    return msgspec.json.encode({"checksum": f"{checksum(encoded):016x}", member: msgspec.Raw(encoded)}) + b"\n"


def read_sealed(path: Path, member: str, kind: type[Contents]) -> Contents | None:
    """What a file holds, None where there is no file. Raises InternalError when it is damaged, ConfigError."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    try:
        envelope = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        if not {"checksum", member} <= envelope.keys():
            raise InternalError(f"{path} is damaged: it has no checksum or no {member}")
        body = bytes(envelope[member])
        if msgspec.json.decode(envelope["checksum"], type=str) != f"{checksum(body):016x}":
            raise InternalError(f"{path} is damaged: its checksum does not match")
        return json_decoder(kind).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"{path} is damaged: {error}") from error


def check_version(path: Path, found: int, known: int) -> None:
    """Raises ConfigError for a file of a newer version."""
    if found > known:
        raise ConfigError(f"{path} has format version {found}; this program knows up to {known}")
