"""`python -m openset.demo`: a daemon on a temporary directory, two data sets, questions, triggers, and away again.

Responsible for the telling; everything it does, the command line can do too.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from openset.client.connection import Connection
from openset.client.daemon import TemporaryDaemon
from openset.client.load import create_table, infer_columns, load_files
from openset.client.query import aggregator_names, run_query, stored_counts
from openset.client.tree_table import tree_table
from openset.demo.questions import QUESTIONS, Question
from openset.errors import OpenSetError

_DATA = Path(__file__).parent / "data"
_TRIGGERS = Path(__file__).parent / "triggers"
TRIGGERS = ("regulars", "silent")
_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class DataSet:
    table: str
    file: str
    about: str
    replacing: str = ""


DATA_SETS = (
    DataSet(
        "highstreet", "highstreet_events.json", "carts of a small shop; products are nested groups, tags are lists"
    ),
    DataSet(
        "commits",
        "tornado_commits.json.gz",
        "the history of the Tornado web server; the files of a commit are nested groups",
        "They share person, second and action with another commit, and that is an event's identity.",
    ),
)


def main() -> int:
    """Runs the demonstration; returns the exit code."""
    console = Console(highlight=False, soft_wrap=True)
    partitions = max(4, os.cpu_count() or 1)
    try:
        with TemporaryDaemon(partitions=partitions) as daemon, Connection(daemon.url) as connection:
            console.print(f"A daemon with {partitions} partitions answers at {daemon.url}\n")
            for data_set in DATA_SETS:
                _load(console, connection, data_set)
            for number, question in enumerate(QUESTIONS, 1):
                _ask(console, connection, number, question)
            _watch(console, connection)
            connection.close()
            daemon.stop()
            console.print(f"The daemon has stopped (exit code {daemon.exit_code}) and its directory is gone.")
            return daemon.exit_code or 0
    except OpenSetError as error:
        console.print(f"error ({error.error_class}): {error.message}", markup=False)
        if error.detail is not None:
            console.print(str(error.detail), markup=False)
        return 1


def _load(console: Console, connection: Connection, data_set: DataSet) -> None:
    files = [str(_DATA / data_set.file)]
    columns = infer_columns(files).columns()
    create_table(connection, data_set.table, columns, [])
    report = load_files(connection, data_set.table, files)
    stored, people = stored_counts(connection, data_set.table)
    console.print(Text(f"Table {data_set.table}: {data_set.about}", style="bold"))
    console.print("  columns: " + ", ".join(f"{column['name']} {column['type']}" for column in columns))
    console.print(
        f"  {report.accepted:,} events sent and acknowledged in {report.seconds:.2f} s, durable on disk; "
        f"{stored:,} events of {people:,} people are stored."
    )
    if stored < report.accepted:
        console.print(f"  {report.accepted - stored:,} replaced an event that was there. {data_set.replacing}")
    console.print()


def _ask(console: Console, connection: Connection, number: int, question: Question) -> None:
    answer = run_query(connection, question.table, question.script, question.parameters)
    header, lines = tree_table(answer.nodes, aggregator_names(connection, question.table, question.script))
    console.print(Text(f"{number}. {question.title}", style="bold"))
    options = " ".join(f"{name}={value}" for name, value in question.parameters.items())
    console.print(Text(f"   table {question.table}" + (f", {options}" if options else ""), style="dim"))
    console.print()
    for code in Syntax("", "python", background_color="default").highlight(question.script.strip("\n")).split():
        console.print(Text("   ").append_text(code) if code else "")
    console.print()
    console.print(Text("   " + header, style="bold"))
    for line in lines:
        console.print(Text("   " + line))
    console.print(Text(f"   {len(lines)} rows in {answer.seconds * 1000:.1f} ms\n", style="dim"))


def _watch(console: Console, connection: Connection) -> None:
    """Triggers on the commits, and the commits once more."""
    for name in TRIGGERS:
        title, _, script = (_TRIGGERS / f"{name}.pyql").read_text(encoding="utf-8").partition("\n")
        address = f"/v1/table/commits/revent/{name}"
        connection.request("POST", address, body=script.strip("\n").encode(), content_type="text/plain")
        console.print(Text(f"Trigger {name}: {title.removeprefix('#').strip()}", style="bold"))
        console.print()
        for code in Syntax("", "python", background_color="default").highlight(script.strip("\n")).split():
            console.print(Text("   ").append_text(code) if code else "")
        console.print()
    load_files(connection, "commits", [str(_DATA / "tornado_commits.json.gz")])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        triggers = connection.get("/v1/table/commits/revents")["triggers"]
        waits = any(one["backlog"]["records"] or one["counts"]["schedules"] for one in triggers)
        if not waits or time.monotonic() > deadline:
            break
        time.sleep(_PAUSE_SECONDS)
    console.print("   The commits come in once more, and the triggers have told:")
    for one in triggers:
        console.print(f"   {one['name']}: {one['counts']['emissions']:,} messages")
    console.print()


if __name__ == "__main__":
    sys.exit(main())
