"""What a coordinator holds of a cluster: which key has what, and the view of all of it that nodes and sentinel act on.

cluster                 what was settled when the cluster was initialised
schema                  its tables
triggers/{table}        the triggers of a table
members/{node}          who belongs to it
placements/{partition}  where a partition is
alive/{node}            kept by the node's lease
sentinel                kept by the lease of the node that is elected; the revision that created it is its term
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import msgspec

from openset.cluster.keeper import Changes, Contents, Item, Revision
from openset.cluster.map import ClusterMap, Member, NodeName, Placed, decode_placement
from openset.errors import ConfigError, InternalError
from openset.store.shared_schema import SharedSchema
from openset.store.trigger_catalog import CatalogContents
from openset_format.decoding import json_decoder

SETTINGS_KEY = "cluster"
SCHEMA_KEY = "schema"
SENTINEL_KEY = "sentinel"
_MEMBERS = "members/"
_PLACEMENTS = "placements/"
_ALIVE = "alive/"
_TRIGGERS = "triggers/"

_NODE_NAME = re.compile(r"[A-Za-z0-9._:\-\[\]]{1,100}")
_PARTITION = re.compile(r"[0-9]{4,6}")
_TABLE = re.compile(r"[0-9]{1,18}")

Name = TypeVar("Name")
Value = TypeVar("Value")


class Settings(msgspec.Struct, frozen=True):
    """What holds for the whole cluster. cluster: names it.

    replicas: how many copies each partition should have; 0: one while there is one member, two from then on.
    journal_id: of the journals of all members.
    """

    cluster: str
    partitions: int
    replicas: int
    journal_id: str = ""

    def wanted_copies(self, members: int) -> int:
        """How many copies of each partition there should be with so many members."""
        return self.replicas or min(members, 2)


class Registered(NamedTuple):
    """A member, and the revision that a change of it has to name."""

    revision: Revision
    member: Member


class KeptTriggers(NamedTuple):
    """The triggers of a table, and the revision that a change of them has to name."""

    revision: Revision
    contents: CatalogContents


@dataclass(frozen=True, slots=True)
class Sentinel:
    """The node that is elected. term: what it changes is refused as soon as another term has begun, or none."""

    node: NodeName
    term: Revision


class Alive(msgspec.Struct, frozen=True):
    """What a node says of itself while it lives. life: another one after every start."""

    life: str


@dataclass(frozen=True, slots=True)
class View:
    """Everything, as of a revision. settings, schema: None before the cluster is initialised.

    alive: nodes whose lease lasts, each with the revision since which it does so without a gap. triggers: by table id,
    where there are or were any.
    """

    revision: Revision
    settings: Settings | None = None
    settings_revision: Revision = 0
    schema: SharedSchema | None = None
    schema_revision: Revision = 0
    members: Mapping[NodeName, Registered] = field(default_factory=dict)
    placements: Mapping[int, Placed] = field(default_factory=dict)
    alive: Mapping[NodeName, Revision] = field(default_factory=dict)
    sentinel: Sentinel | None = None
    triggers: Mapping[int, KeptTriggers] = field(default_factory=dict)

    @property
    def map(self) -> ClusterMap | None:
        """The cluster map, None before the cluster is initialised."""
        if self.settings is None:
            return None
        members = {node: registered.member for node, registered in self.members.items()}
        copies = self.settings.wanted_copies(sum(not member.leaving for member in members.values()))
        return ClusterMap(self.revision, copies, members, self.placements)


def view_of(contents: Contents) -> View:
    """Raises InternalError for what cannot be read."""
    return viewed(View(contents.revision), Changes(contents.revision, contents.items))


def viewed(before: View, changes: Changes) -> View:
    """The view after changes. Raises InternalError for what cannot be read."""
    settings, settings_revision, sentinel = before.settings, before.settings_revision, before.sentinel
    schema, schema_revision = before.schema, before.schema_revision
    members, placements, alive = dict(before.members), dict(before.placements), dict(before.alive)
    triggers = dict(before.triggers)
    for key, item in changes.items.items():
        kind, slash, name = key.partition("/")
        match kind + slash:
            case "cluster":
                settings = None if item is None else _decoded(key, item, Settings)
                settings_revision = 0 if item is None else item.revision
            case "schema":
                schema = None if item is None else _decoded(key, item, SharedSchema)
                schema_revision = 0 if item is None else item.revision
            case "sentinel":
                sentinel = None if item is None else Sentinel(_decoded(key, item, str), item.created)
            case "members/":
                _put(members, name, None if item is None else Registered(item.revision, _decoded(key, item, Member)))
            case "placements/":
                _put(placements, _partition(name), None if item is None else _placed(item))
            case "alive/":
                _put(alive, name, None if item is None else item.revision)
            case "triggers/":
                _put(triggers, _table(name), None if item is None else _triggers(key, item))
            case _:
                pass  # of a newer version, which keeps more
    return View(
        changes.revision, settings, settings_revision, schema, schema_revision, members, placements, alive, sentinel,
        triggers,
    )  # fmt: skip


def member_key(node: NodeName) -> str:
    """Raises ConfigError for what cannot be a node's name."""
    return _MEMBERS + checked_node(node)


def alive_key(node: NodeName) -> str:
    """Raises ConfigError for what cannot be a node's name."""
    return _ALIVE + checked_node(node)


def triggers_key(table_id: int) -> str:
    return f"{_TRIGGERS}{table_id}"


def placement_key(partition: int) -> str:
    return f"{_PLACEMENTS}{partition:04d}"


def is_share_key(key: str) -> bool:
    """Whether it is of a partition or a table: one of several that are made with a cluster."""
    return key.startswith((_PLACEMENTS, _TRIGGERS))


def checked_node(node: NodeName) -> NodeName:
    """Raises ConfigError for what cannot be a node's name."""
    if _NODE_NAME.fullmatch(node) is None:
        raise ConfigError(f"{node!r} cannot be the name of a node: letters, digits and . _ : - [ ] make one, up to 100")
    return node


def encode(value: object) -> bytes:
    """As the coordinator keeps it."""
    return msgspec.json.encode(value)


def _put(into: dict[Name, Value], name: Name, value: Value | None) -> None:
    if value is None:
        into.pop(name, None)
    else:
        into[name] = value


def _placed(item: Item) -> Placed:
    return Placed(item.revision, decode_placement(item.value))


def _partition(name: str) -> int:
    if _PARTITION.fullmatch(name) is None:
        raise InternalError(f"the coordinator has a placement of {name!r}, which is no partition")
    return int(name)


def _table(name: str) -> int:
    if _TABLE.fullmatch(name) is None:
        raise InternalError(f"the coordinator has triggers of {name!r}, which is no table")
    return int(name)


def _triggers(key: str, item: Item) -> KeptTriggers:
    return KeptTriggers(item.revision, _decoded(key, item, CatalogContents))


def _decoded(key: str, item: Item, kind: type[Value]) -> Value:
    try:
        return json_decoder(kind).decode(item.value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"the coordinator's {key} cannot be read: {error}") from error
