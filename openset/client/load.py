"""Loading event files into a table: batches over HTTP, each acknowledged before the next is sent.

Responsible for batching, creating the table, progress and the final count. Shortcut: batches go one after another,
because the last of two events with one identity has to win; only reading ahead overlaps with sending.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from openset.client.connection import Connection, Refused, segment
from openset.client.event_files import STANDARD_INPUT, open_source, read_events, shown_name
from openset.client.inference import TypeInference
from openset.errors import InsertError

DEFAULT_BATCH_EVENTS = 5_000
_MAX_BATCH_BYTES = 8 << 20
_SHOWN_REASONS = 20


@dataclass(slots=True)
class LoadReport:
    """What came of a load: events sent, accepted, rejected.

    `reasons` are (file, number of the event in it from 1, reason) of the first 20 rejected events.
    """

    sent: int = 0
    accepted: int = 0
    rejected: int = 0
    reasons: list[tuple[str, int, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def events_per_second(self) -> float:
        return self.accepted / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a load is: read bytes of the current file (compressed size), its size if known, events acknowledged."""

    file: str
    read_bytes: int
    size_bytes: int | None
    accepted: int
    seconds: float


@dataclass(frozen=True, slots=True)
class _Batch:
    """JSON texts of consecutive events of one file; `first` is the index of the first in its file."""

    file: str
    first: int
    events: list[bytes]
    read_bytes: int
    size_bytes: int | None


def load_files(
    connection: Connection,
    table: str,
    files: Sequence[str],
    *,
    batch_events: int = DEFAULT_BATCH_EVENTS,
    skip_bad_events: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> LoadReport:
    """Sends every event of the files, in order, and returns what the daemon said.

    Raises InsertError for a file that is not JSON and for events the daemon refuses (unless `skip_bad_events`), with
    the file and the event's number in it; what was acknowledged before stays, and loading again replaces it.
    """
    report = LoadReport()
    started = time.monotonic()
    parameters = {"on_error": "skip"} if skip_bad_events else {}

    def send(batch: _Batch) -> Any:
        return connection.request(
            "POST",
            f"/v1/insert/{segment(table)}",
            parameters=parameters,
            body=b"\n".join(batch.events),  # lines, so that one which is not JSON is a bad event like others
            content_type="application/x-ndjson",
        )

    def finish(batch: _Batch, answer: Future[Any]) -> None:
        try:
            _add_answer(report, batch, answer.result())
        except Refused as refusal:
            raise _with_place(refusal, batch, report.accepted) from None
        if on_progress:
            elapsed = time.monotonic() - started
            on_progress(Progress(batch.file, batch.read_bytes, batch.size_bytes, report.accepted, elapsed))

    with ThreadPoolExecutor(max_workers=1) as sender:
        under_way: tuple[_Batch, Future[Any]] | None = None
        for batch in _batches(files, batch_events):
            if under_way:
                finish(*under_way)
            under_way = (batch, sender.submit(send, batch))
        if under_way:
            finish(*under_way)
    report.seconds = time.monotonic() - started
    return report


def infer_columns(files: Sequence[str], skip_bad_events: bool = False) -> TypeInference:
    """Reads all files once and returns the columns their events need. skip_bad_events: lines that are not JSON too."""
    inference = TypeInference(skip_bad_events)
    for name in files:
        with open_source(name) as source:
            inference.add_all(read_events(source, name), name)
    return inference


def create_table(connection: Connection, table: str, columns: list[dict[str, str]], z_order: Sequence[str]) -> bool:
    """Creates the table; False when it is there already (it is left as it is)."""
    try:
        connection.get(f"/v1/table/{segment(table)}")
        return False
    except Refused as missing:
        if missing.error_class == "internal":
            raise
    body = {"columns": columns, "z-order": list(z_order)}
    connection.request("POST", f"/v1/table/{segment(table)}", body=msgspec.json.encode(body))
    return True


class Spool:
    """Files that can be read twice: standard input is copied to a temporary file. A context manager."""

    def __init__(self, files: Sequence[str]):
        self._files = files
        self._stack = ExitStack()

    def __enter__(self) -> list[str]:
        return [self._copy() if name == STANDARD_INPUT else name for name in self._files]

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _copy(self) -> str:
        directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="openset-load-"))
        copy = Path(directory) / "standard-input"
        with open_source(STANDARD_INPUT) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        return str(copy)


def _batches(files: Sequence[str], batch_events: int) -> Iterator[_Batch]:
    for name in files:
        size_bytes = None if name == STANDARD_INPUT else _size(name)
        with open_source(name) as source:
            first, pending, pending_bytes = 0, list[bytes](), 0
            for event in read_events(source, name):
                pending.append(event)
                pending_bytes += len(event)
                if len(pending) >= batch_events or pending_bytes >= _MAX_BATCH_BYTES:
                    yield _Batch(name, first, pending, source.size_bytes, size_bytes)
                    first, pending, pending_bytes = first + len(pending), [], 0
            if pending:
                yield _Batch(name, first, pending, source.size_bytes, size_bytes)


def _size(name: str) -> int | None:
    try:
        return Path(name).stat().st_size
    except OSError:
        return None


def _add_answer(report: LoadReport, batch: _Batch, answer: dict[str, Any]) -> None:
    report.sent += len(batch.events)
    report.accepted += int(answer.get("accepted", 0))
    report.rejected += int(answer.get("rejected", 0))
    for reason in answer.get("errors", [])[: _SHOWN_REASONS - len(report.reasons)]:
        report.reasons.append((shown_name(batch.file), batch.first + int(reason["index"]) + 1, str(reason["reason"])))


def _with_place(refusal: Refused, batch: _Batch, accepted: int) -> InsertError | Refused:
    """An insert refusal that says where in the file the events stand; other refusals as they are."""
    if refusal.error_class != "insert":
        return refusal
    reasons = refusal.detail if isinstance(refusal.detail, list) else []
    lines = [
        f"{shown_name(batch.file)}, event {batch.first + int(reason['index']) + 1}: {reason['reason']}"
        for reason in reasons
        if isinstance(reason, dict) and "index" in reason and "reason" in reason
    ]
    lines.append(
        f"{accepted:,} events before this batch are stored; loading again replaces them. "
        "--skip-bad-events loads the good ones."
    )
    return InsertError(refusal.message, detail="\n".join(lines))
