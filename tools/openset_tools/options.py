"""What the offline commands share: arguments, how a person is named, how JSON is printed, where output goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from openset.errors import ConfigError

EXIT_DAMAGED = 1

existing_path = click.Path(exists=True, path_type=Path)
existing_directory = click.Path(exists=True, file_okay=False, path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def person_of(text: str, is_integer: bool) -> str | int:
    """The person that --person and --id name. Raises a usage error."""
    if not is_integer:
        return text
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"--id: {text} is not an integer") from None


@contextmanager
def binary_output(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name when it is complete. Raises ConfigError."""
    if path is None:
        try:
            yield sys.stdout.buffer
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # the reader has gone, which the group takes for an end
        except OSError as error:
            raise ConfigError(f"standard output cannot be written: {error.strerror}") from error
        return
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def print_json(value: Mapping[str, Any]) -> None:
    """On lines a person can read."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
