"""Spreads clean-ups over time, so that thousands of them delay no create."""

from redis.asyncio import Redis

from shared.redis.calls import redis_call
from shared.redis.clock import Clock
from shared.store import keys
from shared.store.lua import load_script

CLEANUPS_PER_SECOND = 50.0
"""Rate at which expired sandboxes are removed, however many there are: about half of what one worker can do."""


class CleanupThrottle:
    """Reserves slots in `redis`, which the caller closes. All users of that Redis share the slots."""

    def __init__(self, redis: Redis, now: Clock) -> None:
        self._reserve = load_script(redis, __file__, "reserve_slots.lua")
        self._now = now

    async def reserve(self, count: int) -> list[float]:
        """Return when each of `count` clean-ups may begin, seconds since the epoch. They follow earlier reservations.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if not count:
            return []
        interval = 1 / CLEANUPS_PER_SECOND
        request = {"count": count, "interval": interval, "now": repr(self._now())}
        async with redis_call():
            first = float(await self._reserve([keys.CLEANUP_SLOTS], request))
        return [first + position * interval for position in range(count)]
