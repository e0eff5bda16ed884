"""Events whose order of arrival does not matter."""

from __future__ import annotations

from collections.abc import Sequence

from support.event_maker import Event, Person


def ordered_by_themselves(events: Sequence[Event]) -> list[Event]:
    """The events without those whose place or content depends on when they arrived: at most one per person and stamp,
    but for views and carts, whose order the z-order says."""
    kept: dict[tuple[str, Person, int, str], Event] = {}
    for event in events:
        place = event["action"] if event["action"] in ("view", "cart") else "other"
        kept.setdefault((type(event["person"]).__name__, event["person"], event["stamp"], place), event)
    return list(kept.values())
