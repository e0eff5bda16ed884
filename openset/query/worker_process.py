"""Starting worker processes: as new programs, or, while the daemon itself starts, as copies of it.

A copy needs no time to load modules, which is most of the time until a fresh daemon answers its first query. Copies are
made before there is any thread or event loop; a worker that has to be replaced later is a new program.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import NoReturn, Protocol

from openset.query import worker

_WAIT_SECONDS = 0.005
# Not with -m: what the worker pickles must belong to the module, not to __main__.
_PROGRAM = "from openset.query.worker import start; start()"


class WorkerProcess(Protocol):
    """What there is of a process, in the way of subprocess.Popen."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        ...

    def kill(self) -> None:
        """SIGKILL."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """A worker process and our end of the pipe to it."""

    process: WorkerProcess
    connection: Connection


def start_program(data_dir: Path) -> Started:
    """A worker as a new program. Raises OSError."""
    ours, theirs = Pipe(duplex=True)
    try:
        # A process group of its own keeps Ctrl-C in the daemon's terminal away from it.
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno()), str(data_dir)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            process_group=0,
        )
    finally:
        theirs.close()
    return Started(_Program(process), ours)


def start_copies(data_dir: Path, count: int) -> list[Started]:
    """Workers as copies of this process, which must not have any other thread yet. Raises OSError."""
    assert threading.active_count() == 1, "locks that other threads hold would stay locked in a copy"
    gc.freeze()  # what is there already stays shared: no collection touches it
    started: list[Started] = []
    for _ in range(count):
        ours, theirs = Pipe(duplex=True)
        process_id = os.fork()
        if not process_id:
            _serve(theirs, [ours, *(one.connection for one in started)], data_dir)
        theirs.close()
        started.append(Started(_Copy(process_id), ours))
    return started


def _serve(theirs: Connection, others: Sequence[Connection], data_dir: Path) -> NoReturn:
    """In a copy. others: the daemon's ends of pipes; a pipe breaks only when nobody holds its other end any more."""
    try:
        os.setpgid(0, 0)
        for connection in others:
            connection.close()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        worker.main(os.dup(theirs.fileno()), data_dir)
    finally:
        os._exit(1)  # whatever happens, a copy must not go on as a second daemon


@dataclass(frozen=True, slots=True)
class _Program:
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def wait(self, timeout: float | None = None) -> int:
        return self.process.wait(timeout)

    def kill(self) -> None:
        self.process.kill()


class _Copy:
    """A child of this process that was not started by subprocess."""

    def __init__(self, process_id: int):
        self._process_id = process_id
        self._code: int | None = None
        # The id may be another process's as soon as this one was reaped.
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        return self._process_id

    def poll(self) -> int | None:
        with self._lock:
            if self._code is None:
                reaped, status = os.waitpid(self._process_id, os.WNOHANG)
                if reaped:
                    self._code = os.waitstatus_to_exitcode(status)
            return self._code

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a worker", timeout or 0.0)
            time.sleep(_WAIT_SECONDS)
        return code

    def kill(self) -> None:
        with self._lock:
            if self._code is None:
                os.kill(self._process_id, signal.SIGKILL)
