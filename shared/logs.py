"""Structured logs: one JSON object a line, or readable lines on a terminal. Logs of libraries have the same form.

Code that handles one sandbox binds `sandbox_id` (and `job_id`) with `log_context`. Every line logged inside carries
the bound fields.
"""

import logging
import sys

import structlog
from structlog.contextvars import bound_contextvars
from structlog.typing import Processor

from shared.settings import LogFormat, Settings

log_context = bound_contextvars

_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso"),
]

_LIBRARY_LEVELS = {
    "arq": logging.WARNING,
    "uvicorn.access": logging.WARNING,
    "asyncio": logging.WARNING,
    "httpx": logging.WARNING,
}
"""Lowest levels of these libraries. API and worker log requests and jobs themselves, with more fields."""


def configure(settings: Settings, process: str) -> None:
    """Configure logging. Call this once in each process, before the first log line.

    `process` is `api` or `worker`, and becomes the field `process` of each line.
    """
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
    for name, level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(level)


def _formatter(process: str, *, console: bool) -> logging.Formatter:
    def add_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"process": process, **event}

    renderers: list[Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_SHARED,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, add_process, *renderers],
    )
