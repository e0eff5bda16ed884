"""A daemon in a process of its own, for the demo, the benchmarks and tests: started, waited for, stopped.

Responsible for ports and for ending the process whatever happens. Shortcut: a free port is found by asking the system
for one and letting go of it; another program could take it in between, and then the daemon says so and start fails.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

from openset.client.connection import Connection, Unreachable
from openset.errors import ConfigError

_START_SECONDS = 60.0
_STOP_SECONDS = 60.0


class Daemon:
    """`openset serve` on a data directory. A context manager: started on entry, stopped with SIGTERM on exit.

    `url` is where it answers, `data_dir` what it serves, `log_path` where its log lines go.
    """

    def __init__(self, data_dir: Path, *, partitions: int | None, port: int | None = None):
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.log"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.exit_code: int | None = None
        self._partitions = partitions
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def process_id(self) -> int:
        assert self._process is not None, "the daemon has not been started"
        return self._process.pid

    def start(self) -> None:
        """Starts the daemon and returns when it answers. Raises ConfigError, with its log, when it does not."""
        command = [sys.executable, "-m", "openset.cli", "serve", "--data", str(self.data_dir)]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        if self._partitions is not None:
            command += ["--init", str(self._partitions)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENSET_")}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Asks the daemon to finish and waits for it; `exit_code` is then set. Kills one that does not end."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.exit_code = process.returncode
        self._process = None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        waited = 0.0
        with Connection(self.url, timeout_seconds=10.0) as connection:
            while True:
                try:
                    connection.wait_until_ready(0.2)
                    return
                except Unreachable:
                    waited += 0.2
                    if self._process.poll() is not None or waited > _START_SECONDS:
                        log = self.log_path.read_text(errors="replace")[-4_000:]
                        raise ConfigError("the daemon did not start; its log says:\n" + log) from None


class TemporaryDaemon(Daemon):
    """A daemon on a temporary directory, made in `parent` or where the system puts such, that goes away with it."""

    def __init__(self, *, partitions: int, parent: Path | None = None):
        self._directory = tempfile.TemporaryDirectory(prefix="openset-", dir=parent)
        super().__init__(Path(self._directory.name) / "data", partitions=partitions)

    def stop(self) -> None:
        super().stop()
        self._directory.cleanup()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
