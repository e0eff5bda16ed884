"""Really started members of etcd on loopback ports, which can be killed, stopped and started again."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_START_SECONDS = 20
_ATTEMPTS = 3


def etcd_program() -> str:
    """Where etcd is. These tests fail without it."""
    found = shutil.which("etcd")
    assert found is not None, "these tests start etcd, which is not installed; on Debian: apt install etcd-server"
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at the moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass
class Certificates:
    """What a server shows, and what it trusts. asks_clients: whoever shows none of the kind is turned away."""

    ca: Path
    cert: Path
    key: Path
    asks_clients: bool = False


@dataclass
class EtcdMember:
    name: str
    directory: Path
    client_port: int
    peer_port: int
    arguments: list[str] = field(default_factory=list)
    # What runs it, with its arguments.
    runner: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """To be called in the main thread: it goes when the thread goes that started it, however these tests end."""
        command = [*self.runner, "setpriv", "--pdeathsig", "KILL", etcd_program(), *self.arguments]
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Its port takes connections, and nothing answers."""
        self.send(signal.SIGSTOP)

    def go_on(self) -> None:
        self.send(signal.SIGCONT)


class Etcd:
    """A cluster of members, up when this has been made.

    host: where members listen for clients; with each other they speak on loopback.  runner: a command that runs each.
    """

    def __init__(
        self,
        directory: Path,
        members: int = 3,
        certificates: Certificates | None = None,
        *,
        host: str = "127.0.0.1",
        runner: tuple[str, ...] = (),
    ):
        self.certificates = certificates
        self.host = host
        self._runner = runner
        for attempt in range(_ATTEMPTS):
            self.members = self._made(directory / f"attempt-{attempt}", members)
            for member in self.members:
                member.start()
            if self._comes_up():
                return
            self.close()  # somebody else may have taken a port meanwhile
        logs = "\n".join(path.read_text()[-2_000:] for path in sorted(directory.rglob("*.log")))
        raise AssertionError(f"etcd did not start:\n{logs}")

    @property
    def hosts(self) -> str:
        """The part of an address that names the members."""
        return ",".join(f"{self.host}:{member.client_port}" for member in self.members)

    def _made(self, directory: Path, count: int) -> list[EtcdMember]:
        directory.mkdir(parents=True)
        ports = free_ports(2 * count)
        members = [
            EtcdMember(f"m{each}", directory / f"m{each}", ports[2 * each], ports[2 * each + 1], runner=self._runner)
            for each in range(count)
        ]
        cluster = ",".join(f"{member.name}=http://127.0.0.1:{member.peer_port}" for member in members)
        for member in members:
            client = f"{'http' if self.certificates is None else 'https'}://{self.host}:{member.client_port}"
            peer = f"http://127.0.0.1:{member.peer_port}"
            options = {
                "name": member.name,
                "data-dir": member.directory,
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": cluster,
                "heartbeat-interval": 50,
                "election-timeout": 500,
                "log-level": "error",
                "logger": "zap",
            }
            if self.certificates is not None:
                options |= {"cert-file": self.certificates.cert, "key-file": self.certificates.key}
                if self.certificates.asks_clients:
                    options |= {"trusted-ca-file": self.certificates.ca, "client-cert-auth": "true"}
            member.arguments = [f"--{name}={value}" for name, value in options.items()]
        return members

    def _comes_up(self) -> bool:
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            if any(member.process is None or member.process.poll() is not None for member in self.members):
                return False
            if all(self._is_ready(member) for member in self.members):
                return True
            time.sleep(0.05)
        return False

    def wait_until_ready(self) -> None:
        """All members answer, with the others."""
        until = time.monotonic() + _START_SECONDS
        while not all(self._is_ready(member) for member in self.members):
            assert time.monotonic() < until, "etcd does not come back"
            time.sleep(0.05)

    def _is_ready(self, member: EtcdMember) -> bool:
        try:
            self.post("/v3/kv/range", {"key": text("ready")}, member)
        except (OSError, ValueError) as error:
            # A refusal for want of a password is an answer too.
            return isinstance(error, urllib.error.HTTPError) and b"user name is empty" in error.read()
        return True

    def post(self, path: str, body: dict[str, Any], member: EtcdMember | None = None, token: str = "") -> Any:
        """Asks a member, the first one unless told."""
        port = (member or self.members[0]).client_port
        context, scheme = None, "http"
        if self.certificates is not None:
            context, scheme = ssl.create_default_context(cafile=self.certificates.ca), "https"
            context.load_cert_chain(self.certificates.cert, self.certificates.key)
        headers = {"Authorization": token} if token else {}
        request = urllib.request.Request(f"{scheme}://{self.host}:{port}{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=2, context=context) as answer:
            return json.load(answer)

    def leader(self) -> EtcdMember:
        """Which member leads."""
        for member in self.members:
            status = self.post("/v3/maintenance/status", {}, member)
            if status["leader"] == status["header"]["member_id"]:
                return member
        raise AssertionError("etcd has no leader")

    def close(self) -> None:
        for member in self.members:
            member.kill()


def text(name: str) -> str:
    """Bytes as the gateway wants them."""
    return base64.b64encode(name.encode()).decode()
