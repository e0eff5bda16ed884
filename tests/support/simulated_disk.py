"""A simulated disk below a FileLayer: what a process sees, what a power failure would leave of it, and faults.

The process sees a real directory, like a page cache that has everything. Beside it a log keeps every step, and when it
became durable: contents by a sync of the file, names by a sync of their directory. `image` writes down what the disk
may hold after a power failure at any moment: durable steps are there, each other step is there or not, or (writes) in
some of its sectors or up to some byte. Nothing is assumed about the order of steps that were not synced.

A failed sync leaves the writes it was about in doubt for good, as Linux does: later syncs say nothing about them. Names
are kept by a failed sync of their directory and tried again by the next one. Real syncs are left out.
"""

from __future__ import annotations

import errno
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from openset_format.files import Buffer, FileLayer, WritableFile

SECTORS = (512, 4096)
ROOT = 0

# What becomes of a step that was not synced: all of it (True), nothing, or these ranges of a write's bytes.
Fate = bool | list[tuple[int, int]]
Chooser = Callable[["Step"], Fate]


@dataclass(slots=True, eq=False)
class Step:
    """A change. node: the file written to, or the directory whose names change.

    data: bytes written at offset; size: of a truncation; names: what a directory's names stand for from now on.
    durable_from: the length of the log from which on it is durable.
    """

    node: int
    offset: int = 0
    data: bytes | None = None
    size: int | None = None
    names: dict[tuple[int, str], int | None] = field(default_factory=dict)
    durable_from: float = float("inf")


