"""Cases that the fuzzer found, kept as files: a script, its events, and the answer both sides must give.

=== what was wrong
the script
--- events
one event per line, as JSON
--- expected
the answer as `comparing.show` prints it, or RunTimeError
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.event_maker import Event, Person

DIRECTORY = Path(__file__).parents[1] / "golden" / "found"


@dataclass(frozen=True)
class FoundCase:
    """One case. expected is empty while nobody has decided."""

    title: str
    script: str
    events: Sequence[Event]
    expected: str

    def text(self) -> str:
        """The case as it stands in a file."""
        lines = [json.dumps(event, ensure_ascii=False) for event in self.events]
        return "\n".join([f"=== {self.title}", self.script.strip("\n"), "--- events", *lines, "--- expected",
                          self.expected, ""])  # fmt: skip


def read_found(path: Path) -> FoundCase:
    """The case of a file."""
    head, _, rest = path.read_text().partition("\n--- events\n")
    events, _, expected = rest.partition("\n--- expected\n")
    title, _, script = head.partition("\n")
    return FoundCase(
        title.removeprefix("=== "),
        script + "\n",
        [json.loads(line) for line in events.splitlines()],
        expected.strip("\n"),
    )


def people_of(events: Sequence[Event]) -> list[Person]:
    """The people of some events, in the order they first appear."""
    return list(dict.fromkeys(event["person"] for event in events))
