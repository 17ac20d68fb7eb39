"""A worker says that it lives, as long as its loop goes round."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from shared.errors import StoreUnavailable
from shared.liveness.workers import HEARTBEAT_SECONDS, WorkerRegistry


def host_name() -> str:
    return socket.gethostname()


def worker_name() -> str:
    """Of this worker, among all."""
    return f"{host_name()}:{os.getpid()}"


SetClock = Callable[[], Awaitable[None]]


async def _as_it_is() -> None:
    """The clock is right already."""


@contextlib.asynccontextmanager
async def heartbeat(workers: WorkerRegistry, set_clock: SetClock = _as_it_is) -> AsyncIterator[None]:
    """While it is entered, this worker counts as alive; a worker that dies, until its last word is old.

    `set_clock` is taken first each time: an idle worker hears from nobody else that its host's clock was put right.
    """
    task = asyncio.create_task(_beat(workers, set_clock), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(StoreUnavailable):
            await workers.remove(worker_name())


async def _beat(workers: WorkerRegistry, set_clock: SetClock) -> None:
    while True:
        with contextlib.suppress(StoreUnavailable):
            await set_clock()
            await workers.beat(worker_name())
        await asyncio.sleep(HEARTBEAT_SECONDS)
