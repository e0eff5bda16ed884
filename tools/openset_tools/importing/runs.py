"""Run files: the events of one partition, block by block, as one worker appended them, until they are merged.

Not synced, for they mean nothing after a crash. Each entry is an event batch of one partition as in the journal, with
dictionaries cut down to what the partition uses, so that merging reads every text once.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.store.delta import Piece
from openset.store.ranges import narrowest
from openset_format.batch import EventBatch, decode_batch, encode_batch
from openset_format.block import Column, TextDictionary
from openset_format.files import FILES, FileLayer, WritableFile

_MOST_OPEN = 200


@dataclass(frozen=True, slots=True)
class Run:
    """Where a block's events of one partition are. file: a name in the directory of runs."""

    partition: int
    file: str
    offset: int
    size_bytes: int


class RunWriter:
    """The run files of one worker process, one per partition."""

    def __init__(self, directory: Path, files: FileLayer = FILES):
        self._directory = directory
        self._files = files
        self._sizes: dict[str, int] = {}
        self._open: dict[str, WritableFile] = {}

    def write(self, batch: EventBatch) -> list[Run]:
        """Appends the events of all partitions. Raises OSError."""
        runs = []
        for place in batch.partitions:
            payload = encode_batch(_cut_down(batch.part(place.partition)))
            name = f"p{place.partition:04d}-{os.getpid()}.run"
            offset = self._sizes.get(name, 0)
            self._file(name).write_at([payload], offset)
            self._sizes[name] = offset + len(payload)
            runs.append(Run(place.partition, name, offset, len(payload)))
        return runs

    def close(self) -> None:
        """Nothing more will be written."""
        for file in self._open.values():
            file.close()

    def _file(self, name: str) -> WritableFile:
        if name not in self._open:
            while len(self._open) >= _MOST_OPEN:
                self._open.pop(next(iter(self._open))).close()
            path = self._directory / name
            self._open[name] = self._files.open(path) if name in self._sizes else self._files.create(path)
        return self._open[name]


def read_runs(directory: Path, runs: Sequence[Run]) -> list[Piece]:
    """The events of runs of one partition, in their order. Arrays are views on maps."""
    maps: dict[str, memoryview] = {}
    pieces = []
    for run in runs:
        if run.file not in maps:
            with (directory / run.file).open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            maps[run.file] = memoryview(mapped)
        batch = decode_batch(maps[run.file][run.offset : run.offset + run.size_bytes])
        pieces.append(Piece(batch, batch.partitions[0]))
    return pieces


def _cut_down(part: EventBatch) -> EventBatch:
    columns = {}
    for column_id, column in part.columns.items():
        cut = _used(column)
        if cut is not None:
            columns[column_id] = cut
    action = Column("text", part.action, None, TextDictionary(part.actions))
    cut_action = _used(action)
    assert cut_action is not None and cut_action.dictionary is not None
    actions = cut_action.dictionary.texts()
    return replace(part, columns=columns, action=cut_action.values.astype(np.uint32, copy=False), actions=actions)


def _used(column: Column) -> Column | None:
    """The column with the texts its rows use, in the same order; None when it has no value at all."""
    if column.valid is not None and not column.valid.any():
        return None
    if column.dictionary is None:
        return column
    used = np.zeros(max(len(column.dictionary), 1), np.bool_)
    used[column.values if column.valid is None else column.values[column.valid]] = True
    codes = np.flatnonzero(used)
    if len(codes) == len(column.dictionary):
        return column
    texts = column.dictionary.texts()
    chosen = TextDictionary([texts[code] for code in codes.tolist()])
    translation: NDArray[Any] = (np.cumsum(used) - used).astype(narrowest(len(codes)))
    values = translation[column.values]
    if column.valid is not None:
        values[~column.valid] = 0
    return Column("text", values, column.valid, chosen)
