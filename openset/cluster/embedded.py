"""The embedded coordinator: on the node that initialised the cluster, in one file of its data directory.

Requests come as bytes and are answered with bytes, wherever they come from. Those that change something and arrive
while the file is written wait for the next time and share it; each is answered when the file is synced, and nobody sees
a change before. The whole state is written every time: a cluster has some thousand small values.

When a file cannot be written, whoever waits is told that nobody knows, and the state stays as it was: what the disk has
after a restart is then either that or the change, as if it had been made later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from openset.cluster import embedded_state
from openset.cluster.coordinator import boot_time_ms
from openset.cluster.embedded_messages import (
    Answer,
    Committed,
    Compacted,
    DoCommit,
    Ended,
    Failed,
    Grant,
    Granted,
    Kept,
    Read,
    Renew,
    Revoke,
    Wait,
    decode_request,
    encode,
)
from openset.cluster.embedded_state import FORMAT_VERSION, State
from openset.cluster.keeper import Changes, Item, LeaseId, Refused
from openset.errors import ConfigError, LeaseLostError
from openset.store.sealed_json import check_version, encode_sealed, read_sealed
from openset_format.files import FILES, TEMPORARY_SUFFIX, FileLayer, replace_file

STATE_FILE = "state.json"
_MEMBER = "coordinator"
_HISTORY = 1_000
_MOST_LEASES = 10_000
_LOOK_MS = 200
# A gap between two looks that is longer is time in which nobody could renew: no lease ends because of it.
_PAUSED_MS = 1_000
_PAUSE_AFTER_FAILURE_SECONDS = 0.5

Writing = DoCommit | Grant | Renew | Revoke


class EmbeddedServer:
    """Made by `open`, within the event loop that it then runs on. answer: all there is to call, but for close."""

    def __init__(self, directory: Path, state: State, files: FileLayer, clock: Callable[[], int]):
        self._path = directory / STATE_FILE
        self._files = files
        self._clock = clock
        self._state = state
        self._looked_ms = clock()
        # Whoever had a lease before a restart has all of it again.
        self._deadlines_ms = {lease: self._looked_ms + ttl_ms for lease, ttl_ms in state.leases.items()}
        self._history: deque[Changes] = deque()
        self._known_after = state.revision  # changes behind it are in the history
        self._waiting: list[tuple[Writing, asyncio.Future[Answer]]] = []
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._closing = False
        self._task = asyncio.create_task(self._run())

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        create: bool = False,
        files: FileLayer = FILES,
        clock: Callable[[], int] = boot_time_ms,
    ) -> EmbeddedServer:
        """directory: of the coordinator alone.  create: makes an empty one where there is none.

        Raises ConfigError when there is none or it cannot be used, InternalError when it is damaged.
        """
        state = read_state(directory)
        try:
            if state is not None:
                for leftover in directory.glob(f"*{TEMPORARY_SUFFIX}"):
                    files.discard(leftover)
                files.sync_directory(directory)  # the last rename may not be durable yet
            elif create:
                state = State()
                files.make_directory(directory)
                files.sync_directory(directory.parent)
                replace_file(directory / STATE_FILE, encode_sealed(_MEMBER, state), files)
            else:
                raise ConfigError(f"{directory} has no coordinator")
        except OSError as error:
            raise ConfigError(f"coordinator in {directory} cannot be used: {error.strerror}") from error
        return cls(directory, state, files, clock)

    async def close(self) -> None:
        """Whoever waits is told that the coordinator does not answer."""
        self._closing = True
        self._wake.set()
        self._changed.set()
        await self._task

    # ---------------------------------------------------------------- requests

    async def answer(self, data: bytes) -> bytes:
        """A request's answer. Raises nothing: also what is no request has one."""
        try:
            request = decode_request(data)
        except ValueError as error:
            return encode(Failed("bad_request", str(error)))
        match request:
            case Read():
                return encode(Kept(self._state.revision, self._state.items))
            case Wait():
                return encode(await self._wait(request))
        if self._closing:
            return encode(_CLOSED)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        self._wake.set()
        return encode(await future)

    async def _wait(self, request: Wait) -> Answer:
        with suppress(TimeoutError):
            async with asyncio.timeout(request.patience_ms / 1_000):
                while self._state.revision == request.after and not self._closing:
                    await self._changed.wait()
        if self._closing:
            return _CLOSED
        if not self._known_after <= request.after <= self._state.revision:
            return Compacted()
        items: dict[str, Item | None] = {}
        for changes in self._history:
            if changes.revision > request.after:
                items.update(changes.items)
        return Kept(self._state.revision, items)

    # ---------------------------------------------------------------- changes

    async def _run(self) -> None:
        try:
            while not self._closing:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_MS / 1_000 if self._deadlines_ms else None):
                        await self._wake.wait()
                self._wake.clear()
                self._forgive_pause()
                if not await self._settle():
                    await asyncio.sleep(_PAUSE_AFTER_FAILURE_SECONDS)
        finally:  # also after a defect: nobody is left waiting for an answer that never comes
            self._closing = True
            self._changed.set()
            self._tell([(future, _CLOSED) for _, future in self._waiting])

    def _forgive_pause(self) -> None:
        now_ms = self._clock()
        paused_ms = now_ms - self._looked_ms
        self._looked_ms = now_ms
        if paused_ms > _PAUSED_MS:
            for lease in self._deadlines_ms:
                self._deadlines_ms[lease] += paused_ms

    async def _settle(self) -> bool:
        """Makes the changes that wait, and ends leases; False when the disk refuses."""
        waiting, self._waiting = self._waiting, []
        try:
            return await self._settled(waiting)
        finally:  # where a defect has left somebody without an answer
            self._tell([(future, _CLOSED) for _, future in waiting])

    async def _settled(self, waiting: list[tuple[Writing, asyncio.Future[Answer]]]) -> bool:
        now_ms = self._clock()
        answers: list[tuple[asyncio.Future[Answer], Answer]] = []
        for request, future in waiting:
            if isinstance(request, Renew):  # durable as it is, so also while nothing can be written
                answers.append((future, self._renew(request, now_ms)))
        self._tell(answers)
        ended = [lease for lease, deadline_ms in self._deadlines_ms.items() if deadline_ms <= now_ms]
        batch = _Batch(self._state)
        if ended:
            batch.end(ended)
        answers = [(future, batch.take(request)) for request, future in waiting if not isinstance(request, Renew)]
        if batch.state is not self._state:
            try:
                await asyncio.to_thread(replace_file, self._path, encode_sealed(_MEMBER, batch.state), self._files)
            except OSError as error:
                failed = Failed("unreachable", f"the coordinator cannot write: {error.strerror}")
                self._tell([(future, failed) for future, _ in answers])
                return False
            self._adopt(batch)
        self._tell(answers)
        return True

    def _renew(self, request: Renew, now_ms: int) -> Answer:
        ttl_ms = self._state.leases.get(request.lease)
        if ttl_ms is None:
            return Failed("lease_lost", "the lease has ended")
        self._deadlines_ms[request.lease] = now_ms + ttl_ms
        return Granted(request.lease, ttl_ms, self._state.items.get(request.key))

    def _adopt(self, batch: _Batch) -> None:
        """What is durable now is what everybody sees."""
        self._state = batch.state
        now_ms = self._clock()
        self._deadlines_ms = {
            lease: self._deadlines_ms.get(lease, now_ms + ttl_ms) for lease, ttl_ms in self._state.leases.items()
        }
        for changes in batch.changes:
            self._history.append(changes)
            if len(self._history) > _HISTORY:
                self._known_after = self._history.popleft().revision
        if batch.changes:
            self._changed.set()
            self._changed = asyncio.Event()

    @staticmethod
    def _tell(answers: list[tuple[asyncio.Future[Answer], Answer]]) -> None:
        for future, answer in answers:
            if not future.done():
                future.set_result(answer)


