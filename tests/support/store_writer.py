"""A process that commits requests and compacts in a loop until it is killed, for the crash tests of the store.

Prints the number of each request once it is acknowledged. Request n has one event for each of PEOPLE people, all with
the stamp STAMP + n. A reader checks meanwhile that no request is ever seen by half.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import Counter
from pathlib import Path

from openset.store.compaction import Policy, compact
from openset.store.store import Store
from openset.store.views import ViewCache

PEOPLE = 12
STAMP = 10**12
PARTITIONS = 4


def request(number: int) -> bytes:
    """The body of a request."""
    events = [
        {"person": f"p{person}", "stamp": STAMP + number, "action": "view", "attr": {"n": number, "text": f"t{number}"}}
        for person in range(PEOPLE)
    ]
    return json.dumps(events).encode()


def counts(store: Store, cache: ViewCache) -> Counter[int]:
    """How many events there are of each request; asserts that each says what it should."""
    found: Counter[int] = Counter()
    with store.pinned_snapshot("t") as snapshots:
        for snapshot in snapshots:
            for block in cache.blocks(snapshot):
                for person in block.runnable.tolist():
                    for row in range(int(block.row_start[person]), int(block.row_start[person + 1])):
                        number = int(block.stamp[row]) - STAMP
                        assert block.columns["n"].value(row) == number
                        assert block.columns["text"].value(row) == f"t{number}"
                        found[number] += 1
    return found


def main(data_dir: Path) -> None:
    store = Store.open(data_dir, policy=Policy(base_share=0.25, floor_events=20))
    if store.partitions is None:
        store.initialise(PARTITIONS)
    if not store.tables():
        store.create_table("t", [("n", "int"), ("text", "text")])
    threading.Thread(target=_compact, args=(store,), daemon=True).start()
    threading.Thread(target=_read, args=(store,), daemon=True).start()
    number = max(counts(store, ViewCache(data_dir)), default=-1) + 1
    while True:
        store.submit("t", store.prepare_insert("t", request(number))).result()
        print(number, flush=True)
        number += 1


def _compact(store: Store) -> None:
    while True:
        task = store.compactions.next()
        if task is None:
            store.compactions.wake.wait(0.01)
            store.compactions.wake.clear()
        else:
            store.compactions.publish(task, compact(task))


def _read(store: Store) -> None:
    cache = ViewCache(store.data_dir)
    while True:
        try:
            halves = {number: count for number, count in counts(store, cache).items() if count != PEOPLE}
            assert not halves, halves
        except BaseException as error:
            print(f"reader: {error!r}", flush=True)
            os._exit(3)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
