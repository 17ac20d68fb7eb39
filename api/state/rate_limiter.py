"""How many requests a key may make: one bucket for all processes, in Redis."""

import hashlib

from redis.asyncio import Redis

from shared.errors import RateLimited
from shared.redis.clock import Clock
from shared.redis.connection import translate_redis_errors
from shared.store import keys
from shared.store.lua import load_script


class RateLimiter:
    """At most `burst` at once, and `per_second` in the long run; 0: any number."""

    def __init__(self, redis: Redis, now: Clock, per_second: float, burst: int) -> None:
        self._allow = load_script(redis, __file__, "rate_limit.lua")
        self._now = now
        self._per_second = per_second
        self._burst = burst

    async def check(self, key: str) -> None:
        """Counts one request. Raises RateLimited, with the time until the next is allowed; StoreUnavailable."""
        if not self._per_second:
            return
        cost = 1 / self._per_second
        name = keys.RATE + hashlib.sha256(key.encode()).hexdigest()[:16]  # Redis holds no secret
        with translate_redis_errors():
            wait = await self._allow([name], {"cost": cost, "burst": cost * self._burst, "now": repr(self._now())})
        if float(wait) > 0:
            raise RateLimited(self._per_second, float(wait))
