"""An import from beginning to end: what is read where, in which order, and when it counts.

All or nothing: files and catalog are put in place as one (`openset.store.placing`), and until then nothing that was
there is touched. What a killed import leaves has names that the next start removes.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from openset.client.load import Spool
from openset.cluster.identity import refuse_member
from openset.errors import ConfigError, InsertError, InternalError, QueryError
from openset.pyql.names import RESERVED_COLUMN_NAMES
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.compaction import STAGING_SUFFIX, CompactionTask
from openset.store.lock import DirectoryInUseError, DirectoryLock
from openset.store.opening import open_journal
from openset.store.partition import Partition
from openset.store.placing import is_placing, place
from openset.store.recovery import recover
from openset.store.schema import TableSchema
from openset.store.store import Store
from openset.store.trigger_catalog import read_triggers
from openset_format.files import FILES, TEMPORARY_SUFFIX, FileLayer, replace_file
from openset_format.journal import Journal
from openset_tools.importing.inference import merged
from openset_tools.importing.reading import Mapping, Place
from openset_tools.importing.runs import Run
from openset_tools.importing.sources import BLOCK_BYTES, Block, Format, Source, blocks, source_of, total_bytes
from openset_tools.importing.worker import (
    PLACES_SHOWN,
    Reading,
    infer_block,
    merge_partition,
    start_worker,
    take_block,
)

Result = TypeVar("Result")
# What is done, how much of it there is (0: not known), how many events it was so far.
Advance = Callable[[str, int, int, int], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How to import.

    partitions: to initialise a fresh directory with. create: makes the table when there is none. workers: 0 is one for
    each core. now_ms: what a missing stamp means. block_bytes: how much of a text is read as one.
    """

    file_format: Format | None = None
    partitions: int | None = None
    create: bool = False
    z_order: Sequence[str] = ()
    mapping: Mapping = field(default_factory=Mapping)
    skip_bad_events: bool = False
    workers: int = 0
    now_ms: int | None = None
    block_bytes: int = BLOCK_BYTES


@dataclass(slots=True)
class Report:
    """What an import did. created: the columns of a table that was made. bad: the first rejected events."""

    table: str
    accepted: int = 0
    rejected: int = 0
    partitions: int = 0
    rows: int = 0
    created: list[tuple[str, str]] | None = None
    bad: list[Place] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def events_per_second(self) -> float:
        return self.accepted / self.seconds if self.seconds > 0 else 0.0


def worker_processes(count: int) -> Executor:
    """What runs the work on blocks and partitions."""
    return ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), start_worker)


def import_files(
    data_dir: Path,
    table: str,
    files_given: Sequence[str],
    options: Options,
    advance: Advance = lambda what, done, total, events: None,
    files: FileLayer = FILES,
) -> Report:
    """Imports files into a table and returns when everything is durable and in place.

    Raises InsertError for bad sources and events, ConfigError, QueryError, InternalError: the directory's tables are
    then as they were.
    """
    started = time.perf_counter()
    named = [source_of(file, options.file_format) for file in files_given]
    # Types are inferred before anything is read into runs: standard input has to be kept for that.
    if options.create and any(Path(source.path).is_fifo() for source in named):
        raise ConfigError("--create reads files twice, which a pipe does not allow: give it as standard input (-)")
    with Spool(files_given if options.create else ()) as copies:
        if copies:
            named = [replace(source, path=copy) for source, copy in zip(named, copies, strict=True)]
        lock = _locked(data_dir, files)
        try:
            report = _Import(data_dir, table, named, options, advance, files).run()
        except OSError as error:
            raise InternalError(f"{data_dir} cannot be written: {error}") from error
        finally:
            lock.release()
    report.seconds = time.perf_counter() - started
    return report


def _locked(data_dir: Path, files: FileLayer) -> DirectoryLock:
    try:
        files.make_directory(data_dir)
    except OSError as error:
        raise ConfigError(f"data directory {data_dir} cannot be made: {error.strerror}") from error
    refuse_member(data_dir)
    try:
        # What a start of the daemon makes good after a crash: people are forgotten whom records erase, and so on.
        Store.open(data_dir, files=files).close()
        return DirectoryLock(data_dir)
    except DirectoryInUseError as error:
        raise ConfigError(f"{error.message}; an import needs the directory for itself: stop the daemon") from error


