"""Power failures on a simulated disk: at which moments, with what left, and what changes had promised by then."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from support.simulated_disk import EXTREMES, SimulatedDisk, chooser_of

from openset_format.files import FileLayer, WritableFile

State = TypeVar("State")


class UnsyncedFile(WritableFile):
    """A file whose syncs are left out."""

    def sync(self) -> None:
        return

    def sync_data(self) -> None:
        return


class UnsyncedFiles(FileLayer):
    """The real disk without syncs, for what is looked at once and thrown away."""

    def create(self, path: Path) -> WritableFile:
        return UnsyncedFile(path, super().create(path)._descriptor)

    def open(self, path: Path) -> WritableFile:
        return UnsyncedFile(path, super().open(path)._descriptor)

    def sync_directory(self, path: Path) -> None:
        return


UNSYNCED = UnsyncedFiles()
# Thousands of directories are written and looked at once.
_MEMORY = Path("/dev/shm")


@dataclass(slots=True)
class Promises(Generic[State]):
    """The states that changes led to, one after the other, with the moments when each began and was acknowledged.

    acknowledged is None for a change that failed: its state may be there afterwards, or not, like one under way.
    """

    states: list[State]
    begun: list[int] = field(default_factory=lambda: [0])
    acknowledged: list[int | None] = field(default_factory=lambda: [0])

    def begin(self, disk: SimulatedDisk, state: State) -> None:
        self.states.append(state)
        self.begun.append(disk.position)
        self.acknowledged.append(None)

    def acknowledge(self, disk: SimulatedDisk) -> None:
        self.acknowledged[-1] = disk.position

    def allowed(self, position: int) -> list[State]:
        """The states that may be found after a power failure: the last acknowledged one and those begun since."""
        last = max(at for at, when in enumerate(self.acknowledged) if when is not None and when <= position)
        return [
            state
            for at, (state, begun) in enumerate(zip(self.states, self.begun, strict=True))
            if at == last or (at > last and begun < position)
        ]


def moments(disk: SimulatedDisk, seeds: int = 2, first: int = 0) -> Iterator[tuple[int, str]]:
    """Every step of a log, each with all extremes and some random fates of what was not durable."""
    for position in range(first, disk.position + 1):
        for name in EXTREMES:
            yield position, name
        for seed in range(seeds):
            yield position, f"seed {position * seeds + seed}"


def chosen(all_moments: Sequence[tuple[int, str]], count: int, seed: int) -> list[tuple[int, str]]:
    """So many of them, in order; all where there are not more."""
    if len(all_moments) <= count:
        return list(all_moments)
    return [all_moments[at] for at in sorted(random.Random(seed).sample(range(len(all_moments)), count))]


@contextmanager
def after_failure(disk: SimulatedDisk, position: int, name: str) -> Iterator[Path]:
    """The directory as it is found after a power failure."""
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as place:
        target = Path(place) / "image"
        disk.image(position, chooser_of(name), target)
        yield target
