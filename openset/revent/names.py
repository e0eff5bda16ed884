"""What triggers and subscriptions may be called: what needs no quoting in an address, a file or a command line."""

from __future__ import annotations

import re

from openset.errors import QueryError

NAME_LIMIT = 64
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)


def check_name(name: str, what: str) -> None:
    """Raises QueryError for what is no name. what: "trigger" or "subscription", for the message."""
    if len(name) > NAME_LIMIT:
        raise QueryError(f"a {what}'s name has at most {NAME_LIMIT} characters")
    if not _NAME.fullmatch(name):
        raise QueryError(f"{name!a} is not a name of a {what}: use letters, digits, _ and, behind the first, . and -")
