"""Damage to files, as a disk does it: another byte in place."""

from __future__ import annotations

from pathlib import Path

from openset_format.reader import PartitionFile


def flip(path: Path, offset: int, bits: int = 1) -> None:
    """Another byte at a place."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ bits]))


def in_the_rows(path: Path) -> int:
    """A place in a partition file where only who reads all of it looks."""
    place = PartitionFile.open(path).manifest.datasets["/events/stamp"]
    return place.offset + place.size_bytes // 2


def flip_a_row(path: Path) -> None:
    """Another byte there."""
    flip(path, in_the_rows(path))
