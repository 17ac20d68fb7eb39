"""Measures how fast a server answers."""

import time
from collections.abc import Awaitable, Callable

TRIES = 5


async def fastest(call: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds of the fastest of some calls. The other checks run at the same time and delay single calls."""
    durations = []
    for _ in range(TRIES):
        started_at = time.perf_counter()
        await call()
        durations.append(time.perf_counter() - started_at)
    return min(durations)
