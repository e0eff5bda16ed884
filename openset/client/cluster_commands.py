"""`openset cluster`: initialise a node, invite others, look at the cluster, let a node go."""

from __future__ import annotations

from typing import Any

import click

from openset.client.connection import Connection
from openset.client.options import json_option, print_json, url_option

DEFAULT_PORT = 8080
_SHOWN_DECISIONS = 10


def register(group: click.Group) -> None:
    """Adds the commands to a group."""
    group.add_command(cluster)


@click.group()
def cluster() -> None:
    """Initialise a node, invite others into its cluster, look at it, let nodes go."""


@cluster.command()
@click.argument("partitions", type=click.IntRange(1, 1000))
@click.option(
    "--replicas",
    type=click.IntRange(1, 16),
    metavar="N",
    help="Copies of each partition. Default: 2 from the second node on.",
)
@url_option
@json_option
def init(partitions: int, replicas: int | None, url: str, as_json: bool) -> None:
    """Divide a fresh node into PARTITIONS, once and for all."""
    parameters = {"partitions": str(partitions)} | ({} if replicas is None else {"replicas": str(replicas)})
    with Connection(url) as connection:
        answer = connection.request("PUT", "/v1/cluster/init", parameters=parameters)
    if as_json:
        print_json(answer)
        return
    click.echo(f"{answer['server_name']} has {partitions} partitions")
    if "warning" in answer:
        click.echo(f"warning: {answer['warning']}", err=True)


@cluster.command()
@click.argument("address", metavar="HOST[:PORT]")
@url_option
@json_option
def join(address: str, url: str, as_json: bool) -> None:
    """Invite the empty node at HOST[:PORT] into the cluster of the node at --url. PORT is 8080 unless told."""
    host, port = _host_and_port(address)
    with Connection(url) as connection:
        answer = connection.request("PUT", "/v1/cluster/join", parameters={"host": host, "port": str(port)})
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{answer['node']} at {address} is a member now")


@cluster.command()
@click.argument("node")
@url_option
@json_option
def leave(node: str, url: str, as_json: bool) -> None:
    """Let a member go: the sentinel moves what it holds to others, then removes it."""
    with Connection(url) as connection:
        answer = connection.request("PUT", "/v1/cluster/leave", parameters={"node": node})
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{node} leaves; openset cluster status shows when it is gone")


@cluster.command()
@url_option
@json_option
def status(url: str, as_json: bool) -> None:
    """Show members, health, and what the sentinel decided lately."""
    with Connection(url) as connection:
        answer = connection.get("/v1/cluster")
    if as_json:
        print_json(answer)
        return
    for line in status_lines(answer):
        click.echo(line)


def status_lines(answer: dict[str, Any]) -> list[str]:
    """GET /v1/cluster for people."""
    if answer["mode"] != "member":
        name = answer["node"] or "the node"
        about = f", {answer['partitions']} partitions" if answer["partitions"] is not None else ""
        return [f"{name}: {answer['mode']}{about}"]
    health = answer["health"]
    lines = [
        f"cluster {answer['cluster']}: {health['status']}, {answer['partitions']} partitions, "
        f"copies wanted: {answer['replicas']}, coordinator: {answer['coordinator']}"
    ]
    if "reason" in health:
        lines.append(f"the coordinator cannot be used, this is how it was when it could: {health['reason']}")
    for name, text in (("without_owner", "without a living owner"), ("missing_copies", "with copies missing")):
        if health[name]:
            lines.append(f"partitions {text}: {', '.join(map(str, health[name]))}")
    for member in answer["members"]:
        states = ["not alive"] * (not member["alive"]) + ["leaving"] * member["leaving"]
        state = ", ".join(states) or "alive"
        words = [state, *(["disk full"] if member["full"] else []), *member["roles"]]
        if member["damaged"]:
            words.append(f"damaged copies of {' '.join(map(str, member['damaged']))}")
        lines.append(
            f"{member['node']}  {member['host']}:{member['port']}  {', '.join(words)}  "
            f"owns {member['owns']}, has {member['in_sync']}, gets {member['filling']}"
        )
    for decision in ((answer["sentinel"] or {}).get("decisions") or [])[:_SHOWN_DECISIONS]:
        about = f"partition {decision['partition']}: " if "partition" in decision else ""
        refused = f" (not made: {decision['refused']})" if "refused" in decision else ""
        lines.append(f"decided: {about}{decision['reason']}{refused}")
    return lines


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]") or (":" in host.strip("[]") and not host.endswith("]")):
        return address.strip("[]"), DEFAULT_PORT
    if not (port.isascii() and port.isdecimal()):
        raise click.UsageError(f"{address!r} is no host and port")
    return host.strip("[]"), int(port)