@dataclass(slots=True)
class Fault:
    """Fails steps of one kind ("" for all) on names with a suffix: after letting `skip` go, `times` of them."""

    kind: str = ""
    suffix: str = ""
    skip: int = 0
    times: float = 1
    number: int = errno.EIO

    def hits(self, kind: str, path: Path) -> bool:
        if self.kind not in ("", kind) or not path.name.endswith(self.suffix) or not self.times:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class SimulatedDisk(FileLayer):
    """A disk of its own below `root`, an empty directory, resolved. capacity_bytes: what fits on it. Thread-safe."""

    def __init__(self, root: Path, capacity_bytes: float = float("inf")):
        self.root = root
        self.capacity_bytes = capacity_bytes
        self.faults: list[Fault] = []
        self.log: list[Step | None] = []  # None: a sync
        self.kinds: list[str] = []  # of all steps that were tried
        self.is_off = False
        # After so many tried steps the process dies.
        self.off_after: int | None = None
        self.lock = threading.RLock()
        self._next_node = ROOT + 1
        self._directories: dict[int, dict[str, int]] = {ROOT: {}}
        self._sizes: dict[int, int] = {}
        # Steps on a node that a sync of it would make durable.
        self._pending: dict[int, list[Step]] = {}

    @property
    def position(self) -> int:
        """The length of the log: a moment at which power may fail."""
        return len(self.log)

    def power_off(self) -> None:
        """From now on every step fails: the process is as good as dead."""
        self.is_off = True

    def restart(self) -> None:
        """A new process on what the old one left in the page cache."""
        self.is_off = False

    # --- the layer -------------------------------------------------------------------------------------------------

    def create(self, path: Path) -> WritableFile:
        with self.lock:
            self.tried("create", path)
            file = super().create(path)
            node = self._next_node
            self._next_node += 1
            self._sizes[node] = 0
            self._rename({self._place(path): node})
            return SimulatedFile(self, file, node)

    def open(self, path: Path) -> WritableFile:
        with self.lock:
            directory, name = self._place(path)
            file = super().open(path)
            return SimulatedFile(self, file, self._directories[directory][name])

    def rename(self, source: Path, target: Path) -> None:
        with self.lock:
            self.tried("rename", target)
            super().rename(source, target)
            old, new = self._place(source), self._place(target)
            self._rename({new: self._directories[old[0]][old[1]], old: None})

    def link(self, source: Path, target: Path) -> None:
        with self.lock:
            self.tried("link", target)
            super().link(source, target)
            directory, name = self._place(source)
            self._rename({self._place(target): self._directories[directory][name]})

    def unlink(self, path: Path) -> None:
        with self.lock:
            self.tried("unlink", path)
            super().unlink(path)
            self._rename({self._place(path): None})

    def remove_directory(self, path: Path) -> None:
        with self.lock:
            self.tried("unlink", path)
            super().remove_directory(path)
            self._rename({self._place(path): None})

    def make_directory(self, path: Path) -> None:
        with self.lock:
            if path.is_dir():
                return
            self.make_directory(path.parent)
            self.tried("make_directory", path)
            path.mkdir()
            node = self._next_node
            self._next_node += 1
            self._directories[node] = {}
            self._rename({self._place(path): node})

    def sync_directory(self, path: Path) -> None:
        with self.lock:
            self.tried("sync_directory", path)
            self._make_durable(self._node(path))

    # --- what the files tell ---------------------------------------------------------------------------------------

    def tried(self, kind: str, path: Path) -> None:
        """Counts a step; raises OSError where a fault hits it."""
        self.kinds.append(kind)
        if self.off_after is not None and len(self.kinds) > self.off_after:
            self.is_off = True
        if self.is_off:
            raise OSError(errno.EIO, "the process is dead")
        for fault in self.faults:
            if fault.hits(kind, path):
                raise OSError(fault.number, f"{os.strerror(fault.number)} (injected at {kind})")

    def room(self, node: int, end: int) -> int:
        """How far a file may grow: `end`, or less."""
        others = sum(size for other, size in self._sizes.items() if other != node)
        return int(max(min(end, self.capacity_bytes - others), self._sizes.get(node, 0)))

    def wrote(self, node: int, data: bytes, offset: int) -> None:
        with self.lock:
            self._sizes[node] = max(self._sizes.get(node, 0), offset + len(data))
            self._changed(Step(node, offset, data))

    def truncated(self, node: int, size: int) -> None:
        with self.lock:
            self._sizes[node] = size
            self._changed(Step(node, size=size))

    def synced(self, node: int) -> None:
        with self.lock:
            self._make_durable(node)

    def doubtful(self, node: int) -> None:
        """A sync failed: nobody will ever know about what it was to make durable."""
        with self.lock:
            self._pending.pop(node, None)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _changed(self, step: Step) -> None:
        self.log.append(step)
        self._pending.setdefault(step.node, []).append(step)

    def _make_durable(self, node: int) -> None:
        self.log.append(None)
        for step in self._pending.pop(node, []):
            others = {directory for directory, _ in step.names} - {node}
            if not any(step in self._pending.get(other, []) for other in others):
                step.durable_from = self.position

    def _rename(self, names: dict[tuple[int, str], int | None]) -> None:
        """Names change in one step, which is durable when all their directories were synced."""
        gone = set()
        for (directory, name), node in names.items():
            before = self._directories[directory].pop(name, None)
            if before is not None:
                gone.add(before)
            if node is not None:
                self._directories[directory][name] = node
        step = Step(next(iter(names))[0], names=names)
        self.log.append(step)
        for directory in {directory for directory, _ in names}:
            self._pending.setdefault(directory, []).append(step)
        for node in gone - {node for entries in self._directories.values() for node in entries.values()}:
            self._sizes.pop(node, None)

    def _place(self, path: Path) -> tuple[int, str]:
        return self._node(path.parent), path.name

    def _node(self, directory: Path) -> int:
        node = ROOT
        for part in directory.relative_to(self.root).parts:
            node = self._directories[node][part]
        return node

    # --- after a power failure -------------------------------------------------------------------------------------

    def image(self, position: int, chooser: Chooser, target: Path) -> None:
        """Writes down what the disk may hold after a power failure at a moment. target: a directory that is not there.

        chooser: says what becomes of each step before the moment that was not durable by then.
        """
        files: dict[int, bytearray] = {}
        names: dict[int, dict[str, int]] = {}
        for step in self.log[:position]:
            if step is None:
                continue
            fate = True if step.durable_from <= position else chooser(step)
            if fate is False:
                continue
            if step.data is not None:
                for start, end in [(0, len(step.data))] if fate is True else fate:
                    _put(files.setdefault(step.node, bytearray()), step.data[start:end], step.offset + start)
            elif step.size is not None:
                _resize(files.setdefault(step.node, bytearray()), step.size)
            for (directory, name), node in step.names.items():
                names.setdefault(directory, {}).pop(name, None)
                if node is not None:
                    names[directory][name] = node
        self._write(ROOT, names, files, target)

    def _write(self, node: int, names: dict[int, dict[str, int]], files: dict[int, bytearray], target: Path) -> None:
        target.mkdir()
        for name, inner in names.get(node, {}).items():
            if inner in self._directories:
                self._write(inner, names, files, target / name)
            else:
                (target / name).write_bytes(files.get(inner, b""))


