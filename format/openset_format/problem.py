"""What is wrong with a file, as a value: verification finds it, tools and daemons show it."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import DamageError


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a file. offset: bytes from its start; dataset and offset are None where none is meant."""

    file: str
    dataset: str | None
    offset: int | None
    message: str

    def __str__(self) -> str:
        place = self.file
        if self.dataset is not None:
            place += f", dataset {self.dataset}"
        if self.offset is not None:
            place += f", offset {self.offset}"
        return f"{place}: {self.message}"


def problem_of(error: DamageError) -> Problem:
    """A damage as a problem of its file."""
    return Problem(error.file, error.dataset, error.offset, error.reason)
