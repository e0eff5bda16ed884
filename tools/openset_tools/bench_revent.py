"""What triggers cost and how soon they tell: `python -m openset_tools.bench_revent`.

Three figures, all through HTTP. How much of its rate ingest keeps with ten triggers on the table, and how long they
take to catch up afterwards; how long after an insert is acknowledged its message reaches a subscription that waits for
it, while events come in at a fixed rate, and whether a backlog builds up; how long a start takes that restores many
schedules.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from openset.client.connection import Connection
from openset.client.daemon import Daemon, TemporaryDaemon
from openset.store.store import Store
from openset_tools.bench_insert import insert_events, percentile
from openset_tools.sample_events import COLUMNS, FIRST_STAMP_MS, SPAN_MS, Z_ORDER, event_batches

TABLE = "bench"
PROBE = 'def on_insert():\n    match where is_new and action is "probe":\n        emit("probe", page)\n'
TRIGGERS = {
    "five": "def on_insert():\n    n = 0\n    match where action is 'purchase' and product is 'toys-7':\n"
    "        n = n + 1\n    if n >= 5:\n        emit('five')\n",
    "silent": "def on_insert():\n    schedule(30 days, 'silent')\n\ndef silent():\n    emit('silent')\n",
    "rich": "def on_insert():\n    if (SUM price all where action is 'purchase') > 400:\n        emit('rich')\n",
    "gift": "def on_insert():\n    match where is_new and action is 'purchase' and gift is true and units is 5:\n"
    "        emit('gift', product)\n",
    "back": "def on_insert():\n    match where is_new and action is 'login':\n        if session > 20:\n"
    "            emit('back')\n",
    "books": "def on_insert():\n    if (DISTINCT product where kind is 'books') > 12:\n        emit('books')\n",
    "phone": "def on_insert():\n    if (COUNT stamp where device is 'phone' and action is 'purchase') is 6:\n"
    "        emit('phone')\n",
    "page": "def on_insert():\n    match where is_new and page is 199 and rating > 4.8:\n"
    "        emit('page', country)\n",
    "cart": "def on_insert():\n    match 1 where is_new and action is 'cart':\n        schedule(1 hour, 'left')\n"
    "    match 1 where is_new and action is 'purchase':\n        cancel('left')\n\n"
    "def left():\n    emit('left')\n",
    "probe": PROBE,
}
ALWAYS = ("gift", "back", "page", "probe")


@click.command()
@click.option("--events", default=200_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=20_000, show_default=True, type=click.IntRange(min=1))
@click.option("--clients", default=2, show_default=True, type=click.IntRange(min=1), help="Client processes.")
@click.option("--batch", default=1_000, show_default=True, type=click.IntRange(min=1), help="Events a request.")
@click.option("--partitions", default=4, show_default=True, type=click.IntRange(1, 1000))
@click.option("--rate", default=5_000, show_default=True, type=click.IntRange(min=1), help="Events a second, paced.")
@click.option("--seconds", default=20, show_default=True, type=click.IntRange(min=1), help="Of the paced part.")
@click.option(
    "--before", default=0, show_default=True, type=click.IntRange(min=0), help="Events there are before the paced part."
)
@click.option("--schedules", default=100_000, show_default=True, type=click.IntRange(min=1), help="To restore.")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=Path(),
    help="Where the started daemon's data goes; default: here, because /tmp may not be a disk.",
)
def main(
    events: int,
    people: int,
    clients: int,
    batch: int,
    partitions: int,
    rate: int,
    seconds: int,
    before: int,
    schedules: int,
    directory: Path,
) -> None:
    """Measure triggers: cost to ingest, time to a message, restoring schedules."""
    rates = {}
    for with_triggers in (False, True):
        with TemporaryDaemon(partitions=partitions, parent=directory) as daemon:
            _prepare(daemon.url, with_triggers)
            took, _ = insert_events(daemon.url, TABLE, events, people, batch, clients)
            rates[with_triggers] = events / took
            click.echo(
                f"{events:,} events {'with 10 triggers' if with_triggers else 'without triggers'}: {took:.2f} s, "
                f"{events / took:,.0f} events/s"
            )
            if with_triggers:
                caught_up = _timed(lambda: _wait(daemon.url))
                click.echo(f"triggers caught up {caught_up:.2f} s later")
    click.echo(f"ingest keeps {rates[True] / rates[False]:.0%} of its rate")
    with TemporaryDaemon(partitions=partitions, parent=directory) as daemon:
        _prepare(daemon.url, with_triggers=False)
        _fill(daemon.url, before, people, batch)
        _create_triggers(daemon.url)
        _measure_latency(daemon.url, rate, seconds, people)
    with tempfile.TemporaryDirectory(prefix="openset-", dir=directory) as scratch:
        _measure_restoring(Daemon(Path(scratch) / "data", partitions=partitions), schedules)


def _prepare(url: str, with_triggers: bool) -> None:
    with Connection(url) as connection:
        columns = msgspec.json.encode({"columns": COLUMNS, "z-order": Z_ORDER})
        connection.request("POST", f"/v1/table/{TABLE}", body=columns)
    if with_triggers:
        _create_triggers(url)


def _create_triggers(url: str) -> None:
    with Connection(url) as connection:
        for name, script in TRIGGERS.items():
            once = {"once": str(name not in ALWAYS).lower()}
            connection.request(
                "POST", f"/v1/table/{TABLE}/revent/{name}", parameters=once, body=script.encode(),
                content_type="text/plain",
            )  # fmt: skip


def _fill(url: str, events: int, people: int, batch: int) -> None:
    """Events that are there before there are triggers."""
    with Connection(url) as connection:
        for body in event_batches(events, people, batch):
            connection.request("POST", f"/v1/insert/{TABLE}", body=body)


def _triggers(connection: Connection) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection.get(f"/v1/table/{TABLE}/revents")["triggers"]
    wrong = [one for one in found if one["state"] != "running"]
    if wrong:
        raise click.ClickException(f"trigger {wrong[0]['name']} does not run: {wrong[0]['reason']}")
    return found


def _wait(url: str) -> None:
    """Until no insert waits for the triggers."""
    with Connection(url) as connection:
        while _triggers(connection)[0]["backlog"]["records"]:
            time.sleep(0.02)


def _timed(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


# --- time to a message -------------------------------------------------------------------------------------------


def _measure_latency(url: str, rate: int, seconds: int, people: int) -> None:
    """Paced inserts of 100 events, a probe each; the time from its answer to its message."""
    size = 100
    bodies = list(event_batches(rate * seconds, people, size, first_stamp_ms=FIRST_STAMP_MS + SPAN_MS))
    acknowledged: dict[int, float] = {}
    arrived: dict[int, float] = {}
    done = threading.Event()
    reader = threading.Thread(target=_read, args=(url, arrived, done), daemon=True)
    with Connection(url) as connection:
        _send(connection, bodies[0], 10**9)
        _wait(url)  # the first run compiles the scripts
        reader.start()
        started = time.perf_counter()
        for number, body in enumerate(bodies):
            time.sleep(max(started + number * size / rate - time.perf_counter(), 0))
            _send(connection, body, number)
            acknowledged[number] = time.perf_counter()
        sent = time.perf_counter() - started
        backlog = _triggers(connection)[0]["backlog"]
    deadline = time.perf_counter() + 60
    while len(acknowledged.keys() - arrived.keys()) and time.perf_counter() < deadline:
        time.sleep(0.01)
    done.set()
    reader.join()
    missing = len(acknowledged.keys() - arrived.keys())
    if missing:
        raise click.ClickException(f"{missing} messages did not arrive")
    waited = sorted(1_000 * max(arrived[number] - at, 0.0) for number, at in acknowledged.items())
    halves = [
        percentile(sorted(1_000 * (arrived[number] - at) for number, at in acknowledged.items() if number in part), 50)
        for part in (range(len(bodies) // 2), range(len(bodies) // 2, len(bodies)))
    ]
    click.echo(
        f"{len(bodies) * size:,} events in {sent:.1f} s ({len(bodies) * size / sent:,.0f} events/s); message after "
        + ", ".join(f"p{percent} {percentile(waited, percent):.0f}" for percent in (50, 90, 99))
        + f", max {waited[-1]:.0f} ms"
    )
    click.echo(
        f"backlog at the end {backlog['records']} requests; median of the first half {halves[0]:.0f} ms, "
        f"of the second {halves[1]:.0f} ms"
    )


def _send(connection: Connection, body: bytes, number: int) -> None:
    """A body with a probe in front, which `page` tells from others."""
    stamp = 1_600_000_000_000 + number
    probe = f'[{{"person":"probe{number % 1000}","stamp":{stamp},"action":"probe","attr":{{"page":{number}}}}},'
    connection.request("POST", f"/v1/insert/{TABLE}", body=probe.encode() + body[1:])


def _read(url: str, arrived: dict[int, float], done: threading.Event) -> None:
    """Notes when each message is delivered to a subscription that acknowledges by its next poll."""
    address = f"/v1/subscription/{TABLE}/probe/bench"
    tokens: list[str] = []
    with Connection(url) as connection:
        while not done.is_set():
            body = msgspec.json.encode(tokens)
            answer = connection.request("POST", address, parameters={"timeout": "500", "max": "1000"}, body=body)
            now = time.perf_counter()
            for message in answer["messages"]:
                arrived.setdefault(message["value"], now)
            tokens = [answer["ack"]] if answer["messages"] else []


# --- restoring schedules -----------------------------------------------------------------------------------------


def _measure_restoring(daemon: Daemon, schedules: int) -> None:
    """The time from opening a data directory to having its schedules, without and with a sidecar."""
    with daemon, Connection(daemon.url) as connection:
        _prepare(daemon.url, True)
        for first in range(0, schedules, 5_000):
            events = [
                {"person": f"s{number}", "stamp": 1_700_000_000_000, "action": "view"}
                for number in range(first, min(first + 5_000, schedules))
            ]
            connection.request("POST", f"/v1/insert/{TABLE}", body=msgspec.json.encode(events))
        _wait(daemon.url)
    for where in ("from the journal", "from sidecars"):
        started = time.perf_counter()
        store = Store.open(daemon.data_dir)
        took = time.perf_counter() - started
        with store.triggers.states(store.table(TABLE).id) as states:
            found = sum(state.summary()["schedules"] for state in states.values())
        store.compactions.write_sidecars(forced=True)
        store.close()
        click.echo(f"{found:,} schedules restored {where}, with everything else of the store: {took:.2f} s")
        if found < schedules:
            raise click.ClickException(f"{schedules - found:,} schedules are missing")


if __name__ == "__main__":
    main()
