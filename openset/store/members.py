"""Who belongs to stored segments, on the side of the workers: bitmaps are read once and kept, per file and partition.

A reference names a file that never changes, so nothing kept here can be out of date.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.errors import InternalError, QueryError
from openset_format.block import Block
from openset_format.errors import FormatError
from openset_format.membership import MembershipFile

KEPT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """A stored segment as it is sent to workers. file: relative to the data directory."""

    name: str
    file: Path


# What a query compares: stored segments, None for everyone.
Compared = Sequence[SegmentRef | None]


class _Members:
    """The people of one partition who belong to a segment, as a bitmap and, when asked for, as flags."""

    def __init__(self, bitmap: BitMap):
        self.bitmap = bitmap
        self.size_bytes = 64 + (bitmap.max() + 1 if bitmap else 0)

    @cached_property
    def flags(self) -> NDArray[np.bool_]:
        """bool[greatest ordinal + 1]"""
        flags = np.zeros(self.bitmap.max() + 1 if self.bitmap else 0, np.bool_)
        flags[np.frombuffer(self.bitmap.to_array(), np.uint32)] = True
        return flags

    def mask(self, block: Block) -> NDArray[np.bool_]:
        """bool[people of the Block]"""
        flags = self.flags
        if block.ordinals is None:
            mask = flags[block.first_person : block.first_person + block.people]
            return mask if len(mask) == block.people else np.pad(mask, (0, block.people - len(mask)))
        known = block.ordinals < len(flags)
        if known.all():
            return flags[block.ordinals]
        mask = np.zeros(block.people, np.bool_)
        mask[known] = flags[block.ordinals[known]]
        return mask


class MemberCache:
    """The segments a worker has read, the most recently used ones. Not thread-safe: each worker has its own."""

    def __init__(self, data_dir: Path, kept_bytes: int = KEPT_BYTES):
        self._data_dir = data_dir
        self._limit = kept_bytes
        self._bytes = 0
        self._kept: OrderedDict[tuple[Path, int], _Members] = OrderedDict()

    def bitmap(self, segment: SegmentRef, partition: int) -> BitMap:
        """The ordinals of who belonged to it when it was computed. Shared: do not change it. Raises as `masks` does."""
        return self._members(segment, partition).bitmap

    def masks(self, compared: Compared, partition: int, block: Block) -> list[NDArray[np.bool_] | None]:
        """Per segment which people of a Block of this partition belong to it: bool[people], None for everyone.

        That is what `EngineRun.add` takes for each Block. Raises QueryError for a segment that was removed since,
        InternalError for a damaged one.
        """
        return [
            None if segment is None else self._members(segment, partition).mask(block) for segment in compared
        ]  # fmt: skip

    def _members(self, segment: SegmentRef, partition: int) -> _Members:
        key = (segment.file, partition)
        if key not in self._kept:
            members = _Members(self._read(segment, partition))
            self._kept[key] = members
            self._bytes += members.size_bytes
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].size_bytes
        self._kept.move_to_end(key)
        return self._kept[key]

    def _read(self, segment: SegmentRef, partition: int) -> BitMap:
        try:
            return MembershipFile.open(self._data_dir / segment.file).members(partition)
        except FileNotFoundError as error:
            raise QueryError(f"segment {segment.name!r} was removed while the query ran") from error
        except (FormatError, OSError) as error:
            raise InternalError(f"segment {segment.name!r} cannot be read: {error}") from error
