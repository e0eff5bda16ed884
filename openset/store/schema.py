"""What a table is made of, in a form that is small, immutable and can be sent to another process.

Names are checked here. Which names a column may not have depends on the query language, which this layer does not
know: callers hand in the reserved ones.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import get_args

from openset.errors import ConfigError
from openset_format.block import ColumnType

NAME_LIMIT = 64
COLUMN_LIMIT = 4_096
Z_ORDER_LIMIT = 1_024
RETENTION_LIMIT_DAYS = 1_000_000
DAY_MS = 86_400_000

_TABLE_NAME = re.compile(r"[a-z0-9_]+")
_COLUMN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_TYPES: tuple[ColumnType, ...] = get_args(ColumnType)


@dataclass(frozen=True, slots=True)
class ColumnSchema:
    """A column: `id` is never used again within its table, also not after the column was dropped."""

    id: int
    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table. `version` grows with every change of it.

    z_order: actions in the order in which events of one person and one stamp are sorted; others come after.
    retention_days: events that are older expire; None when they are kept forever.
    """

    id: int
    name: str
    columns: tuple[ColumnSchema, ...]
    z_order: tuple[str, ...] = ()
    version: int = 1
    retention_days: float | None = None

    @property
    def column_types(self) -> dict[str, ColumnType]:
        """The type of each column by name, in the order they were added."""
        return {column.name: column.type for column in self.columns}

    def expired_before(self, now_ms: int) -> int:
        """The first stamp (ms) that has not expired; 0 when none ever do."""
        if self.retention_days is None:
            return 0
        return max(now_ms - round(self.retention_days * DAY_MS), 0)

    def column(self, name: str) -> ColumnSchema | None:
        """The column of this name, or None."""
        return next((column for column in self.columns if column.name == name), None)


def check_table_name(name: str) -> None:
    """Raises ConfigError for a name no table may have."""
    if not _TABLE_NAME.fullmatch(name):
        raise ConfigError(f"{name!a} is not a table name: use lowercase letters a-z, digits and _")
    if len(name) > NAME_LIMIT:
        raise ConfigError(f"a table name has at most {NAME_LIMIT} characters")


def check_column(name: str, column_type: str, reserved: Collection[str]) -> ColumnType:
    """The type, checked. Raises ConfigError for a name or a type no column may have."""
    if not _COLUMN_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!a} is not a column name: use lowercase letters a-z, digits and _, not starting with a digit"
        )
    if len(name) > NAME_LIMIT:
        raise ConfigError(f"a column name has at most {NAME_LIMIT} characters")
    if name == "_" or name in reserved:
        raise ConfigError(f"{name!r} is reserved and cannot be the name of a column")
    found = next((known for known in _TYPES if known == column_type), None)
    if found is None:
        raise ConfigError(f"{column_type!a} is not a column type: use text, int, double or bool")
    return found


def check_z_order(actions: Sequence[str]) -> None:
    """Raises ConfigError for a z-order with an empty or repeated action."""
    if len(actions) > Z_ORDER_LIMIT:
        raise ConfigError(f"a z-order has at most {Z_ORDER_LIMIT} actions")
    for action in actions:
        if not action or not _is_text(action):
            raise ConfigError(f"{action!a} in the z-order is not the name of an action")
    if len(set(actions)) < len(actions):
        raise ConfigError("the z-order names an action twice")


def check_retention(days: float | None) -> None:
    """Raises ConfigError for a retention no table may have."""
    if days is not None and not 0 < days <= RETENTION_LIMIT_DAYS:
        raise ConfigError(f"retention_days must be above 0 and at most {RETENTION_LIMIT_DAYS:,}, not {days}")


def _is_text(value: str) -> bool:
    """False for a lone surrogate, which no event can carry."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
