"""The pass of a batch: works side by side on workers, where failures stay with the work they belong to."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.work import Partitions

from openset.errors import OpenSetError
from openset.pyql.settings import RunSettings
from openset.query.passes import one_pass
from openset.query.process_executor import ProcessExecutor
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot, RecordList

TESTS = Path(__file__).parents[2]
EVERY = list(range(5))


@pytest.fixture(autouse=True)
def importable_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


def snapshots() -> list[PartitionSnapshot]:
    nothing = RecordList((), np.zeros((0, 4), np.int64))
    return [PartitionSnapshot(TableSchema(1, "t", ()), number, 0, "j", 0, nothing) for number in EVERY]


def passed(directory: Path, *works: Partitions) -> list[Any]:
    """Per work the partitions it has answered for, or its error's message."""

    async def run() -> list[Any]:
        executor = ProcessExecutor(directory, 2)
        try:
            results = await one_pass(executor, works, snapshots())
        finally:
            await executor.close()
        return [
            each.message if isinstance(each, OpenSetError) else sorted(number for part in each for number in part)
            for each in results
        ]

    return asyncio.run(run())


def work(**options: int) -> Partitions:
    return Partitions((), RunSettings(now_ms=0, deadline=time.monotonic() + 60, timeout_ms=60_000), **options)


def test_every_work_sees_every_partition_once(tmp_path: Path) -> None:
    assert passed(tmp_path, work(), work(), work()) == [EVERY] * 3
    assert passed(tmp_path) == []


def test_a_failure_stays_with_its_work(tmp_path: Path) -> None:
    assert passed(tmp_path, work(), work(fails_in=3), work()) == [EVERY, "not in partition 3", EVERY]


def test_a_worker_that_dies_of_one_work_leaves_the_others_their_answers(tmp_path: Path) -> None:
    first, dead, last = passed(tmp_path, work(), work(dies_in=2), work())
    assert (first, last) == (EVERY, EVERY)
    assert "SIGKILL" in dead
