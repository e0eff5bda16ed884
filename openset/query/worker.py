"""The worker process: receives work over a pipe, answers with the result or the error, one at a time.

It ends when the daemon's end of the pipe is closed, also in the middle of work: a thread reads the pipe while the main
thread works. SIGINT and SIGTERM are ignored, because the daemon decides when its workers end.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from openset.errors import OpenSetError
from openset.query.memory import give_back, keep_freed
from openset.query.work import Work, WorkerState, budget_error


@dataclass(frozen=True, slots=True)
class Reply:
    """What crosses the pipe back: a result, an operating error, or the traceback of a defect."""

    result: Any = None
    error: OpenSetError | None = None
    defect: str | None = None


def perform(work: Work, state: WorkerState) -> Reply:
    """Runs one piece of work; whatever it raises becomes part of the reply."""
    try:
        return Reply(result=work.run(state))
    except (OpenSetError, MemoryError, RecursionError) as error:
        return Reply(error=budget_error(error))
    except Exception:
        return Reply(defect=traceback.format_exc())


def encode(reply: Reply) -> bytes:
    """The reply as bytes; one that cannot be pickled becomes a defect."""
    try:
        return pickle.dumps(reply, protocol=pickle.HIGHEST_PROTOCOL)
    except Exception:
        return pickle.dumps(Reply(defect=traceback.format_exc()), protocol=pickle.HIGHEST_PROTOCOL)


def _receive(connection: Connection, received: queue.SimpleQueue[bytes]) -> None:
    """Reads the pipe until the daemon is gone, and then ends the process whatever it is doing."""
    try:
        while True:
            received.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)


def main(descriptor: int, data_dir: Path) -> None:
    """Serves the pipe of this descriptor until it is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    keep_freed()
    connection = Connection(descriptor)
    received: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, received), daemon=True).start()
    state = WorkerState(data_dir)
    while True:
        message = received.get()
        try:
            work: Work | None = pickle.loads(message)
        except Exception:
            reply: Reply | None = Reply(defect=traceback.format_exc())
        else:
            assert work is not None
            reply = perform(work, state)
        try:
            assert reply is not None
            connection.send_bytes(encode(reply))
        except OSError:
            os._exit(0)
        message, work, reply = b"", None, None
        give_back()


def start() -> None:
    """The entry point of the process: its arguments are the pipe's descriptor and the data directory."""
    main(int(sys.argv[1]), Path(sys.argv[2]))
