"""The triggers of a data directory, read without a daemon: what `openset inspect` shows and `openset verify` checks."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openset.errors import InternalError, OpenSetError
from openset.store.dead_letters import read_dead_letters
from openset.store.member_reading import MemberReading
from openset.store.offline import OfflineStore, fingerprint, read_data_dir
from openset.store.recovery import NoRecords
from openset.store.schema import TableSchema
from openset.store.trigger_catalog import read_catalog
from openset.store.trigger_state import TriggerState
from openset.store.trigger_store import Triggers
from openset_format.errors import DamageError, FormatError
from openset_format.revent_file import read_revent_file
from openset_format.verify import Problem

_ATTEMPTS = 5


def read_offline(store: OfflineStore) -> Triggers:
    """All triggers and their state at the moment of an offline store. Raises InternalError, ConfigError."""

    def refuse(table_id: int, payload: bytes) -> Future[int]:
        raise InternalError("a data directory that is only read is not changed")

    # A member has no triggers.
    journal = NoRecords(store.journal.id) if isinstance(store.journal, MemberReading) else store.journal
    return Triggers(store.data_dir, store.catalog, journal, store.partitions, refuse)


def inspect_sidecar(path: Path) -> dict[str, Any]:
    """A sidecar file. Raises FormatError, OSError."""
    file = read_revent_file(path)
    head = file.head
    return {
        "file": str(path),
        "header": {
            "table_id": head.table_id,
            "partition": head.partition,
            "journal_id": head.journal_id,
            "applied_sequence": head.applied_sequence,
            "size_bytes": path.stat().st_size,
        },
        "state": TriggerState.decode(file.body).summary(),
    }


def triggers_of(triggers: Triggers, schema: TableSchema) -> list[dict[str, Any]]:
    """The triggers of a table and what they have done."""
    shown = []
    for trigger in triggers.of_table(schema.id):
        with triggers.states(schema.id) as states:
            own = [state.counts[trigger.id] for state in states.values() if trigger.id in state.counts]
            schedules = sum(state.schedules(trigger.id) for state in states.values())
        shown.append(
            {
                "trigger": trigger.name,
                "state": "watched segment" if trigger.watched else "running" if trigger.runs else "disabled",
                "emissions": sum(counts.emissions for counts in own),
                "schedules": schedules,
            }
        )
    return shown


def verify_sidecar(path: Path) -> list[Problem]:
    """What is wrong with a sidecar by itself. Raises FormatError, OSError."""
    try:
        file = read_revent_file(path)
        TriggerState.decode(file.body)
    except DamageError as error:
        return [Problem(error.file, None, error.offset, error.reason)]
    if path.parent.name != str(file.head.table_id) or path.stem != f"p{file.head.partition:04d}":
        where = f"partition {file.head.partition} of table {file.head.table_id}"
        return [Problem(str(path), None, None, f"it is of {where}")]
    return []


def verify_catalog(path: Path) -> list[Problem]:
    """What is wrong with the list of a table's triggers."""
    try:
        read_catalog(path)
    except OpenSetError as error:
        return [Problem(str(path), None, None, error.message.removeprefix(f"{path} "))]
    return []


def verify_dead_letters(path: Path) -> list[Problem]:
    """What is wrong with the messages that webhooks did not take."""
    try:
        read_dead_letters(path)
    except OpenSetError as error:
        return [Problem(str(path), None, None, error.message.removeprefix(f"{path} "))]
    return []


def verify_together(data_dir: Path) -> list[Problem]:
    """What only shows when lists, sidecars and journal are read together. Raises ConfigError, InternalError."""
    message = ""
    for _ in range(_ATTEMPTS):
        before = fingerprint(data_dir)
        try:
            read_offline(read_data_dir(data_dir))
            return []
        except (OpenSetError, FormatError, OSError) as error:
            message = str(error)
        if fingerprint(data_dir) == before:
            break  # nothing was replaced meanwhile: it is as it was found
    return [Problem(str(data_dir), None, None, message)]
