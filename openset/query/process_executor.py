"""The daemon's executor: worker processes, each served by one thread of the daemon over a duplex pipe.

A worker has at most one piece of work in its pipe, the rest waits in the daemon; so when a query is cancelled or over
its deadline only the process that runs it is killed, and what waited goes to its replacement. Pickling, unpickling and
waiting happen in the worker's thread, the event loop only awaits futures.
"""

from __future__ import annotations

import asyncio
import pickle
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from openset.errors import InternalError, OpenSetError, RunTimeError
from openset.log import get_logger
from openset.query.executor import Executor
from openset.query.work import Work
from openset.query.worker import Reply
from openset.query.worker_process import Started, WorkerProcess, start_program

log = get_logger("openset.query")

CLOSE_TIMEOUT_SECONDS = 5.0


class _Job:
    """One piece of work and the future that waits for it."""

    def __init__(self, work: Work):
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.abandoned = False

    def resolve(self, reply: Reply) -> None:
        """Wakes the waiting coroutine. Called from the worker's thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, reply)
        except RuntimeError:
            assert self.loop.is_closed()  # nobody waits any more

    def _settle(self, reply: Reply) -> None:
        if self.future.done():
            return
        if reply.error is not None:
            self.future.set_exception(reply.error)
        elif reply.defect is not None:
            log.error("defect in a query worker", traceback=reply.defect)
            self.future.set_exception(InternalError("the query failed for a reason that is a defect of OpenSet"))
        else:
            self.future.set_result(reply.result)


class _WorkerDied(Exception):
    """The process ended while it had the work."""


class _Worker:
    """A worker process and the thread that talks to it. The thread alone starts, replaces and reaps the process."""

    def __init__(self, number: int, data_dir: Path, started: Started | None = None):
        """started: its first process, where there is one already."""
        self._number = number
        self._data_dir = data_dir
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._running: _Job | None = None
        self._killed = False
        self._closing = False
        self._process: WorkerProcess | None = None
        self._connection: Connection | None = None
        if started is not None:
            self._process, self._connection = started.process, started.connection
        self._thread = threading.Thread(target=self._serve, name=f"worker-{number}", daemon=True)
        self._thread.start()

    @property
    def process_id(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def submit(self, job: _Job) -> None:
        self._jobs.put(job)

    def abandon(self, job: _Job) -> None:
        """Gives a job up: one that waits is skipped, one that runs ends its process."""
        with self._lock:
            job.abandoned = True
            if self._running is job:
                self._kill()

    def close(self) -> None:
        """Ends the process and the thread. What runs or waits is answered with an error."""
        self._jobs.put(None)
        with self._lock:
            self._closing = True
            if self._running is not None:
                self._kill()
        self._thread.join(CLOSE_TIMEOUT_SECONDS)

    def _kill(self) -> None:
        """Kills the process; the thread notices by the closed pipe or, when it had just answered, by the flag."""
        self._killed = True
        if self._process is not None:
            self._process.kill()

    def _serve(self) -> None:
        try:
            if self._process is None:
                self._start()
        except OSError:
            log.exception("worker not started, the next query tries again", worker=self._number)
        while (job := self._jobs.get()) is not None:
            with self._lock:
                if job.abandoned:
                    continue
                self._running = job
            try:
                reply = Reply(error=closing_error()) if self._closing else self._perform(job.work)
            except Exception as error:  # the thread must outlive whatever goes wrong with one job
                log.exception("a query could not be given to its worker", worker=self._number)
                reply = Reply(error=InternalError(f"the query could not be given to a worker process: {error}"))
            with self._lock:
                self._running = None
            job.resolve(reply)
        self._stop()

    def _perform(self, work: Work) -> Reply:
        message = pickle.dumps(work, protocol=pickle.HIGHEST_PROTOCOL)
        with self._lock:
            lost = self._killed or self._process is None or self._process.poll() is not None
        if lost:
            self._replace()
        try:
            return self._exchange(message)
        except _WorkerDied:
            ended = self._replace()
            return Reply(error=RunTimeError(f"the worker process that ran the query {ended}; it has been replaced"))

    def _exchange(self, message: bytes) -> Reply:
        assert self._connection is not None
        try:
            self._connection.send_bytes(message)
            answer = self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise _WorkerDied from error
        reply = pickle.loads(answer)
        assert isinstance(reply, Reply)
        return reply

    def _start(self) -> None:
        started = start_program(self._data_dir)
        with self._lock:
            self._process, self._connection, self._killed = started.process, started.connection, False

    def _stop(self) -> int | None:
        """Ends the process and tells its exit code, negative for a signal."""
        process, connection = self._process, self._connection
        if process is None or connection is None:
            return None
        connection.close()
        try:
            code: int | None = process.wait(1.0)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        with self._lock:
            self._process, self._connection = None, None
        return code

    def _replace(self) -> str:
        """Starts a new process in place of the one that is gone; tells how that one ended."""
        code = self._stop()
        ended = _description(code)
        log.warning("worker replaced", worker=self._number, reason=ended)
        self._start()
        return ended


def _description(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        try:
            return f"was ended by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"was ended by signal {-exit_code}"
    return f"ended with exit code {exit_code}"


class ProcessExecutor(Executor):
    """Worker processes behind the executor interface."""

    def __init__(self, data_dir: Path, workers: int, started: Sequence[Started] = ()):
        """started: processes for the first workers; the others are started here."""
        assert workers >= 1 and len(started) <= workers
        self.workers = workers
        first = [*started, *[None] * (workers - len(started))]
        self._workers = [_Worker(number, data_dir, process) for number, process in enumerate(first)]
        self._closed = False

    def process_ids(self) -> list[int | None]:
        """The process id of each worker; None while one is being started."""
        return [worker.process_id for worker in self._workers]

    async def run(self, worker: int, work: Work) -> Any:
        if self._closed:
            raise closing_error()
        job = _Job(work)
        self._workers[worker].submit(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._workers[worker].abandon(job)
            raise

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(asyncio.to_thread(worker.close) for worker in self._workers))


def closing_error() -> OpenSetError:
    """What a query gets that comes too late."""
    return RunTimeError("the daemon is shutting down")