class _Import:
    def __init__(
        self,
        data_dir: Path,
        table: str,
        sources: Sequence[Source],
        options: Options,
        advance: Advance,
        files: FileLayer,
    ):
        self._data_dir = data_dir
        self._table = table
        self._sources = sources
        self._options = options
        self._advance = advance
        self._files = files
        self._report = Report(table)
        self._workers = options.workers or len(os.sched_getaffinity(0))
        self._token = secrets.token_hex(4)
        self._directory = data_dir / f"import-{self._token}{TEMPORARY_SUFFIX}"
        self._staged: dict[Path, Path] = {}

    def run(self) -> Report:
        journal = open_journal(self._data_dir, self._files)
        pool = worker_processes(self._workers)
        try:
            known = recover(self._data_dir, Catalog(self._data_dir, self._files), journal)
            catalog = Catalog(self._data_dir, self._files, is_draft=True)
            before = catalog.encoded()
            self._initialise(catalog)
            schema = self._schema(catalog, pool)
            self._directory.mkdir()
            runs = self._read(pool, Reading(self._directory, schema, catalog.partitions or 1, self._options.mapping))
            self._merge(pool, runs, schema, known, journal)
            # With the files: one that is gone afterwards is damage, not a partition without events.
            catalog.note_files([(schema.id, number) for number in runs])
            self._put_in_place(catalog, before)
        except BrokenProcessPool:
            raise InternalError("a worker process of the import died, perhaps for want of memory") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            journal.close()
            shutil.rmtree(self._directory, ignore_errors=True)
            if not is_placing(self._data_dir):
                for staging in self._staged:
                    with suppress(OSError):
                        self._files.unlink(self._data_dir / staging)
        return self._report

    def _initialise(self, catalog: Catalog) -> None:
        wanted = self._options.partitions
        if catalog.partitions is None:
            if wanted is None:
                raise ConfigError(f"{self._data_dir} is not initialised: --partitions N does that")
            catalog.initialise(wanted, f"node-{secrets.token_hex(4)}")
        elif wanted not in (None, catalog.partitions):
            raise ConfigError(f"{self._data_dir} has {catalog.partitions} partitions, which cannot be changed")

    def _schema(self, catalog: Catalog, pool: Executor) -> TableSchema:
        options = self._options
        try:
            found = catalog.table(self._table)
            if read_triggers(self._data_dir, found.id):
                raise ConfigError(
                    f"table {self._table!r} has triggers, which an import does not run: drop them, or insert the events"
                )
            return found
        except QueryError as error:
            if not options.create:
                hint = "openset import --create makes a table with the columns its events need"
                raise QueryError(error.message, detail=hint) from None
        sources = blocks(self._sources, options.block_bytes)
        seen = [
            (_without_body(block), types)
            for block, types in self._in_order(
                "infer types", sources, lambda block: pool.submit(infer_block, block, options.mapping)
            )
        ]
        columns = merged(seen)
        self._report.created = columns
        return catalog.create_table(self._table, columns, options.z_order, RESERVED_COLUMN_NAMES)

    def _read(self, pool: Executor, reading: Reading) -> dict[int, list[Run]]:
        """The runs of each partition, in the order of the input."""
        report = self._report
        runs: dict[int, list[Run]] = {}
        sources = blocks(self._sources, self._options.block_bytes)
        for _, result in self._in_order("read", sources, lambda block: pool.submit(take_block, block, reading)):
            report.accepted += result.accepted
            report.rejected += result.rejected
            report.bad += result.bad[: PLACES_SHOWN - len(report.bad)]
            if report.rejected and not self._options.skip_bad_events:
                raise InsertError(
                    f"{report.bad[0].where}: {report.bad[0].reason}",
                    detail="\n".join(
                        [f"{place.where}: {place.reason}" for place in report.bad[1:]]
                        + ["nothing was imported; --skip-bad-events imports the good ones"]
                    ),
                )
            for run in result.runs:
                runs.setdefault(run.partition, []).append(run)
        return runs

    def _in_order(
        self, what: str, sources: Iterable[Block], submit: Callable[[Block], Future[Result]]
    ) -> Iterator[tuple[Block, Result]]:
        """The results of all blocks in their order, with a few of them under way."""
        total = total_bytes(self._sources)
        done_files, read_bytes = 0, 0
        source: Source | None = None
        waiting: deque[tuple[Block, Future[Result]]] = deque()

        def oldest() -> tuple[Block, Result]:
            nonlocal done_files, read_bytes, source
            block, future = waiting.popleft()
            result = future.result()
            if block.source is not source:
                done_files, source = done_files + read_bytes, block.source
            read_bytes = block.read_bytes
            self._advance(what, done_files + read_bytes, total, self._report.accepted)
            return block, result

        for block in sources:
            waiting.append((block, submit(block)))
            if len(waiting) > self._workers + 1:
                yield oldest()
        while waiting:
            yield oldest()

    def _merge(
        self,
        pool: Executor,
        runs: dict[int, list[Run]],
        schema: TableSchema,
        known: dict[tuple[int, int], Partition],
        journal: Journal,
    ) -> None:
        now_ms = self._options.now_ms if self._options.now_ms is not None else time.time_ns() // 1_000_000
        futures: list[tuple[int, Future[Any]]] = []
        for number in sorted(runs):
            partition = known.get((schema.id, number), Partition(schema.id, number))
            snapshot = partition.snapshot(schema, journal.id)
            path = snapshot.file
            staging = path.with_name(f"{path.name}.{self._token}{STAGING_SUFFIX}")
            self._files.make_directory(self._data_dir / path.parent)
            self._staged[staging] = path
            task = CompactionTask(self._data_dir, snapshot, staging)
            futures.append((number, pool.submit(merge_partition, task, self._directory, runs[number], now_ms)))
        if futures:
            tables = (self._data_dir / next(iter(self._staged))).parent.parent
            self._files.sync_directory(tables)
            self._files.sync_directory(self._data_dir)
        for done, (number, future) in enumerate(futures, 1):
            self._report.rows += future.result().rows
            self._report.partitions = done
            for name in {run.file for run in runs[number]}:
                (self._directory / name).unlink()
            self._advance("merge partitions", done, len(futures), self._report.accepted)

    def _put_in_place(self, catalog: Catalog, before: bytes) -> None:
        if catalog.encoded() != before:
            staging = Path(f"{CATALOG_NAME}.{self._token}{STAGING_SUFFIX}")
            self._staged[staging] = Path(CATALOG_NAME)
            replace_file(self._data_dir / staging, catalog.encoded(), self._files)
        if not self._staged:
            return
        try:
            place(self._data_dir, self._staged, self._files)
        except InternalError as error:
            if is_placing(self._data_dir):
                error.detail = "the import is complete: starting the daemon, or importing again, finishes this"
            raise


def _without_body(block: Block) -> Block:
    return replace(block, body=b"")
