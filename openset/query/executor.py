"""Where queries run: the interface, and the two executors without processes.

Every executor has a fixed number of workers, each with a WorkerState of its own that does one piece of work at a time;
the same partition always goes to the same worker, so that maps and merged deltas are kept once. The daemon uses
`ProcessExecutor`; these two are for tests and notebooks. They cannot stop work that runs: a cancelled query merely
stops waiting for it, which is why budgets are checked by the engine too.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openset.query.work import Work, WorkerState


class Executor(ABC):
    """Runs work on numbered workers (0 … workers-1)."""

    workers: int

    def worker_of(self, partition: int) -> int:
        """The worker that serves a partition, always the same one."""
        return partition % self.workers

    @abstractmethod
    async def run(self, worker: int, work: Work) -> Any:
        """The result of the work. Raises the OpenSetError it raised; RunTimeError when the worker died of it.

        Cancelling the call ends the work where the executor can.
        """

    @abstractmethod
    async def close(self) -> None:
        """Ends the workers. Work that still runs is given up."""


class SerialExecutor(Executor):
    """Runs everything at once, in the caller's thread."""

    def __init__(self, data_dir: Path):
        self.workers = 1
        self._state = WorkerState(data_dir)

    async def run(self, worker: int, work: Work) -> Any:
        return work.run(self._state)

    async def close(self) -> None:
        pass


class ThreadExecutor(Executor):
    """One thread per worker, in this process."""

    def __init__(self, data_dir: Path, workers: int):
        assert workers >= 1
        self.workers = workers
        self._states = [WorkerState(data_dir) for _ in range(workers)]
        self._threads = [ThreadPoolExecutor(1, thread_name_prefix=f"query-{number}") for number in range(workers)]

    async def run(self, worker: int, work: Work) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads[worker], work.run, self._states[worker])

    async def close(self) -> None:
        for thread in self._threads:
            thread.shutdown(wait=False, cancel_futures=True)
