"""What a run of a script is given besides the script and the data: the clock, parameters, budgets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, tzinfo

from openset.errors import BudgetError

ParameterValue = int | float | str | bool

SESSION_TIME_MS = 1_800_000
RECURSION_LIMIT = 64
TEXT_LIMIT_BYTES = 65_536
LOG_LIMIT_LINES = 1_000
# How far ahead a trigger may schedule: 100 years.
MOST_SPAN_MS = 100 * 366 * 86_400_000


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one run.

    now_ms: the fixed `now` of the query.  parameters: values of `{{name}}`.
    deadline: seconds by `clock` after which the run ends with an error, or None.
    timeout_ms: what the deadline was made from, for the message.
    max_expanded_rows: lanes and rows visited by matches in all, per partition.
    zone: of the date functions, and of dates without an offset in iter_between.
    max_memory_bytes: what the run may hold in temporaries, texts and containers, per partition.
    """

    now_ms: int
    session_time_ms: int = SESSION_TIME_MS
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    deadline: float | None = None
    timeout_ms: int = 30_000
    max_expanded_rows: int = 1_000_000_000
    max_memory_bytes: int = 1_000_000_000
    zone: tzinfo = UTC
    clock: Callable[[], float] = time.monotonic

    def check_deadline(self) -> None:
        """Raises BudgetError when the time budget is used up."""
        if self.deadline is not None and self.clock() > self.deadline:
            raise BudgetError(f"the query ran longer than its time budget of {self.timeout_ms} ms (timeout=)")
