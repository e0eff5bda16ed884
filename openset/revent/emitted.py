"""Emissions of triggers with emit_as_event become events of the person.

The event is known by person, stamp and action, so inserting it again after a crash changes nothing. What of a value
fits no column of the table is left out.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

import msgspec

from openset.store.schema import TableSchema
from openset.store.trigger_changes import Message
from openset_format.block import ColumnType

_FITTING: dict[ColumnType, tuple[type, ...]] = {
    "text": (str,),
    "int": (int,),
    "double": (int, float),
    "bool": (bool,),
}


def events_of(messages: Sequence[Message], schema: TableSchema) -> bytes:
    """The body of an insert request that makes events of messages."""
    types = schema.column_types
    return msgspec.json.encode(
        [
            {
                "person": message.person,
                "action": message.name,
                "stamp": _stamp(message.stamp_ms),
                "attr": _attributes(message.value, types),
            }
            for message in messages
        ]
    )


def _stamp(stamp_ms: int) -> str:
    """As text: small numbers would be taken for seconds."""
    moment = datetime.datetime.fromtimestamp(stamp_ms // 1_000, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{stamp_ms % 1_000:03d}Z"


def _attributes(value: Any, types: dict[str, ColumnType]) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return {name: one for name, one in value.items() if name in types and _fits(one, types[name])}


def _fits(value: Any, column_type: ColumnType) -> bool:
    if value is None:
        return True
    if isinstance(value, list):
        return all(not isinstance(one, list) and _fits(one, column_type) for one in value)
    if isinstance(value, bool) and column_type != "bool":
        return False
    return isinstance(value, _FITTING[column_type])
