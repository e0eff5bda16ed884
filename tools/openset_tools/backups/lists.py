"""What a backup is: a list of files and the contents they had, with a checksum. The layout is in spec/backup.md."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import PurePosixPath

import msgspec

from openset.errors import ConfigError, InternalError
from openset_format.hashing import checksum
from openset_tools.backups.places import Place

CONTENTS_DIRECTORY = "contents"
BACKUPS_DIRECTORY = "backups"
LIST_SUFFIX = ".json"

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z.-]{0,63}")
_CONTENT = re.compile(r"[0-9a-f]{32}")


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a backup. path: relative to the data directory. content: its hash, the name of its content.

    identity: what tells that a file has this content without reading it, where there is such a thing.
    """

    path: str
    size_bytes: int
    content: str
    identity: str | None = None


class Backup(msgspec.Struct, frozen=True):
    """One backup: what the data directory held at one moment. partitions: of every table, None before there are any."""

    id: str
    made_at: str
    server_name: str | None
    tables: list[str]
    last_sequence: int
    files: list[StoredFile]
    partitions: int | None = None

    @property
    def size_bytes(self) -> int:
        """Of all files, those included that it shares with other backups."""
        return sum(file.size_bytes for file in self.files)

    @property
    def moment(self) -> datetime:
        """When it was made."""
        return datetime.fromisoformat(self.made_at)


class _Envelope(msgspec.Struct):
    checksum: str
    backup: msgspec.Raw


@dataclass(slots=True)
class Listed:
    """The backups of a place, oldest first, and the lists that cannot be read (path → why)."""

    backups: list[Backup] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


def content_path(content: str) -> str:
    """Where a content is kept."""
    return f"{CONTENTS_DIRECTORY}/{content[:2]}/{content}"


def list_path(backup_id: str) -> str:
    """Where the list of a backup is kept."""
    return f"{BACKUPS_DIRECTORY}/{backup_id}{LIST_SUFFIX}"


def encode_list(backup: Backup) -> bytes:
    """The bytes of a list."""
    encoded = msgspec.json.encode(backup)
    return msgspec.json.encode(_Envelope(f"{checksum(encoded):016x}", msgspec.Raw(encoded)))


def listed(place: Place, newest: int | None = None) -> Listed:
    """The backups of a place, or only the newest ones. Raises ConfigError for what holds none, OSError."""
    paths = sorted(path for path in place.sizes(BACKUPS_DIRECTORY) if path.endswith(LIST_SUFFIX))
    if not paths and not place.sizes(CONTENTS_DIRECTORY):
        raise ConfigError(f"{place} is not a backup directory")
    found = Listed()
    for path in paths if newest is None else paths[-newest:]:
        try:
            found.backups.append(read_list(place, path))
        except FileNotFoundError:
            continue  # removed meanwhile
        except InternalError as error:
            found.damaged[path] = error.message
    return found


def chosen(place: Place, backup_id: str | None) -> Backup:
    """A backup, the newest if none is named. Raises ConfigError, InternalError for a damaged list, OSError."""
    if backup_id is None:
        found = listed(place)
        if not found.backups:
            raise ConfigError(f"{place} holds no complete backup", detail=list(found.damaged.values()) or None)
        return found.backups[-1]
    if _ID.fullmatch(backup_id):
        try:
            return read_list(place, list_path(backup_id))
        except FileNotFoundError:
            pass
    raise ConfigError(f"{place} holds no backup {backup_id!a}")


def read_list(place: Place, path: str) -> Backup:
    """A list. Raises InternalError when it is damaged or names what no backup has, OSError."""
    where = f"{place}/{path}"
    try:
        envelope = msgspec.json.decode(place.read(path), type=_Envelope)
        if envelope.checksum != f"{checksum(bytes(envelope.backup)):016x}":
            raise InternalError(f"{where} is damaged: its checksum does not match")
        backup = msgspec.json.decode(envelope.backup, type=Backup)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"{where} is damaged: {error}") from error
    if f"{BACKUPS_DIRECTORY}/{backup.id}{LIST_SUFFIX}" != path:
        raise InternalError(f"{where} is damaged: it is the list of backup {backup.id!a}")
    for file in backup.files:
        if not _CONTENT.fullmatch(file.content) or not _is_inside(file.path):
            raise InternalError(f"{where} is damaged: it names {file.path!a} with content {file.content!a}")
    return backup


def _is_inside(path: str) -> bool:
    """Whether a path stays inside of the directory it is relative to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path


def new_id() -> tuple[str, str]:
    """The id of a backup that is made now, and the moment as text."""
    moment = datetime.now(UTC)
    return f"{moment:%Y%m%dT%H%M%S.%fZ}", moment.isoformat(timespec="seconds")
