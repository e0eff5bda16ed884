"""Cases of golden files for the offline tools: commands and damage, on a copy of a small data directory.

A line of a case is `openset …` with DATA for the directory (and TMP for the one around it), or what is done to a file:
`flip FILE OFFSET` (one bit, there or in
the first byte of a dataset), `cut FILE BYTES` (off its end), `remove FILE`, `write FILE TEXT`, `copy FROM TO`. What
differs from run to run (ids of journals, names of nodes, times of backups) is replaced in the output.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from pyroaring import BitMap

from openset.cli import main
from openset.store.segment import Computed, Segment
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Counted, Emitted
from openset_format.membership import serialized
from openset_format.reader import PartitionFile

START = 1_700_000_000_000
HOUR = 3_600_000
COLUMNS = [("page", "text"), ("price", "double"), ("count", "int"), ("member", "bool")]


def event(person: str | int, hour: int, action: str, **attributes: Any) -> dict[str, Any]:
    """An event some hours after a fixed moment."""
    return {"person": person, "stamp": START + hour * HOUR, "action": action, "attr": attributes}


IN_FILES = [
    event("ann", 0, "view", page="home", count=1),
    event("ann", 1, "view", page="cart", count=2, member=True),
    event("ann", 2, "buy", price=9.5, _=[{"page": "pen"}, {"page": "ink"}]),
    event("bob", 5, "view", page="home", count=-3),
    event("eve", 6, "view", page="home", count=4),
    event(77, 8, "view", page="home", member=False),
]
IN_JOURNAL = [event("ann", 9, "view", page="late"), event("cid", 11, "buy", price=1.25)]


def insert(store: Store, table: str, events: list[dict[str, Any]]) -> None:
    """Inserts events, durably."""
    store.submit(table, store.prepare_insert(table, json.dumps(events).encode())).result()


def make_data_dir(data: Path) -> None:
    """Two partitions; a table in files and journal, with an erasure, a stored segment and a trigger; an empty one."""
    store = Store.open(data)
    store.initialise(2)
    shop = store.create_table("shop", COLUMNS, ["view", "buy"], retention_days=1_000_000)
    insert(store, "shop", IN_FILES)
    store.compact_all()
    insert(store, "shop", IN_JOURNAL)
    trigger = Trigger(0, "silent", 1, "", True, True, False, None, 0, (), 0, ())
    store.triggers.put(shop.id, trigger, None, lambda: 0)
    changes = [Emitted(5, 0, "ann", 1, "silent", "x", {"n": 1}), Counted(1, 3, 1, 0)]
    store.triggers.append(shop.id, {0: changes}).result()
    store.compactions.write_sidecars(forced=True)
    segment = Segment("viewers", "match where action is 'view': tally\n", None, None, START, 2, {}, 0, 0, (), "", 0)
    store.segments.put(shop.id, [Computed(segment, {0: serialized(BitMap([0])), 1: serialized(BitMap([0]))})])
    store.submit_erasure("shop", "eve").result()
    store.create_table("empty", [("n", "int")])
    store.close()


def run_case(given: str, sound: Path, directory: Path) -> str:
    """What the lines of a case print, with their exit codes. directory: an empty one for the copy."""
    data = directory / "data"
    shutil.copytree(sound, data)
    lines: list[str] = []
    for line in given.splitlines():
        words = [word.replace("DATA", str(data)).replace("TMP", str(directory)) for word in shlex.split(line)]
        if words[0] == "openset":
            lines += [f"$ {line}", *_output(words[1:])]
        else:
            _damage(words[0], [data / words[1]], words[2:])
    text = "\n".join(lines).replace(str(data), "DATA").replace(str(directory), "TMP")
    text = re.sub(r"\b[0-9a-f]{32}\b", "JOURNAL-ID", text)
    text = re.sub(r"journal [0-9a-f]{8}\b", "journal JOURNAL", text)
    text = re.sub(r"\bnode-[0-9a-f]{8}\b", "NODE", text)
    return re.sub(r"\b\d{8}T\d{6}\.\d{6}Z\b", "BACKUP-ID", text)


def _output(arguments: list[str]) -> list[str]:
    result = CliRunner().invoke(main, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    lines = result.stdout.splitlines()
    lines += [f"stderr: {line}" for line in result.stderr.splitlines()]
    return [*lines, f"exit {result.exit_code}"] if result.exit_code else lines


def _damage(what: str, paths: list[Path], options: list[str]) -> None:
    (path,) = paths
    if what == "remove":
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    if what == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(options[0])
        return
    if what == "copy":
        shutil.copyfile(path, path.parent / options[0])
        return
    content = bytearray(path.read_bytes())
    if what == "flip":
        place = options[0]
        offset = int(place) if place.isdecimal() else PartitionFile.open(path).manifest.datasets[place].offset
        content[offset] ^= 1
    elif what == "cut":
        del content[-int(options[0]) :]
    else:
        raise AssertionError(f"a case cannot {what}")
    path.chmod(0o644)
    path.write_bytes(content)
