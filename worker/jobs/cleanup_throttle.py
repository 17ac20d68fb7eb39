"""Work that may wait is spread over time, so that it is in nobody's way."""

from redis.asyncio import Redis

from shared.redis.clock import Clock
from shared.redis.connection import translate_redis_errors
from shared.store import keys
from shared.store.lua import load_script

CLEANUPS_PER_SECOND = 50.0
"""Sandboxes whose time is over are removed at this rate, however many there are: about a worker's half."""


class CleanupThrottle:
    """Lives as long as the `redis` it is given; shared by all who use that."""

    def __init__(self, redis: Redis, now: Clock) -> None:
        self._reserve = load_script(redis, __file__, "reserve_slots.lua")
        self._now = now

    async def reserve(self, count: int) -> list[float]:
        """When so many clean-ups may begin, one after the other, behind those planned before. StoreUnavailable."""
        if not count:
            return []
        apart = 1 / CLEANUPS_PER_SECOND
        with translate_redis_errors():
            first = float(
                await self._reserve([keys.CLEANUP_SLOTS], {"count": count, "interval": apart, "now": repr(self._now())})
            )
        return [first + place * apart for place in range(count)]
