"""What a node has to know of itself and its cluster to start again: one small sealed file, `cluster/member.json`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from openset.cluster.map import Member, NodeName
from openset.errors import ConfigError, InternalError
from openset.store.journals import read_member
from openset.store.sealed_json import check_version, encode_sealed, read_sealed
from openset.store.snapshot import CLUSTER_DIRECTORY
from openset_format.files import FILES, TEMPORARY_SUFFIX, FileLayer, replace_file

COORDINATOR_DIRECTORY = "coordinator"
MEMBER_FILE = "member.json"
FORMAT_VERSION = 1
_MEMBER = "member"

Mode = Literal["standalone", "becoming", "member", "removed"]
CoordinatorKind = Literal["embedded", "etcd"]

# As many copies as there are nodes for, up to two.
AUTOMATIC_REPLICAS = 0


class Identity(msgspec.Struct, frozen=True):
    """mode: standalone (no member, and maybe without data), becoming (a member as soon as it has finished), member, or
    removed (it was one, and serves no data any more).

    replicas: as `init` was told, AUTOMATIC_REPLICAS where it was not.  partitions: that the founder's cluster gets.
    founder: this node initialises the cluster; with the embedded coordinator it is the one that has it.
    host, port: where others reach this node.
    home: the node with the embedded coordinator, None for etcd.
    """

    mode: Mode = "standalone"
    replicas: Annotated[int, msgspec.Meta(ge=0)] = AUTOMATIC_REPLICAS
    node: NodeName = ""
    cluster: str = ""
    partitions: int = 0
    founder: bool = False
    host: str = ""
    port: int = 0
    coordinator: CoordinatorKind = "embedded"
    home: Member | None = None
    format_version: int = FORMAT_VERSION

    @property
    def has_coordinator(self) -> bool:
        """Whether the embedded coordinator is on this node."""
        return self.founder and self.coordinator == "embedded"


def read_identity(data_dir: Path) -> Identity:
    """That of a data directory, the one of a standalone node where there is none.

    Raises InternalError when the file is damaged, ConfigError when it is newer or cannot be read.
    """
    path = data_dir / CLUSTER_DIRECTORY / MEMBER_FILE
    identity = read_sealed(path, _MEMBER, Identity)
    if identity is None:
        return Identity()
    check_version(path, identity.format_version, FORMAT_VERSION)
    is_embedded = identity.coordinator == "embedded"
    known = identity.node and identity.cluster and is_embedded == (identity.home is not None)
    if identity.mode != "standalone" and not known:
        raise InternalError(f"{path} is damaged: it lacks what a member needs")
    return identity


class IdentityFile:
    """The file, changed as a whole and durably. Blocking: not for the event loop."""

    def __init__(self, data_dir: Path, files: FileLayer = FILES):
        """Reads it, and removes what a crash left. Raises as `read_identity`."""
        self._directory = data_dir / CLUSTER_DIRECTORY
        self._files = files
        self.identity = read_identity(data_dir)
        with suppress(OSError):  # they do no harm
            for leftover in self._directory.glob(f"*{TEMPORARY_SUFFIX}"):
                files.discard(leftover)

    def write(self, identity: Identity) -> None:
        """Raises InternalError; then the old contents count in this process, and the old or the new after a restart."""
        try:
            if not self._directory.is_dir():
                self._files.make_directory(self._directory)
                self._files.sync_directory(self._directory.parent)
            replace_file(self._directory / MEMBER_FILE, encode_sealed(_MEMBER, identity), self._files)
        except OSError as error:
            raise InternalError(
                f"{self._directory / MEMBER_FILE} could not be written: {error.strerror or error}"
            ) from error
        self.identity = identity


def refuse_member(data_dir: Path) -> None:
    """For programs that change a data directory by themselves. Raises ConfigError for that of a member."""
    if read_identity(data_dir).mode != "standalone" or read_member(data_dir) is not None:
        raise ConfigError(f"{data_dir} belongs to a node of a cluster: its copies would differ from then on")


def home_of(member: Member) -> Member:
    """Where a member is, whatever else the cluster knows of it."""
    return Member(member.node, member.host, member.port)
