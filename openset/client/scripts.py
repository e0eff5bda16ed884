"""The script that an argument of a command means."""

from __future__ import annotations

import sys
from pathlib import Path

import click


def script_text(script: str) -> str:
    """The script that a command line argument means. Raises a usage error for what looks like a missing file."""
    if script == "-":
        return sys.stdin.read()
    try:
        is_file = Path(script).is_file()
    except (OSError, ValueError):
        is_file = False  # longer than a file name can be, or with a character none can have
    if is_file:
        try:
            return Path(script).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"cannot read {script}: {error}") from None
    if script.endswith(".pyql") and "\n" not in script:
        raise click.UsageError(f"there is no file {script}")
    return script
