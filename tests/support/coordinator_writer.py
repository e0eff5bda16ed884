"""A process with an embedded coordinator that changes it as fast as it can, and says what was acknowledged.

`python coordinator_writer.py DIRECTORY FIRST`: a line `NUMBER` on standard output for every value that is safe.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from openset.cluster.embedded import EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.keeper import Change, commit_of

WRITERS = 4


async def write(directory: Path, first: int) -> None:
    server = EmbeddedServer.open(directory, create=True)
    keeper = EmbeddedKeeper(server.answer, may_lead=True)

    async def writer(number: int) -> None:
        while True:
            await keeper.commit(commit_of([], [Change(f"writer/{number % WRITERS}", str(number).encode())]))
            print(number, flush=True)
            number += WRITERS

    await asyncio.gather(*(writer(first + number) for number in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
