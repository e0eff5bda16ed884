"""The time zone of a query, by its IANA name."""

from __future__ import annotations

from datetime import UTC, tzinfo
from functools import lru_cache
from importlib.resources import files
from zoneinfo import ZoneInfo

from openset.errors import QueryError
from openset.suggestion import suggestion

UTC_NAME = "UTC"


def zone_of(name: str) -> tzinfo:
    """The zone of a name like "Europe/Berlin". Raises QueryError for a name that no zone has."""
    if name == UTC_NAME:
        return UTC
    if name not in _known_names():
        # Names differ from what is known in their capitals more often than in anything else.
        capitals = next((known for known in _known_names() if known.lower() == name.lower()), None)
        hint = f"; did you mean {capitals!r}?" if capitals else suggestion(name, _known_names())
        raise QueryError(f"tz={name} is not the name of a time zone{hint or ', such as Europe/Berlin'}")
    return ZoneInfo(name)


@lru_cache(maxsize=1)
def _known_names() -> frozenset[str]:
    """The list that comes with the package; looking through the system's files takes a fifth of a second."""
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="ascii").split())
