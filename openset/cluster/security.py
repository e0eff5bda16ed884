"""How nodes of a cluster know each other: certificates of one authority, or a secret that they share, on one machine.

With certificates the connection is TLS and both sides show one. With a secret every request is signed, and every
answer; the secret itself is never sent. That proves who speaks, and not that nobody on the way changes a body, so it is
for loopback addresses only, and both sides see to that.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import ssl
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from openset.errors import ConfigError, ForbiddenError

SIGNATURE_HEADER = "OpenSet-Signature"
PROOF_HEADER = "OpenSet-Proof"
SHORTEST_SECRET_BYTES = 16
# One machine has one clock; a request may have waited in a process that was stopped.
_SIGNATURE_AGE_MS = 300_000
# Of a handshake, from one side and the other.
_MOST_FLIGHTS = 4

HOW_TO = (
    "start every node with --cluster-ca, --cluster-cert and --cluster-key, or, where all are on one machine, with "
    "--cluster-secret-file or OPENSET_CLUSTER_SECRET"
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, as the connection knows it. local_port: where the request arrived. headers: names in lower case."""

    path: str
    remote_ip: str
    local_port: int
    has_certificate: bool
    headers: Mapping[str, str]


class Security(Protocol):
    """What both kinds do. server_tls: for connections that arrive, None where those are plain."""

    server_tls: ssl.SSLContext | None
    client_tls: ssl.SSLContext | None

    def check_host(self, host: str, addresses: list[str]) -> None:
        """Whether requests may be sent there. Raises ConfigError."""

    def request_headers(self, path: str, port: int) -> dict[str, str]:
        """What a request has to carry. path: with parameters. port: where it is sent."""

    def check_request(self, caller: Caller) -> dict[str, str]:
        """What the answer has to carry. Raises ForbiddenError for a stranger."""

    def is_proved(self, sent: Mapping[str, str], received: Mapping[str, str]) -> bool:
        """Whether the headers of an answer (lower case) are from a node of the cluster, by those of the request."""


def security_of(ca: Path | None, cert: Path | None, key: Path | None, secret: str | None) -> Security | None:
    """What was configured, None for nothing. Raises ConfigError for half of it, or both, or what cannot be used."""
    files = [path for path in (ca, cert, key) if path is not None]
    if ca is not None and cert is not None and key is not None:
        if secret is not None:
            raise ConfigError("certificates and a secret of the cluster are both given: one of them is enough")
        return TlsSecurity(ca, cert, key)
    if files:
        raise ConfigError("--cluster-ca, --cluster-cert and --cluster-key belong together")
    return None if secret is None else SecretSecurity(secret)


class TlsSecurity:
    """Both show a certificate that the cluster's authority signed; the one who asks checks the host's name too."""

    def __init__(self, ca: Path, cert: Path, key: Path):
        """PEM files. Raises ConfigError."""
        try:
            self.server_tls: ssl.SSLContext | None = _context(ssl.Purpose.CLIENT_AUTH, ca, cert, key)
            self.client_tls: ssl.SSLContext | None = _context(ssl.Purpose.SERVER_AUTH, ca, cert, key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificates of the cluster cannot be used ({ca}, {cert}, {key}): {error}"
            ) from error
        try:
            _speak_to_itself(self.server_tls, _context(ssl.Purpose.SERVER_AUTH, ca, cert, key))
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason
            raise ConfigError(
                f"other nodes would refuse the certificate {cert}: {reason}; it has to be signed by {ca}, and to be "
                "for servers and for clients"
            ) from error

    def check_host(self, host: str, addresses: list[str]) -> None:
        return

    def request_headers(self, path: str, port: int) -> dict[str, str]:
        return {}

    def check_request(self, caller: Caller) -> dict[str, str]:
        if not caller.has_certificate:
            raise ForbiddenError("this is for nodes of the cluster: TLS with a certificate of its authority")
        return {}

    def is_proved(self, sent: Mapping[str, str], received: Mapping[str, str]) -> bool:
        return True  # the handshake did it


def _context(purpose: ssl.Purpose, ca: Path, cert: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if purpose == ssl.Purpose.CLIENT_AUTH:
        # Whoever shows none may connect and is told what is missing; a wrong one ends the handshake.
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _speak_to_itself(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """A handshake of a node with itself, in memory: whether its certificate serves both sides. Raises SSLError."""
    client.check_hostname = False  # which name others use, they say when they ask
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(_MOST_FLIGHTS):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


class SecretSecurity:
    """A secret that all nodes know, between loopback addresses."""

    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None

    def __init__(self, secret: str):
        """Raises ConfigError for one that is too short."""
        self._secret = secret.strip().encode()
        if len(self._secret) < SHORTEST_SECRET_BYTES:
            raise ConfigError(f"the secret of the cluster has fewer than {SHORTEST_SECRET_BYTES} bytes")

    def check_host(self, host: str, addresses: list[str]) -> None:
        for address in addresses:
            if not is_loopback(address):
                raise ConfigError(
                    f"{host} is {address}, not this machine: nodes with a shared secret speak on loopback only; "
                    "certificates (--cluster-ca, --cluster-cert, --cluster-key) are for several machines"
                )

    def request_headers(self, path: str, port: int) -> dict[str, str]:
        stamp = f"{time.time_ns() // 1_000_000}-{os.urandom(8).hex()}"
        return {SIGNATURE_HEADER: f"{stamp}-{self._signed('request', stamp, str(port), path)}"}

    def check_request(self, caller: Caller) -> dict[str, str]:
        if not is_loopback(caller.remote_ip):
            raise ForbiddenError("nodes with a shared secret speak on loopback only")
        given = caller.headers.get(SIGNATURE_HEADER.lower(), "")
        stamp, _, signature = given.rpartition("-")
        expected = self._signed("request", stamp, str(caller.local_port), caller.path)
        if not hmac.compare_digest(signature.encode(), expected.encode()):
            raise ForbiddenError("this is for nodes of the cluster: the secret is missing or another one")
        signed_ms = int(stamp.partition("-")[0])
        if abs(time.time_ns() // 1_000_000 - signed_ms) > _SIGNATURE_AGE_MS:
            raise ForbiddenError("the request was signed too long ago")
        return {PROOF_HEADER: self._signed("answer", given)}

    def is_proved(self, sent: Mapping[str, str], received: Mapping[str, str]) -> bool:
        expected = self._signed("answer", sent[SIGNATURE_HEADER])
        return hmac.compare_digest(received.get(PROOF_HEADER.lower(), "").encode(), expected.encode())

    def _signed(self, *parts: str) -> str:
        return hmac.new(self._secret, "\n".join(parts).encode(), "sha256").hexdigest()


def is_loopback(address: str) -> bool:
    """Whether an IP address, in whatever form, is this machine's own."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
