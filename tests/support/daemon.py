"""A really started daemon for tests: a process of its own on a free port, talked to over HTTP."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

START_TIMEOUT_SECONDS = 60.0
_SERVE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from openset.http.server import serve
from openset.store.compaction import Policy
from openset.store.scrub import Scrubbing
options = json.loads(sys.argv[1])
policy, scrubbing, control = options.pop("policy"), options.pop("scrubbing", None), options.pop("control", None)
cluster = options.pop("cluster", None)
if cluster:
    from openset.cluster.options import ClusterOptions
    options["cluster"] = ClusterOptions(**cluster)
if control:
    from support.controlled_files import ControlledFiles
    options["files"] = ControlledFiles(Path(control))
sys.exit(serve(**options, policy=policy and Policy(**policy), scrubbing=scrubbing and Scrubbing(**scrubbing)))
"""


@dataclass(frozen=True)
class Response:
    """An answer: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error of the envelope, which must be there and be well formed."""
        assert self.status >= 400, self.body
        assert self.headers["content-type"].startswith("application/json")
        error = self.json["error"]
        assert isinstance(error["class"], str) and isinstance(error["message"], str)
        assert self.json.keys() == {"error"}
        return dict(error)


class Daemon:
    """`data` survives the daemon: a second one may be started over it.

    control: a file that says which steps of the store on the disk fail (`controlled_files`).
    cluster: the fields of ClusterOptions.  runner: a command that runs it.
    """

    def __init__(
        self, data: Path, init: int | None = None, wait: bool = True, runner: tuple[str, ...] = (), **options: Any
    ):
        self.data = data
        self.host = options.get("host", "127.0.0.1")
        data.parent.mkdir(parents=True, exist_ok=True)
        self._log = data.parent / f"{data.name}-{time.monotonic_ns()}.log"
        arguments = {"data": str(data), "port": 0, "init": init, "workers": 2, "policy": None, **options}
        with self._log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*runner, sys.executable, "-c", _SERVE, json.dumps(arguments), str(Path(__file__).parent.parent)],
                stderr=stderr,
                stdout=stderr,
            )
        self.port = self._wait_for("listening")["port"] if wait else 0
        if wait:
            self._wait_for("ready")

    def log(self) -> list[dict[str, Any]]:
        """The log lines so far, those that are not JSON as {"text": ...}."""
        lines = []
        for line in self._log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                lines.append(json.loads(line))
            else:
                lines.append({"event": "", "text": line})
        return lines

    def _wait_for(self, event: str) -> dict[str, Any]:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for line in self.log():
                if line.get("event") == event:
                    return line
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the daemon did not say {event!r}:\n{self._log.read_text(errors='replace')}")

    def request(
        self, method: str, path: str, body: bytes | str | None = None, patience: float = 60, **options: Any
    ) -> Response:
        """One request on a connection of its own. `headers=` are headers, all else are request parameters."""
        headers = options.pop("headers", {})
        address = quote(path, safe="/%")
        if options:
            address += "?" + urlencode(options)
        return self.raw(method, address, body, headers, patience)

    def raw(
        self,
        method: str,
        address: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Response:
        """One request to an address that is sent as it is."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, address, data, headers or {})
            answer = connection.getresponse()
            received = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, received, answer.read())
        finally:
            connection.close()

    def create(self, table: str, columns: dict[str, str], z_order: list[str] | None = None) -> None:
        """Creates a table of these columns."""
        definition = {"columns": [{"name": name, "type": kind} for name, kind in columns.items()]}
        answer = self.request("POST", f"/v1/table/{table}", json.dumps({**definition, "z-order": z_order or []}))
        assert answer.status == 200, answer.body

    def insert(self, table: str, events: list[dict[str, Any]]) -> None:
        """Inserts events, all of which must be accepted."""
        answer = self.request("POST", f"/v1/insert/{table}", json.dumps(events))
        assert answer.status == 200, answer.body
        assert answer.json == {"message": "yummy", "accepted": len(events)}

    def events(self, table: str, script: str, **parameters: Any) -> Any:
        """The answer of an events query that must succeed."""
        answer = self.request("POST", f"/v1/query/{table}/events", script, **parameters)
        assert answer.status == 200, answer.body
        return answer.json

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(60)

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()
