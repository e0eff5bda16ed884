"""What a network is that can be cut: two kinds of it, of which one needs rights that a build machine may not give."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from support.cluster import Node
from support.etcd import Etcd

# From whom, to whom, by what they are `called`. One direction can be cut alone.
Way = tuple[str, str]

ETCD = "etcd"


def called(node: int) -> str:
    """What a node is called in the network."""
    return f"n{node}"


class Network(Protocol):
    """Nodes and members of etcd that reach each other until they are cut off. Whoever tests them always reaches all."""

    kind: str

    def start_etcd(self, directory: Path) -> Etcd:
        """Three members, up. Before the nodes, in the main thread."""

    def node(self, number: int, data: Path, settings: dict[str, Any], **options: Any) -> Node:
        """One with that number and its data directory, not started. settings: of ClusterOptions, options: of Node."""

    def know(self, name: str, called: str) -> None:
        """A node's name in its cluster."""

    def cut(self, ways: Iterable[Way], *, silent: bool) -> None:
        """silent: nothing arrives any more, and nobody is told; otherwise connections end and new ones fail."""

    def mend(self, ways: Iterable[Way] | None = None) -> None:
        """These, or all."""

    def close(self) -> None:
        """After the nodes and etcd."""
