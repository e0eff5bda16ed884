"""What is done once when a data directory is opened, beside recovery: the journal, and what it lost."""

from __future__ import annotations

from pathlib import Path

from openset.errors import InternalError
from openset.log import get_logger
from openset.store.snapshot import JOURNAL_DIRECTORY
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
