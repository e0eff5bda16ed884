"""A place for backups behind a URL that fsspec understands: `s3://bucket/prefix`, `memory://name` and so on.

Who works on a place says so in a file under `running/`, again and again. Two who come at once both see the other and
both give up. One who has said nothing for ten minutes is taken for dead, so the clocks of machines that share a place
must agree to within some minutes. Needs fsspec and what the URL takes (`openset[s3]`).
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

import msgspec

from openset.errors import ConfigError, OpenSetError
from openset_tools.backups.places import Place

CLAIMS_DIRECTORY = "running"
DEAD_AFTER_S = 600.0
SAID_EVERY_S = 30.0
# Object stores take a file in parts of this size; they hold it when the last one has arrived.
_PART_BYTES = 16 * 1024 * 1024


class _Claim(msgspec.Struct):
    """Who works on a place. at_s: seconds since the epoch, when that was last said."""

    what: str
    host: str
    process: int
    at_s: float


class RemotePlace(Place):
    """Options of a file system (keys, endpoints) are taken from where it looks for them: environment, files."""

    def __init__(self, address: str):
        """Raises ConfigError when fsspec, or what it takes for this URL, is missing or refuses it."""
        self._address = address.rstrip("/")
        if self._address.endswith(":"):
            raise ConfigError(f"{address} names no place")
        try:
            import fsspec
        except ImportError:
            raise ConfigError(f"{address} needs fsspec: pip install 'openset[s3]'") from None
        try:
            self._system, self._root = fsspec.core.url_to_fs(self._address)
        except ImportError as error:
            raise ConfigError(f"{address} needs another package: {error}") from None
        except Exception as error:
            raise ConfigError(f"{address} cannot be used: {error}") from error
        self._root = self._root.rstrip("/")

    def __str__(self) -> str:
        return self._address

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"

    def sizes(self, directory: str) -> dict[str, int]:
        with _as_os_error():
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._path(directory), detail=True)
            except FileNotFoundError:
                return {}
        # Some give a leading slash that the root has not.
        root = self._root.lstrip("/")
        return {
            name.lstrip("/").removeprefix(f"{root}/"): int(facts["size"] or 0)
            for name, facts in found.items()
            if facts["type"] == "file"
        }

    def read(self, path: str) -> bytes:
        with _as_os_error():
            return bytes(self._system.cat_file(self._path(path)))

    @contextmanager
    def open(self, path: str) -> Iterator[BinaryIO]:
        with _as_os_error(), self._system.open(self._path(path), "rb", cache_type="readahead") as file:
            yield file

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        with _as_os_error():
            try:
                file = self._created(path)
            except FileNotFoundError:
                # Where directories are more than the beginnings of names (sftp, a mounted file system).
                self._system.makedirs(self._path(path).rpartition("/")[0], exist_ok=True)
                file = self._created(path)
            try:
                for piece in pieces:
                    file.write(piece)
            except BaseException:
                _abandon(file)
                raise
            file.close()

    def _created(self, path: str) -> Any:
        return self._system.open(self._path(path), "wb", block_size=_PART_BYTES)

    def remove(self, path: str) -> None:
        with _as_os_error(), suppress(FileNotFoundError):
            self._system.rm_file(self._path(path))

    def settle(self) -> None:
        """A file is there when it has been written."""

    @contextmanager
    def claimed(self, what: str) -> Iterator[Callable[[], None]]:
        own = f"{CLAIMS_DIRECTORY}/{what}-{os.urandom(8).hex()}.json"

        def say() -> None:
            claim = _Claim(what, socket.gethostname(), os.getpid(), time.time())
            self.write(own, [msgspec.json.encode(claim)])

        say()
        try:
            self._refuse_others(own)
            with _repeated(say):
                yield lambda: self._check(own)
        finally:
            with suppress(OSError):  # it counts as dead in a while
                self.remove(own)

    def _refuse_others(self, own: str) -> None:
        """Raises ConfigError when somebody else works on the place. Claims of the dead are removed."""
        for path in self.sizes(CLAIMS_DIRECTORY):
            if path == own:
                continue
            try:
                claim = msgspec.json.decode(self.read(path), type=_Claim)
            except FileNotFoundError:
                continue
            except msgspec.DecodeError:
                claim = None  # being written; whose it is does not matter
            if claim is not None and claim.at_s < time.time() - DEAD_AFTER_S:
                self.remove(path)
                continue
            who = "somebody" if claim is None else f"process {claim.process} on {claim.host}"
            raise ConfigError(
                f"another backup to {self} is running, or old ones are being removed ({who})",
                detail=f"if it was killed, this works {DEAD_AFTER_S / 60:.0f} minutes after it last said something",
            )

    def _check(self, own: str) -> None:
        if own not in self.sizes(CLAIMS_DIRECTORY):
            raise ConfigError(f"this was taken for dead, and somebody else works on {self}; try again")


def _abandon(file: Any) -> None:
    """Gives up a file that is half written, so that closing it does not make it count."""
    with suppress(Exception):  # the first error is the one to report; a shorter content is never taken for the whole
        file.discard()
    with suppress(AttributeError):
        file.closed = True


@contextmanager
def _repeated(say: Callable[[], None]) -> Iterator[None]:
    """Says something again and again in a thread of its own until the context is left."""
    done = threading.Event()

    def repeat() -> None:
        while not done.wait(SAID_EVERY_S):
            with suppress(OSError):  # the check at the end tells when it was too long
                say()

    thread = threading.Thread(target=repeat, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Every file system has errors of its own."""
    try:
        yield
    except (OSError, OpenSetError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
