"""How fast something answers."""

import time
from collections.abc import Awaitable, Callable

TRIES = 5


async def fastest(ask: Callable[[], Awaitable[object]]) -> float:
    """Seconds that the quickest of some calls takes: the others waited for the other checks, which run beside it."""
    taken = []
    for _ in range(TRIES):
        began = time.perf_counter()
        await ask()
        taken.append(time.perf_counter() - began)
    return min(taken)
