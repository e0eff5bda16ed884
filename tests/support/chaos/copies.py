"""What the copies of stopped nodes hold, read from their directories one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from support import store_model as model

from openset.store.store import Store
from openset.store.views import ViewCache


def unequal_copies(data: Path, held: Collection[int], expected: Mapping[int, Counter[tuple[int, int]]]) -> list[str]:
    """What is wrong in a directory. held: partitions that it has in sync; expected: events by client and request.

    Everything that it keeps counts as agreed, which it is once the cluster has come to rest.
    """
    store = Store.open(data)
    try:
        assert store.replicas is not None
        journals = store.replicas.journals
        for number in journals.numbers():
            store.replicas.show(number, journals.of(number).synced_sequence)
        snapshots = {snapshot.partition: snapshot for snapshot in store.snapshot("t")}
        wrong = []
        for partition in sorted(held):
            snapshot = snapshots.get(partition)
            people = {} if snapshot is None else model.read_snapshots(ViewCache(data), [snapshot])
            found = Counter(
                (row["client"], row["request"]) for events in people.values() for _, _, rows in events for row in rows
            )
            wanted = expected.get(partition, Counter())
            if found != wanted:
                lacking, more = wanted - found, found - wanted
                wrong.append(f"{data.name}, partition {partition} lacks {dict(lacking)} and has {dict(more)} besides")
        return wrong
    finally:
        store.close()
