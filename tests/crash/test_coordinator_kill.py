"""The embedded coordinator killed, and its machine without power: what was acknowledged is there, and nothing half."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from support import coordinator_writer
from support.coordinator_writer import WRITERS
from support.power_failure import UNSYNCED, Promises, after_failure, chosen, moments
from support.simulated_disk import Fault, SimulatedDisk

from openset.cluster.embedded import EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.keeper import Change, Contents, Item, Keeper, commit_of
from openset.errors import ConfigError, UnreachableError
from openset_format.files import FileLayer

ROUNDS = 5
MOMENTS = 150


async def contents_of(directory: Path, files: FileLayer) -> Contents | None:
    """What a coordinator has after a start; None where none was made."""
    try:
        server = EmbeddedServer.open(directory, files=files)
    except ConfigError:
        return None
    contents = await EmbeddedKeeper(server.answer, may_lead=True).read()
    await server.close()
    return contents


def test_a_killed_coordinator_has_what_it_acknowledged(tmp_path: Path) -> None:
    chance, first = random.Random(3), 0
    for _ in range(ROUNDS):
        process = subprocess.Popen(
            [sys.executable, coordinator_writer.__file__, str(tmp_path / "coordinator"), str(first)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline())]
        time.sleep(chance.uniform(0.0, 0.2))
        process.kill()
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        process.wait()
        contents = asyncio.run(contents_of(tmp_path / "coordinator", UNSYNCED))
        assert contents is not None
        for number in range(WRITERS):
            promised = max((each for each in acknowledged if each % WRITERS == number), default=-1)
            item = contents.items.get(f"writer/{number}")
            assert promised < 0 or (item is not None and int(item.value) in (promised, promised + WRITERS))
        first = (max(acknowledged) // WRITERS + 2) * WRITERS


async def random_changes(disk: SimulatedDisk, directory: Path, promises: Promises[Contents | None]) -> None:
    """A coordinator is made and changed, now and then on a disk that refuses."""
    chance = random.Random(11)
    state = Contents(1, {})
    promises.begin(disk, state)
    server = EmbeddedServer.open(directory, create=True, files=disk)
    promises.acknowledge(disk)
    keeper: Keeper = EmbeddedKeeper(server.answer, may_lead=True)
    for number in range(25):
        if number in (8, 15):
            disk.faults.append(Fault(chance.choice(["write", "sync", "rename", "sync_directory"])))
        change = Change(f"k/{chance.randrange(3)}", os.urandom(chance.choice([3, 3_000])))
        promises.begin(disk, state)
        try:
            revision = await keeper.commit(commit_of([], [change]))
        except UnreachableError:
            promises.states[-1] = following(state, change)
            continue
        state = await keeper.read()
        assert state.revision == revision
        promises.states[-1] = state
        promises.acknowledge(disk)
    await server.close()


def following(state: Contents, change: Change) -> Contents:
    """What a change that failed may have led to."""
    before = state.items.get(change.key)
    assert change.value is not None
    revision = state.revision + 1
    item = Item(change.value, revision if before is None else before.created, revision)
    return Contents(revision, {**state.items, change.key: item})


def test_a_power_failure_at_any_step_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path)
    promises: Promises[Contents | None] = Promises([None])
    asyncio.run(random_changes(disk, tmp_path / "coordinator", promises))

    async def look() -> None:
        for position, name in chosen(list(moments(disk)), MOMENTS, seed=5):
            with after_failure(disk, position, name) as image:
                found = await contents_of(image / "coordinator", UNSYNCED)
                assert found in promises.allowed(position), (position, name)

    asyncio.run(look())