class SimulatedFile(WritableFile):
    """A file of a SimulatedDisk."""

    def __init__(self, disk: SimulatedDisk, file: WritableFile, node: int):
        super().__init__(file.path, file._descriptor)
        self._disk = disk
        self._node = node

    def write_at(self, buffers: Sequence[Buffer], offset: int) -> int:
        data = b"".join(bytes(buffer) for buffer in buffers)
        with self._disk.lock:
            fits = max(self._disk.room(self._node, offset + len(data)) - offset, 0)
            refused = None if fits >= len(data) else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                self._disk.tried("write", self.path)
            except OSError as error:
                if not self._disk.is_off:
                    fits, refused = fits // 2, error
                else:
                    raise
            if fits:
                super().write_at([data[:fits]], offset)
                self._disk.wrote(self._node, data[:fits], offset)
        if refused is not None:
            raise refused
        return len(data)

    def truncate(self, size: int) -> None:
        with self._disk.lock:
            self._disk.tried("truncate", self.path)
            super().truncate(size)
            self._disk.truncated(self._node, size)

    def sync(self) -> None:
        with self._disk.lock:
            try:
                self._disk.tried("sync", self.path)
            except OSError:
                self._disk.doubtful(self._node)
                raise
            self._disk.synced(self._node)

    def sync_data(self) -> None:
        self.sync()


def nothing(step: Step) -> Fate:
    """Only what was synced is there."""
    return False


def everything(step: Step) -> Fate:
    """The process died, the machine did not."""
    return True


def names_only(step: Step) -> Fate:
    """Names without contents."""
    return bool(step.names)


def contents_only(step: Step) -> Fate:
    """Contents without names."""
    return not step.names


def chooser_of(name: str) -> Chooser:
    """One of the extremes, or `seed N`."""
    return EXTREMES[name] if name in EXTREMES else at_random(int(name.removeprefix("seed ")))


EXTREMES: dict[str, Chooser] = {
    "nothing": nothing,
    "everything": everything,
    "names only": names_only,
    "contents only": contents_only,
}


def at_random(seed: int) -> Chooser:
    """Steps and sectors are there or not, each by chance; a write may also break off at any byte."""
    chance = random.Random(seed)
    sector = chance.choice(SECTORS)
    likely = chance.choice((0.1, 0.5, 0.9))

    def choose(step: Step) -> Fate:
        if step.data is None or chance.random() < 0.3:
            return chance.random() < likely
        if chance.random() < 0.3:
            return [(0, chance.randint(0, len(step.data)))]
        edges = [0, *range(sector - step.offset % sector, len(step.data), sector), len(step.data)]
        return [(start, end) for start, end in pairwise(edges) if start < end and chance.random() < likely]

    return choose


def _put(content: bytearray, data: bytes, offset: int) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))
