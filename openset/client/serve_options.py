"""Options of `openset serve` about the cluster: how nodes know each other, and where the cluster is decided."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from openset.errors import ConfigError

if TYPE_CHECKING:
    from openset.cluster.options import ClusterOptions

SECRET_VARIABLE = "OPENSET_CLUSTER_SECRET"

_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--cluster-ca",
        envvar="OPENSET_CLUSTER_CA",
        type=_FILE,
        show_envvar=True,
        help="PEM file of the authority that signs the nodes' certificates.",
    ),
    click.option(
        "--cluster-cert",
        envvar="OPENSET_CLUSTER_CERT",
        type=_FILE,
        show_envvar=True,
        help="PEM file of this node's certificate.",
    ),
    click.option(
        "--cluster-key", envvar="OPENSET_CLUSTER_KEY", type=_FILE, show_envvar=True, help="PEM file of its key."
    ),
    click.option(
        "--cluster-secret-file",
        envvar="OPENSET_CLUSTER_SECRET_FILE",
        type=_FILE,
        show_envvar=True,
        help=f"Instead of certificates, on one machine: a file with a secret that all nodes share ({SECRET_VARIABLE}).",
    ),
    click.option(
        "--cluster-host",
        envvar="OPENSET_CLUSTER_HOST",
        metavar="HOST",
        show_envvar=True,
        help="Under which name or address other nodes reach this one. Default: --host.",
    ),
    click.option(
        "--coordinator",
        envvar="OPENSET_COORDINATOR",
        metavar="ADDRESS",
        show_envvar=True,
        help="etcd://host:port,host:port/prefix; without it a node of the cluster coordinates.",
    ),
    click.option(
        "--cluster-transfer-rate",
        envvar="OPENSET_CLUSTER_TRANSFER_RATE",
        type=click.FloatRange(0),
        default=0.0,
        metavar="MB/S",
        show_envvar=True,
        help="How fast this node sends partitions to others at most; 0 for as fast as it goes.",
    ),
)

Command = TypeVar("Command", bound=Callable[..., Any])


def cluster_options(command: Command) -> Command:
    """Adds the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def read_cluster_options(given: Mapping[str, Path | str | float | None]) -> ClusterOptions:
    """What the options and the environment say. Raises ConfigError for a secret that is given twice or not readable."""
    from openset.cluster.options import ClusterOptions

    ca, cert, key, secret_file = (_path(given.get(f"cluster_{name}")) for name in ("ca", "cert", "key", "secret_file"))
    secret = os.environ.get(SECRET_VARIABLE)
    if secret_file is not None:
        if secret is not None:
            raise ConfigError(f"the secret of the cluster is given twice, by a file and by {SECRET_VARIABLE}")
        try:
            secret = secret_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the secret of the cluster cannot be read from {secret_file}: {error}") from error
    host, coordinator = given["cluster_host"], given["coordinator"]
    return ClusterOptions(
        ca=ca,
        cert=cert,
        key=key,
        secret=secret,
        host=None if host is None else str(host),
        coordinator=None if coordinator is None else str(coordinator),
        transfer_bytes_per_second=int(float(str(given.get("cluster_transfer_rate") or 0)) * 1_000_000),
    )


def _path(given: Path | str | float | None) -> Path | None:
    return None if given is None else Path(str(given))
