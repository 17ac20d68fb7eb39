"""A worker says that it lives, as long as its loop goes round."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from shared.errors import StoreUnavailable
from shared.vitals import BEAT_SECONDS, Vitals


def host() -> str:
    return socket.gethostname()


def name() -> str:
    """Of this worker, among all."""
    return f"{host()}:{os.getpid()}"


@contextlib.asynccontextmanager
async def beating(vitals: Vitals) -> AsyncIterator[None]:
    """While it is entered, this worker counts as alive; a worker that dies, until its last word is old."""
    task = asyncio.create_task(_beat(vitals), name="heartbeat")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        with contextlib.suppress(StoreUnavailable):
            await vitals.gone(name())


async def _beat(vitals: Vitals) -> None:
    while True:
        with contextlib.suppress(StoreUnavailable):
            await vitals.beat(name())
        await asyncio.sleep(BEAT_SECONDS)
