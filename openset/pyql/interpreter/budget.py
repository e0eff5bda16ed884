"""The budgets of a scalar run: time, visited rows, memory of containers.

Work is counted in steps and the clock is looked at every few thousand of them. Memory is an upper bound that only
grows while a person runs; when it passes the budget it is measured again from what the variables really hold.
"""

from __future__ import annotations

from collections.abc import Callable

from openset.errors import BudgetError, RunTimeError
from openset.pyql.settings import RunSettings

STEPS_BETWEEN_CHECKS = 4_096


class Budget:
    """Counts what a run uses up and raises RunTimeError, naming the budget, when one is exceeded.

    measure_bytes: what the variables of the current person hold, by a look at them.
    """

    def __init__(self, settings: RunSettings, measure_bytes: Callable[[], int]):
        self._settings = settings
        self._measure_bytes = measure_bytes
        self._steps_left = STEPS_BETWEEN_CHECKS
        self._rows_left = settings.max_expanded_rows
        self._held_bytes = 0

    def start_person(self) -> None:
        """Containers of the person before are gone."""
        self._held_bytes = 0

    def step(self, steps: int = 1) -> None:
        """Counts work."""
        self._steps_left -= steps
        if self._steps_left <= 0:
            self._steps_left = STEPS_BETWEEN_CHECKS
            self._settings.check_deadline()

    def visit_row(self) -> None:
        """Counts a row that a match looks at."""
        self._rows_left -= 1
        if self._rows_left < 0:
            raise BudgetError(
                f"the matches of the script visit more rows than the budget of {self._settings.max_expanded_rows} rows"
            )
        self.step()

    def hold(self, size_bytes: int) -> None:
        """Counts memory that a container or an element takes."""
        self._held_bytes += size_bytes
        self.step(1 + size_bytes // 1_000)
        if self._held_bytes > self._settings.max_memory_bytes:
            self._held_bytes = self._measure_bytes() + size_bytes
            self.step(1 + self._held_bytes // 1_000)
            if self._held_bytes > self._settings.max_memory_bytes:
                self.refuse_memory()

    def check_nodes(self, nodes: int, node_bytes: int) -> None:
        """Refuses a result tree that is larger than the memory budget."""
        if nodes * node_bytes > self._settings.max_memory_bytes:
            self.refuse_memory()

    def refuse_memory(self) -> None:
        raise RunTimeError(
            f"the script holds more than its memory budget of {self._settings.max_memory_bytes} bytes in containers "
            "or results"
        )
