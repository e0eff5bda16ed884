"""How a node is told to speak to others: what `serve` is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from openset.cluster.security import Security, security_of

if TYPE_CHECKING:
    from openset.cluster.etcd_address import EtcdAddress


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """ca, cert, key: PEM files of mutual TLS between nodes.  secret: instead of them, on loopback.

    coordinator: an address of etcd, None for the embedded one.  host: under which others reach this node, None for
    where it listens.  lease_ms: who says nothing for so long is not alive.  gone_after_ms: and after so long others get
    its copies.  transfer_bytes_per_second: how fast partitions are sent at most, 0 for no limit.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    secret: str | None = field(default=None, repr=False)
    coordinator: str | None = field(default=None, repr=False)
    host: str | None = None
    lease_ms: int = 5_000
    gone_after_ms: int = 20_000
    transfer_bytes_per_second: int = 0

    def security(self) -> Security | None:
        """How nodes know each other, None where nothing is configured. Raises ConfigError."""
        return security_of(self.ca, self.cert, self.key, self.secret)

    def etcd(self) -> EtcdAddress | None:
        """Where etcd is, None for the embedded coordinator. Raises ConfigError."""
        if self.coordinator is None:
            return None
        # Nodes that stand alone start without it.
        from openset.cluster.etcd_address import parse_address

        return parse_address(self.coordinator)
