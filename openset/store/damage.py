"""What is known to be damaged in a data directory, for whoever asks how the node is."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from openset.log import get_logger
from openset_format.problem import Problem

log = get_logger("openset.store")

# Of one file; a file with more of them is as good as gone.
PROBLEMS_KEPT = 100
# A file that is suspected again and again is looked at this often.
_SUSPECTED_EVERY_SECONDS = 60.0
# The file of a partition, or the directory of its journal in a member.
_OF_PARTITION = re.compile(r"p([0-9]{4})(?:\..*|-[0-9]+)", re.ASCII)


class Damage:
    """Problems by file. Every problem is logged once. Methods may be called from any thread."""

    def __init__(self, has_table: Callable[[int], bool] = lambda table_id: True):
        """has_table: whether there is a table: they are dropped."""
        self._lock = threading.Lock()
        self._problems: dict[str, list[Problem]] = {}
        self._has_table = has_table
        # Whether a partition is here at all: a member gives copies up.
        self.holds: Callable[[int], bool] = lambda number: True
        self._suspected_at: dict[Path, float] = {}
        # For the scrubber's thread; None ends it.
        self.suspects: queue.SimpleQueue[Path | None] = queue.SimpleQueue()

    def suspect(self, paths: Iterable[Path]) -> None:
        """Files that were read by something that failed, and should not have, are verified soon."""
        now = time.monotonic()
        with self._lock:
            self._suspected_at = {
                path: at for path, at in self._suspected_at.items() if now - at < _SUSPECTED_EVERY_SECONDS
            }
            fresh = [path for path in paths if path not in self._suspected_at]
            self._suspected_at.update(dict.fromkeys(fresh, now))
        for path in fresh:
            self.suspects.put(path)

    def is_lost(self, path: Path) -> bool:
        """Whether a file that is not there should be: of a table and partition that are.

        Files are replaced by renaming, and go with their table or copy.
        """
        number, table_id = _partition_of(str(path)), path.parent.name
        is_here = number is not None and self.holds(number) and table_id.isdecimal() and self._has_table(int(table_id))
        return is_here and path.suffix == ".h5" and path.parent.is_dir()

    def note(self, path: Path, problems: Iterable[Problem]) -> None:
        """What is wrong with a file as it is now, in place of what was known of it."""
        found = list(problems)[:PROBLEMS_KEPT]
        with self._lock:
            before = self._problems.pop(str(path), [])
            if found:
                self._problems[str(path)] = found
        for problem in found:
            if problem not in before:
                log.error(
                    "damage", file=problem.file, dataset=problem.dataset, offset=problem.offset, reason=problem.message
                )

    def retain(self, paths: Iterable[Path]) -> None:
        """Forgets files that are not among these any more."""
        kept = {str(path) for path in paths}
        with self._lock:
            self._problems = {path: problems for path, problems in self._problems.items() if path in kept}

    def partitions(self) -> set[int]:
        """The partitions with a damaged file, by number; of a journal for all partitions nobody can tell."""
        with self._lock:
            numbers = map(_partition_of, self._problems)
            return {number for number in numbers if number is not None}

    def forget(self, partition: int, but: Iterable[Path] = ()) -> None:
        """The files of a partition are gone, or others, except for some."""
        kept = {str(path) for path in but}
        with self._lock:
            self._problems = {
                path: problems
                for path, problems in self._problems.items()
                if path in kept or _partition_of(path) != partition
            }

    def all(self) -> list[Problem]:
        """Everything known, by file."""
        with self._lock:
            return [problem for _, problems in sorted(self._problems.items()) for problem in problems]


def _partition_of(path: str) -> int | None:
    file = Path(path)
    found = _OF_PARTITION.fullmatch(file.name) or _OF_PARTITION.fullmatch(file.parent.name)
    return None if found is None else int(found.group(1))
