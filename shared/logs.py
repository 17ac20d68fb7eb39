"""Structured logs: one JSON object a line, or readable lines on a terminal. Libraries' own logs take the same road.

Whoever handles one sandbox binds `sandbox_id` (and `job_id`) with `about`, and each line from within carries them.
"""

import logging
import sys

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import Processor

from shared.settings import LogFormat, Settings

about = bound_contextvars

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
]

_QUIETER = {
    "arq": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
}
"""We log jobs and requests ourselves, with what they were about."""


def configure(settings: Settings, process: str) -> None:
    """Called once a process, before anything logs. `process` is the line's `process` field: `api` or `worker`."""
    console = settings.log_format is LogFormat.CONSOLE
    console |= settings.log_format is LogFormat.AUTO and sys.stderr.isatty()
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.log_level)),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(_formatter(process, console=console))
    logging.basicConfig(handlers=[handler], level=settings.log_level, force=True)
    for name, level in _QUIETER.items():
        logging.getLogger(name).setLevel(level)


def _formatter(process: str, *, console: bool) -> logging.Formatter:
    def named(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"process": process, **event}

    last: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, named, *last],
    )
