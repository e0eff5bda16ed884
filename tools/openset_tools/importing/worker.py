"""What the worker processes of an import do: read blocks into runs, and merge the runs of a partition.

A worker ends when the process that started it does, whatever that died of. Shortcut: a partition is merged in memory,
as a compaction does it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import wait
from pathlib import Path

from openset.errors import InternalError
from openset.store.compaction import CompactionResult, CompactionTask, compact
from openset.store.schema import TableSchema
from openset_tools.importing.inference import Types, block_types
from openset_tools.importing.reading import Mapping, Place, read_block
from openset_tools.importing.runs import Run, RunWriter, read_runs
from openset_tools.importing.sources import Block, loaded

PLACES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class BlockResult:
    """What became of a block. runs: in the order of its events. bad: the first of the rejected events."""

    runs: list[Run]
    accepted: int
    rejected: int
    bad: list[Place]


@dataclass(frozen=True, slots=True)
class Reading:
    """What all blocks are read for. directory: of the run files."""

    directory: Path
    schema: TableSchema
    partitions: int
    mapping: Mapping


_writers: dict[Path, RunWriter] = {}


def start_worker() -> None:
    """The first thing in a worker process."""
    # Ctrl-C goes to all processes; the one in front decides what becomes of the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def infer_block(block: Block, mapping: Mapping) -> Types:
    """The column types of a block. Raises InsertError, ConfigError."""
    return block_types(loaded(block), mapping)


def take_block(block: Block, reading: Reading) -> BlockResult:
    """Reads a block and appends its events to run files. Raises InsertError, ConfigError, InternalError."""
    if reading.directory not in _writers:
        _writers[reading.directory] = RunWriter(reading.directory)
    writer = _writers[reading.directory]
    runs: list[Run] = []
    bad: list[Place] = []
    accepted = rejected = 0
    for found in read_block(loaded(block), reading.schema, reading.partitions, reading.mapping):
        accepted += found.accepted
        rejected += len(found.bad)
        bad += found.bad[: PLACES_SHOWN - len(bad)]
        if found.batch is not None:
            try:
                runs += writer.write(found.batch)
            except OSError as error:
                raise InternalError(f"{reading.directory} cannot be written: {error.strerror}") from error
    return BlockResult(runs, accepted, rejected, bad)


def merge_partition(task: CompactionTask, directory: Path, runs: Sequence[Run], now_ms: int) -> CompactionResult:
    """Writes the next generation of a partition, with its runs on top. Raises InternalError."""
    if directory in _writers:
        _writers.pop(directory).close()
    return compact(task, further=read_runs(directory, runs), now_ms=now_ms)
