"""A process that makes, fills, compacts and drops a table again and again until it is killed, for the crash test.

Prints "made N" when the table of round N has all its events, "dropped N" when it is gone. Every event has its round.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from openset.store.store import Store

PEOPLE = 12
STAMP = 10**12


def request(number: int) -> bytes:
    """The body of the one request of a round."""
    events = [
        {"person": f"p{person}", "stamp": STAMP, "action": "view", "attr": {"round": number}}
        for person in range(PEOPLE)
    ]
    return json.dumps(events).encode()


def main(data_dir: Path, number: int) -> None:
    store = Store.open(data_dir)
    if store.partitions is None:
        store.initialise(3)
        store.create_table("other", [])
        store.submit("other", store.prepare_insert("other", b'[{"person": 1, "action": "x"}]')).result()
    while True:
        # The id of the column differs from round to round, so values of another round would not even be found by it.
        if not any(table.name == "t" for table in store.tables()):
            store.create_table("t", [("round", "int")])
            store.submit("t", store.prepare_insert("t", request(number))).result()
            print("made", number, flush=True)
        if number % 3:
            store.compact_all()
        store.drop_table("t")
        print("dropped", number, flush=True)
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
