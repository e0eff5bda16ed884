"""Which etcd, and how to reach it: `etcd://[user:password@]host:port,host:port/prefix?option=value`."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from openset.cluster.keeper import is_key
from openset.errors import ConfigError
from openset.suggestion import suggestion

SCHEME = "etcd://"
DEFAULT_PORT = 2379
DEFAULT_PREFIX = "openset"
_OPTIONS = ("tls", "ca", "cert", "key", "password_file")
_ENDPOINT = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A member of etcd."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Tls:
    """ca: of certificates that are trusted, None for those the system trusts. cert, key: to show, or None."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ConfigError for files that cannot be used."""
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            names = ", ".join(str(path) for path in (self.ca, self.cert, self.key) if path is not None)
            raise ConfigError(f"the certificates for etcd cannot be used ({names}): {error}") from error
        return context


@dataclass(frozen=True, slots=True)
class EtcdAddress:
    """prefix: of all keys, without slashes around it. tls: None for plain HTTP."""

    endpoints: tuple[Endpoint, ...]
    prefix: str = DEFAULT_PREFIX
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __str__(self) -> str:
        """Without the password."""
        user = "" if self.user is None else f"{self.user}@"
        return f"{SCHEME}{user}{','.join(map(str, self.endpoints))}/{self.prefix}"


def parse_address(url: str) -> EtcdAddress:
    """Raises ConfigError, whose message does not contain the password."""
    if not url.startswith(SCHEME):
        raise ConfigError(f"an address of etcd begins with {SCHEME}")
    rest, _, query = url.removeprefix(SCHEME).partition("?")
    place, _, prefix = rest.partition("/")
    credentials, at, hosts = place.rpartition("@")
    options = _options(query)
    user, password = _credentials(credentials if at else None, options.get("password_file"))
    prefix = unquote(prefix).strip("/") or DEFAULT_PREFIX
    if not is_key(prefix):
        raise ConfigError(f"{prefix!r} cannot be a prefix in etcd: words with slashes between them can")
    endpoints = tuple(dict.fromkeys(_endpoint(each) for each in hosts.split(",")))
    return EtcdAddress(endpoints, prefix, user, password, _tls(options))


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise ConfigError(f"an address of etcd has no option {name!r}{suggestion(name, _OPTIONS)}")
        if name in options or not value:
            raise ConfigError(f"option {name} of etcd's address is given {'twice' if name in options else 'empty'}")
        options[name] = value
    return options


def _credentials(text: str | None, password_file: str | None) -> tuple[str | None, str | None]:
    user, colon, password = (None, "", "") if text is None else text.partition(":")
    if password_file is not None:
        if not user or colon:
            raise ConfigError("password_file= goes with a user without a password: etcd://user@host:2379")
        try:
            return unquote(user), Path(password_file).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{password_file} cannot be read: {error}") from error
    if user is None:
        return None, None
    if not user or not colon:
        raise ConfigError("etcd's address has @, so user and password belong before it: etcd://user:password@host:2379")
    return unquote(user), unquote(password)


def _endpoint(text: str) -> Endpoint:
    found = _ENDPOINT.fullmatch(text)
    port = DEFAULT_PORT if found is None or found["port"] is None else int(found["port"])
    if found is None or not 0 < port < 65_536:
        raise ConfigError(f"{text!r} is no host and port of etcd; several have commas between them")
    return Endpoint(found["six"] or found["host"], port)


def _tls(options: dict[str, str]) -> Tls | None:
    wanted = options.get("tls")
    if wanted not in (None, "true", "false"):
        raise ConfigError("option tls of etcd's address is true or false")
    paths = {name: Path(options[name]) for name in ("ca", "cert", "key") if name in options}
    if not paths and wanted != "true":
        return None
    if wanted == "false":
        raise ConfigError("etcd's address has tls=false and certificates")
    if ("cert" in paths) != ("key" in paths):
        raise ConfigError("options cert and key of etcd's address belong together")
    return Tls(**paths)
