"""What is done once when a data directory is opened, beside recovery: journal, what it lost, unfinished erasures."""

from __future__ import annotations

from pathlib import Path

from openset.errors import InternalError
from openset.log import get_logger
from openset.store.catalog import Catalog
from openset.store.dead_letters import DeadLetters
from openset.store.records import ERASURE_RECORD, decode_erasure
from openset.store.recovery import Partitions
from openset.store.segments import Segments
from openset.store.snapshot import JOURNAL_DIRECTORY
from openset.store.state import load_state
from openset_format.errors import FormatError
from openset_format.files import FileLayer
from openset_format.journal import Journal

log = get_logger("openset.store")


def open_journal(data_dir: Path, files: FileLayer) -> Journal:
    """The journal of a data directory, to be written to. Raises InternalError, OSError."""
    try:
        return Journal.open(data_dir / JOURNAL_DIRECTORY, files)
    except FormatError as error:
        raise InternalError(str(error)) from error


def report_torn_tail(journal: Journal) -> None:
    """Logs what recovery cut off the journal. Losing what was acknowledged means that the disk broke its word."""
    torn = journal.torn_tail
    if torn is not None:
        facts = {"segment": torn.segment, "offset": torn.offset, "size_bytes": torn.size_bytes, "reason": torn.reason}
        if torn.acknowledged:
            log.error("acknowledged records are lost", records=torn.acknowledged, **facts)
        else:
            log.warning("unfinished records cut off the journal", **facts)


def forget_erased(
    data_dir: Path,
    catalog: Catalog,
    partitions: Partitions,
    journal: Journal,
    segments: Segments,
    dead_letters: DeadLetters,
) -> None:
    """Takes those out of segments and dead letters whom the journal erased, in case a crash came in between.

    Raises InternalError.
    """
    for ref, kind, table_id in journal.records():
        if kind == ERASURE_RECORD and not catalog.is_dropped(table_id):
            dead_letters.forget_person(table_id, decode_erasure(journal.read(ref)).person)
    for (table_id, number), partition in partitions.items():
        if partition.erasures and not partition.damage:
            schema = next(schema for schema in catalog.tables() if schema.id == table_id)
            try:
                state = load_state(data_dir, partition.snapshot(schema, journal.id))
            except FormatError as error:
                raise InternalError(str(error)) from error
            segments.forget_people(table_id, number, state.erased, partition.erasures[-1])
