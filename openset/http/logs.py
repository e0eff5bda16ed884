"""Structured log lines: one JSON object per line on standard error, for our loggers and for Tornado's."""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, cast

from tornado.web import RequestHandler

from openset.log import get_logger

if TYPE_CHECKING:
    import structlog

access = get_logger("openset.access")


def configure(level: int = logging.INFO) -> None:
    """Sets up logging for the daemon process."""
    _load_structlog()
    import structlog

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer = structlog.processors.JSONRenderer(sort_keys=False)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _load_structlog() -> None:
    """Loads structlog as if there was no rich, which takes five times as long and paints what only a terminal shows."""
    if "structlog" in sys.modules:
        return
    loaded = sys.modules.get("rich")
    sys.modules["rich"] = cast(ModuleType, None)  # what Python's import takes for a module that is not there
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]
        if loaded is not None:
            sys.modules["rich"] = loaded


def log_request(handler: RequestHandler) -> None:
    """One line per request; what nodes of a cluster say to each other all the time only where it failed."""
    request = handler.request
    if request.path.startswith("/v1/internode/") and handler.get_status() < 400:
        return
    access.info(
        "request",
        method=request.method,
        path=request.path,
        status=handler.get_status(),
        ms=round(1000 * request.request_time(), 3),
        remote=request.remote_ip,
    )
