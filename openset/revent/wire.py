"""What nodes ask each other about triggers: messages of the partitions that the other owns, leases on them, counts.

Messages are msgpack in arrays. What cannot be what an honest node of this version sends is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from openset.errors import InternodeError
from openset.revent.subscription import MOST_MESSAGES
from openset_format.decoding import msgpack_decoder

_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_Key = tuple[_Number, _Number]

Operation = Literal[
    "take", "wait", "names", "counted", "extend", "release", "unacknowledged", "triggers", "webhook", "dead"
]  # fmt: skip


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """A question to a node about what it owns. trigger_id, trigger, is_segment, name: which subscription.

    most: messages at most. keys: (partition, number) of messages. lease_ms, timeout_ms, until_ms: as in `subscription`.
    """

    operation: Operation
    table_id: _Number
    trigger_id: _Number = 0
    trigger: str = ""
    is_segment: bool = False
    name: str = ""
    most: Annotated[int, msgspec.Meta(ge=0, le=MOST_MESSAGES)] = 0
    lease_ms: _Number = 0
    timeout_ms: _Number = 0
    until_ms: _Number = 0
    keys: list[_Key] = []


class WebhookFacts(msgspec.Struct, frozen=True, array_like=True):
    """Of a webhook, at a node. dead, fallen: letters there are, and that fell out. error: of the last try."""

    dead: int = 0
    fallen: int = 0
    sent: int = 0
    error: str | None = None

    def plus(self, other: WebhookFacts) -> WebhookFacts:
        """Both together."""
        return WebhookFacts(
            self.dead + other.dead, self.fallen + other.fallen, self.sent + other.sent, self.error or other.error
        )


class OwnCounts(msgspec.Struct, frozen=True, array_like=True):
    """Of a trigger, in the partitions that a node owns. The last error is that of the node's runner."""

    people: int = 0
    emissions: int = 0
    errors: int = 0
    emitted_people: int = 0
    schedules: int = 0
    error: str = ""
    error_at_ms: int = 0
    errors_in_a_row: int = 0

    def plus(self, other: OwnCounts) -> OwnCounts:
        """Both together; the later error counts."""
        last = self if self.error_at_ms >= other.error_at_ms else other
        return OwnCounts(
            self.people + other.people,
            self.emissions + other.emissions,
            self.errors + other.errors,
            self.emitted_people + other.emitted_people,
            self.schedules + other.schedules,
            last.error,
            last.error_at_ms,
            max(self.errors_in_a_row, other.errors_in_a_row),
        )


class OwnFacts(msgspec.Struct, frozen=True, array_like=True):
    """What a node knows of a table's triggers. counts: by trigger. backlog: inserts that wait, and since when (ms)."""

    counts: dict[int, OwnCounts] = {}
    backlog_records: int = 0
    backlog_age_ms: int = 0

    def plus(self, other: OwnFacts) -> OwnFacts:
        """Both together."""
        counts = dict(self.counts)
        for trigger_id, found in other.counts.items():
            counts[trigger_id] = counts[trigger_id].plus(found) if trigger_id in counts else found
        return OwnFacts(
            counts,
            self.backlog_records + other.backlog_records,
            max(self.backlog_age_ms, other.backlog_age_ms),
        )


def encoded(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def decoded(data: bytes, kind: Any) -> Any:
    """Raises InternodeError for what is none."""
    try:
        return msgpack_decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise InternodeError(f"what another node says of triggers cannot be read: {error}") from error
