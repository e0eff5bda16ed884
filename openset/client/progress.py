"""Progress of a load: a bar with events per second on a terminal, a plain line every few seconds elsewhere.

Responsible for standard error only; the summary of a load is the command's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from openset.client.event_files import shown_name
from openset.client.load import Progress

_PLAIN_LINE_SECONDS = 5.0


@contextmanager
def shown_progress() -> Iterator[Callable[[Progress], None]]:
    """Yields what to call after every acknowledged batch."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _PlainLines().show
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[events]:,} events, {task.fields[rate]:,.0f}/s"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _Bar(bars).show


class _Bar:
    """One bar per file, filled by bytes read."""

    def __init__(self, bars: Bars):
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, progress: Progress) -> None:
        task = self._tasks.get(progress.file)
        if task is None:
            task = self._bars.add_task(
                Path(shown_name(progress.file)).name, total=progress.size_bytes, events=0, rate=0.0
            )
            self._tasks[progress.file] = task
        rate = progress.accepted / progress.seconds if progress.seconds else 0.0
        self._bars.update(task, completed=progress.read_bytes, events=progress.accepted, rate=rate)


class _PlainLines:
    """A line now and then, for logs and pipes."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < _PLAIN_LINE_SECONDS:
            return
        self._last = now
        rate = progress.accepted / progress.seconds if progress.seconds else 0.0
        print(f"{progress.accepted:,} events, {rate:,.0f}/s", file=sys.stderr, flush=True)
