"""Log lines as every layer writes them: an event and what belongs to it.

`openset.http.logs` says how they look. structlog is loaded with the first line: workers and notebooks hardly ever write
one, and loading it takes long.
"""

from __future__ import annotations

from typing import Any


class Logger:
    """A named logger."""

    def __init__(self, name: str):
        self._name = name
        self._logger: Any = None

    def info(self, event: str, **facts: Any) -> None:
        self._loaded().info(event, **facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._loaded().warning(event, **facts)

    def error(self, event: str, **facts: Any) -> None:
        self._loaded().error(event, **facts)

    def exception(self, event: str, **facts: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._loaded().exception(event, **facts)

    def _loaded(self) -> Any:
        if self._logger is None:
            import structlog  # here, see above

            self._logger = structlog.get_logger(self._name)
        return self._logger


def get_logger(name: str) -> Logger:
    """The logger of this name."""
    return Logger(name)
