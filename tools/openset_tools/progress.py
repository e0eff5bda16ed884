"""Progress of long work: a bar on a terminal, otherwise a plain line every few seconds. Standard error only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PLAIN_LINE_SECONDS = 5.0

Advance = Callable[..., None]


@contextmanager
def shown_progress(what: str, unit: str) -> Iterator[Advance]:
    """Yields what to call with how much is done and how much there is (0: not known), and perhaps another label."""
    if not sys.stderr.isatty():
        yield _PlainLines(what, unit).show
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} " + unit))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total, label=what: bars.update(task, completed=done, total=total or None, description=label)


class _PlainLines:
    """A line now and then, for logs and pipes."""

    def __init__(self, what: str, unit: str) -> None:
        self._what, self._unit = what, unit
        self._last = time.monotonic()

    def show(self, done: int, total: int, label: str | None = None) -> None:
        now = time.monotonic()
        if now - self._last >= _PLAIN_LINE_SECONDS:
            self._last = now
            of = f" of {total:,}" if total else ""
            print(f"{label or self._what}: {done:,}{of} {self._unit}", file=sys.stderr, flush=True)
