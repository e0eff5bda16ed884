"""A network of the kernel's: every node in a network namespace of its own, etcd in one more, on a bridge in ours.

Outside loopback nodes prove who they are with certificates, so here mutual TLS is what they speak. A way is cut in the
namespace of who sends, where packets, acknowledgements of TCP as well, go to nobody or cannot be sent.
Needs root, and a kernel that gives namespaces; `are_available` says whether this machine does.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.certificates import Authority
from support.chaos.network import ETCD, Way, called
from support.cluster import Node
from support.etcd import Etcd

_PORT = 8080
_OWN, _OF_ETCD, _OF_NODES = 1, 2, 10
_NOBODY = "02:00:00:00:00:00"


def are_available() -> bool:
    """Whether namespaces can be made and joined here."""
    if shutil.which("ip") is None:
        return False
    try:
        network = Namespaces()
    except OSError:
        return False
    network.close()
    return True


class Namespaces:
    """A Network. A free name and the addresses that go with it are taken when this is made: several may run at once."""

    kind = "namespaces"

    def __init__(self) -> None:
        """Raises OSError where the machine does not let us."""
        self._number = _first_free()
        self._bridge = f"chaos{self._number}"
        self._inside: list[str] = []
        self._authority: Authority | None = None
        self._coordinator = ""
        # Which are cut, and whether silently.
        self._cuts: dict[Way, bool] = {}
        try:
            _ip(f"address add {self._address(_OWN)}/24 dev {self._bridge}", f"link set {self._bridge} up")
            self._make(ETCD, _OF_ETCD)
        except OSError:
            self.close()
            raise

    def start_etcd(self, directory: Path) -> Etcd:
        etcd = Etcd(directory, host=self._address(_OF_ETCD), runner=self.runner(ETCD))
        self._coordinator = f"etcd://{etcd.hosts}/chaos"
        return etcd

    def node(self, number: int, data: Path, settings: dict[str, Any], **options: Any) -> Node:
        name, address = called(number), self._address(_OF_NODES + number)
        self._make(name, _OF_NODES + number)
        if self._authority is None:
            self._authority = Authority(data.parent, "chaos")
        cert, key = self._authority.issue(name, address)
        files = {"ca": str(self._authority.ca), "cert": str(cert), "key": str(key)}
        cluster = settings | files | {"coordinator": self._coordinator, "host": address}
        return Node(data, cluster, _PORT, host=address, runner=self.runner(name), **options)

    def know(self, name: str, called: str) -> None:
        pass  # the kernel knows who sends

    def cut(self, ways: Iterable[Way], *, silent: bool) -> None:
        for source, target in ways:
            self.mend([(source, target)])  # it may be cut the other way
            self._cuts[source, target] = silent
            address, within = self.address_of(target), self._named(source)
            if silent:
                _ip(f"neighbour replace {address} lladdr {_NOBODY} dev eth0 nud permanent", within=within)
                continue
            _ip(f"route replace unreachable {address}/32", within=within)
            # Where a kernel cannot end connections (INET_DIAG_DESTROY) they hang, as if it were silent.
            ends = [*self.runner(source), "ss", "--kill", "dst", address]
            subprocess.run(ends, capture_output=True, check=False)

    def mend(self, ways: Iterable[Way] | None = None) -> None:
        for way in list(self._cuts) if ways is None else ways:
            silent = self._cuts.pop(way, None)
            address, within = self.address_of(way[1]), self._named(way[0])
            if silent:
                _ip(f"neighbour del {address} dev eth0", within=within)
            elif silent is not None:
                _ip(f"route del unreachable {address}/32", within=within)

    def runner(self, name: str) -> tuple[str, ...]:
        """A command that runs another one where a node is, or ETCD."""
        return ("ip", "netns", "exec", self._named(name))

    def address_of(self, name: str) -> str:
        """Of a node, or ETCD."""
        return self._address(_OF_ETCD if name == ETCD else _OF_NODES + int(name.removeprefix("n")))

    def close(self) -> None:
        for name in self._inside:
            with suppress(OSError):
                _ip(f"netns del {name}")
        with suppress(OSError):
            _ip(f"link del {self._bridge}")

    # --- names and addresses ---------------------------------------------------------------------------------------

    def _make(self, name: str, host: int) -> None:
        """A namespace with its end of a cable; the other end is at the bridge."""
        named, here = self._named(name), f"{self._bridge}-{name}"
        _ip(f"netns add {named}")
        self._inside.append(named)
        _ip(
            f"link add {here} type veth peer name eth0 netns {named}",
            f"link set {here} master {self._bridge}",
            f"link set {here} up",
        )
        _ip("link set lo up", f"address add {self._address(host)}/24 dev eth0", "link set eth0 up", within=named)

    def _named(self, name: str) -> str:
        return f"{self._bridge}-{name}"

    def _address(self, host: int) -> str:
        return f"10.213.{self._number}.{host}"


def _first_free() -> int:
    """Makes a bridge under the first free number and returns it."""
    error = OSError("there are too many networks of such tests: `ip netns` and `ip link` show them")
    for number in range(256):
        try:
            _ip(f"link add chaos{number} type bridge")
        except FileExistsError as taken:
            error = taken
        else:
            return number
    raise error


def _ip(*commands: str, within: str = "") -> None:
    """Commands for `ip`, one after the other. Raises OSError, FileExistsError for what is there already."""
    for command in commands:
        inside = ["-netns", within] if within else []
        done = subprocess.run(["ip", *inside, *command.split()], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip()
            raise (FileExistsError if "File exists" in reason else OSError)(f"ip {command}: {reason}")
