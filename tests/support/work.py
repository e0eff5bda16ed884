"""Pieces of work for executor tests. Worker processes import this module."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openset.errors import ParseError, RunTimeError
from openset.pyql.settings import RunSettings
from openset.query.fan_out import Portion
from openset.query.work import WorkerState
from openset.store.snapshot import PartitionSnapshot


@dataclass(frozen=True)
class Echo:
    value: Any

    def run(self, state: WorkerState) -> Any:
        return self.value


@dataclass(frozen=True)
class ProcessId:
    def run(self, state: WorkerState) -> int:
        return os.getpid()


@dataclass(frozen=True)
class Sleep:
    """Writes its process id to `started` and sleeps."""

    seconds: float
    started: str = ""

    def run(self, state: WorkerState) -> str:
        if self.started:
            Path(self.started).write_text(str(os.getpid()))
        time.sleep(self.seconds)
        return "slept"


@dataclass(frozen=True)
class Fail:
    def run(self, state: WorkerState) -> None:
        raise ParseError("no", detail="x\n^", line=3, column=5)


@dataclass(frozen=True)
class Defect:
    def run(self, state: WorkerState) -> None:
        raise KeyError("secret")


@dataclass(frozen=True)
class Die:
    """Ends the worker with a signal."""

    signal: int

    def run(self, state: WorkerState) -> None:
        os.kill(os.getpid(), self.signal)
        time.sleep(30)


@dataclass(frozen=True)
class Unsendable:
    def run(self, state: WorkerState) -> Any:
        return lambda: None


@dataclass(frozen=True)
class Partitions:
    """Gives the numbers of its partitions; in one of them it may fail, or end the worker with a signal."""

    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    fails_in: int = -1
    dies_in: int = -1

    def run(self, state: WorkerState) -> Portion[list[int]]:
        numbers = [snapshot.partition for snapshot in self.snapshots]
        if self.fails_in in numbers:
            raise RunTimeError(f"not in partition {self.fails_in}")
        if self.dies_in in numbers:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(30)
        return Portion(numbers, len(numbers))
