"""A worker's sign of life in Redis, written while the worker's event loop runs."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

from shared.errors import StoreUnavailable
from shared.liveness.workers import HEARTBEAT_SECONDS, WorkerRegistry

SetClock = Callable[[], Awaitable[None]]


def new_worker_name() -> str:
    """Return a name that no other worker has. Its random part tells containers with one host name and pid apart."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


def is_on_this_host(worker: str) -> bool:
    return worker.startswith(f"{socket.gethostname()}:")


@contextlib.asynccontextmanager
async def heartbeat(
    workers: WorkerRegistry, worker: str, set_clock: SetClock, interval_seconds: float = HEARTBEAT_SECONDS
) -> AsyncIterator[None]:
    """Keep `worker` registered as alive inside the context, and remove it at the end.

    The first heartbeat is written before the context begins. Without it, other workers would take this worker's jobs
    for those of a dead one. If Redis does not answer, the context begins all the same, and no jobs can be fetched.
    """
    await _beat(workers, worker, set_clock)
    task = asyncio.create_task(_beat_forever(workers, worker, set_clock, interval_seconds), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(StoreUnavailable):
            await workers.remove(worker)


async def _beat_forever(workers: WorkerRegistry, worker: str, set_clock: SetClock, interval_seconds: float) -> None:
    while True:
        await asyncio.sleep(interval_seconds)
        await _beat(workers, worker, set_clock)


async def _beat(workers: WorkerRegistry, worker: str, set_clock: SetClock) -> None:
    """Set the clock first: an idle worker has no other answers of Redis that show a change of its host's clock."""
    with contextlib.suppress(StoreUnavailable):
        await set_clock()
        await workers.beat(worker)
