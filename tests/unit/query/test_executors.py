"""Executors: the same work gives the same answer everywhere; worker processes die without taking anyone along."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.work import Defect, Die, Echo, Fail, ProcessId, Sleep, Unsendable

from openset.errors import InternalError, ParseError, RunTimeError
from openset.query.executor import Executor, SerialExecutor, ThreadExecutor
from openset.query.process_executor import ProcessExecutor

TESTS = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def importable_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=os.pathsep)


@asynccontextmanager
async def closing(executor: Executor) -> AsyncIterator[Executor]:
    try:
        yield executor
    finally:
        await executor.close()


MAKERS: dict[str, Callable[[Path], Executor]] = {
    "serial": SerialExecutor,
    "thread": lambda directory: ThreadExecutor(directory, 2),
    "process": lambda directory: ProcessExecutor(directory, 2),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_results_and_operating_errors_come_back(kind: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with closing(MAKERS[kind](tmp_path)) as executor:
            last = executor.workers - 1
            assert await executor.run(last, Echo({"a": [1, "é"]})) == {"a": [1, "é"]}
            with pytest.raises(ParseError) as raised:
                await executor.run(0, Fail())
            error = raised.value
            assert (error.message, error.detail, error.line, error.column) == ("no", "x\n^", 3, 5)
            many = await asyncio.gather(*(executor.run(n % executor.workers, Echo(n)) for n in range(50)))
            assert many == list(range(50))

    asyncio.run(run())


def test_a_partition_always_goes_to_the_same_worker(tmp_path: Path) -> None:
    executor = ThreadExecutor(tmp_path, 3)
    workers = [executor.worker_of(partition) for partition in range(9)]
    assert workers == [executor.worker_of(partition) for partition in range(9)]
    assert sorted(set(workers)) == [0, 1, 2]


@pytest.mark.parametrize("work", [Defect(), Unsendable()])
def test_a_defect_is_reported_without_its_text(work: object, tmp_path: Path) -> None:
    async def run() -> None:
        async with closing(ProcessExecutor(tmp_path, 1)) as executor:
            before = await executor.run(0, ProcessId())
            with pytest.raises(InternalError) as raised:
                await executor.run(0, work)  # type: ignore[arg-type]
            assert "secret" not in raised.value.message
            assert await executor.run(0, ProcessId()) == before

    asyncio.run(run())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS])
def test_a_worker_that_dies_gives_an_error_and_is_replaced(number: int, tmp_path: Path) -> None:
    async def run() -> None:
        async with closing(ProcessExecutor(tmp_path, 2)) as executor:
            first, other = await asyncio.gather(executor.run(0, ProcessId()), executor.run(1, ProcessId()))
            with pytest.raises(RunTimeError, match=signal.Signals(number).name):
                await executor.run(0, Die(number))
            assert await executor.run(0, ProcessId()) not in (first, other)
            assert await executor.run(1, ProcessId()) == other

    asyncio.run(run())


def test_a_worker_that_dies_idle_is_replaced_unnoticed(tmp_path: Path) -> None:
    async def run() -> None:
        async with closing(ProcessExecutor(tmp_path, 1)) as executor:
            first = await executor.run(0, ProcessId())
            os.kill(first, signal.SIGKILL)
            time.sleep(0.2)
            assert await executor.run(0, ProcessId()) != first

    asyncio.run(run())


def test_workers_ignore_sigterm(tmp_path: Path) -> None:
    async def run() -> None:
        async with closing(ProcessExecutor(tmp_path, 1)) as executor:
            first = await executor.run(0, ProcessId())
            os.kill(first, signal.SIGTERM)
            time.sleep(0.1)
            assert await executor.run(0, ProcessId()) == first

    asyncio.run(run())


def test_cancelled_work_ends_its_process_and_what_waits_goes_to_the_next(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def run() -> None:
        async with closing(ProcessExecutor(tmp_path, 1)) as executor:
            first = await executor.run(0, ProcessId())
            running = asyncio.create_task(executor.run(0, Sleep(60, str(started))))
            waiting = asyncio.create_task(executor.run(0, ProcessId()))
            given_up = asyncio.create_task(executor.run(0, Sleep(60)))
            while not started.exists():
                await asyncio.sleep(0.01)
            given_up.cancel()
            running.cancel()
            replacement = await asyncio.wait_for(waiting, 20)
            assert replacement != first
            assert running.cancelled() and given_up.cancelled()
            assert await executor.run(0, ProcessId()) == replacement
            with pytest.raises(ProcessLookupError):
                os.kill(first, 0)

    asyncio.run(run())


def test_closing_answers_what_runs_and_what_waits(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def run() -> None:
        executor = ProcessExecutor(tmp_path, 1)
        jobs = [asyncio.create_task(executor.run(0, Sleep(60, str(started)))) for _ in range(2)]
        while not started.exists():
            await asyncio.sleep(0.01)
        await asyncio.wait_for(executor.close(), 20)
        for outcome in await asyncio.gather(*jobs, return_exceptions=True):
            assert isinstance(outcome, RunTimeError)
        with pytest.raises(RunTimeError, match="shutting down"):
            await executor.run(0, Echo(1))

    asyncio.run(run())
