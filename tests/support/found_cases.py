"""Cases that the fuzzer found, kept as files: a script, its events, and the answer both sides must give.

=== what was wrong ?zone=Europe/Berlin&session_time_ms=0     (the conditions only where they are not the default)
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

from support.comparing import DEFAULT, Conditions
from support.event_maker import Event, Person

DIRECTORY = Path(__file__).parents[1] / "golden" / "found"


@dataclass(frozen=True)
class FoundCase:
    """One case. expected is empty while nobody has decided."""

    title: str
    script: str
    events: Sequence[Event]
    expected: str
    conditions: Conditions = DEFAULT

    def text(self) -> str:
        """The case as it stands in a file."""
        options = f" ?zone={self.conditions.zone}&session_time_ms={self.conditions.session_time_ms}"
        title = f"=== {self.title}{'' if self.conditions == DEFAULT else options}"
        lines = [json.dumps(event, ensure_ascii=False) for event in self.events]
        parts = [title, self.script.strip("\n"), "--- events", *lines, "--- expected", self.expected, ""]
        return "\n".join(parts)


def read_found(path: Path) -> FoundCase:
    """The case of a file."""
    head, _, rest = path.read_text().partition("\n--- events\n")
    events, _, expected = rest.partition("\n--- expected\n")
    title, _, script = head.partition("\n")
    title, _, options = title.removeprefix("=== ").partition(" ?")
    conditions = DEFAULT
    if options:
        zone, session_time_ms = (option.partition("=")[2] for option in options.split("&"))
        conditions = Conditions(zone, int(session_time_ms))
    parsed_events = [json.loads(line) for line in events.splitlines()]
    return FoundCase(title, script + "\n", parsed_events, expected.strip("\n"), conditions)


def people_of(events: Sequence[Event]) -> list[Person]:
    """The people of some events, in the order they first appear."""
    return list(dict.fromkeys(event["person"] for event in events))
