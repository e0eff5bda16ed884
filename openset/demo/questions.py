"""The questions of the demonstration: PyQL files beside this one, the tables they are for, their parameters.

Responsible for their order and options. The first line of a script, a comment, is the question in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "questions"


@dataclass(frozen=True, slots=True)
class Question:
    """A script for a table (the directory it is in) and the parameters of its request."""

    table: str
    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return (_DIRECTORY / self.table / f"{self.name}.pyql").read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].removeprefix("#").strip()

    @property
    def script(self) -> str:
        """The text without its title."""
        return self.text.partition("\n")[2]


QUESTIONS = (
    Question("highstreet", "by_weekday"),
    Question("highstreet", "next_cart"),
    Question("highstreet", "dear_carts", {"dbl_least": "60", "sort": "dearest"}),
    Question("commits", "by_year", {"sort": "key", "order": "asc"}),
    Question("commits", "directories", {"sort": "commits", "trim": "4"}),
    Question("commits", "coming_back", {"sort": "key", "order": "asc"}),
    Question("commits", "funnel"),
    Question("commits", "next_place", {"sort": "commits", "trim": "3"}),
    Question("commits", "sessions", {"sort": "key", "order": "asc"}),
    Question("commits", "how_active", {"sort": "key", "order": "asc"}),
    Question("commits", "one_file", {"str_file": "tornado/web.py"}),
)
