"""`python -m worker`: one worker; start as many as the load needs."""

import argparse
import asyncio
import sys

import structlog
import uvloop
from arq.worker import Worker

from shared import command, logs
from shared.errors import InvalidSettings
from shared.settings import Settings
from worker.main import arq_settings

log = structlog.get_logger()

CLOSE_SECONDS = 5
"""For giving back the lease and closing connections; a Redis that is away must not keep a worker from stopping."""


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT: then no new jobs, those under way are finished, and everything is closed."""
    worker = Worker(**arq_settings(settings))
    try:
        await worker.async_run()
    except asyncio.CancelledError:
        log.info("stopping")
    finally:
        await close(worker)


async def close(worker: Worker) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await worker.close()
    except TimeoutError:
        log.warning("not closed in time; the lease ends by itself", seconds=CLOSE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m worker", description="Run one worker of the sandbox provisioner.")
    command.add_print_settings(parser)
    settings = command.settings_or_exit(show=parser.parse_args().print_settings)
    logs.configure(settings, "worker")
    try:
        uvloop.run(run(settings))
    except InvalidSettings as error:
        sys.exit(f"The settings are wrong:\n{error.detail}")


if __name__ == "__main__":
    main()