def read_state(directory: Path) -> State | None:
    """What a coordinator's directory holds, None for nothing. Raises InternalError when it is damaged, ConfigError."""
    path = directory / STATE_FILE
    state = read_sealed(path, _MEMBER, State)
    if state is not None:
        check_version(path, state.format_version, FORMAT_VERSION)
    return state


_CLOSED = Failed("unreachable", "the coordinator of this node does not answer any more: it is closed")


class _Batch:
    """Changes that are written together."""

    def __init__(self, state: State):
        self.state = state
        self.changes: list[Changes] = []

    def end(self, leases: list[LeaseId]) -> None:
        self._made(embedded_state.end(self.state, frozenset(leases)))

    def take(self, request: Writing) -> Answer:
        """Makes a change; the answer counts when the batch is durable."""
        match request:
            case DoCommit(commit):
                try:
                    outcome = embedded_state.commit(self.state, commit)
                except LeaseLostError as error:
                    return Failed("lease_lost", error.message)
                if isinstance(outcome, Refused):
                    return Kept(outcome.revision, outcome.items)
                self._made(outcome)
                return Committed(self.state.revision)
            case Grant(ttl_ms):
                if len(self.state.leases) >= _MOST_LEASES:
                    return Failed("unreachable", f"the coordinator has {_MOST_LEASES} leases already")
                self.state = embedded_state.grant(self.state, ttl_ms)
                return Granted(self.state.last_lease, ttl_ms)
            case Revoke(lease):
                if lease in self.state.leases:
                    self.end([lease])
                return Ended()
        raise AssertionError(request)

    def _made(self, step: embedded_state.Step) -> None:
        self.state = step.state
        if step.changes.items:
            self.changes.append(step.changes)
