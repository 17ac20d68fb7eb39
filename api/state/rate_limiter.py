"""The rate limit of an API key: one bucket in Redis for all API processes."""

import hashlib

from redis.asyncio import Redis

from shared.errors import RateLimited
from shared.redis.calls import redis_call
from shared.redis.clock import Clock
from shared.store import keys
from shared.store.lua import load_script


class RateLimiter:
    """Allows `burst` requests at once and `per_second` in the long run. If `per_second` is 0, allows any number."""

    def __init__(self, redis: Redis, now: Clock, per_second: float, burst: int) -> None:
        self._allow = load_script(redis, __file__, "rate_limit.lua")
        self._now = now
        self._per_second = per_second
        self._burst = burst

    async def check(self, key: str) -> None:
        """Count one request of this key.

        Raises:
            RateLimited: the bucket is empty; the error names the seconds until the next request is allowed.
            StoreUnavailable: Redis does not answer.
        """
        if not self._per_second:
            return
        cost = 1 / self._per_second
        bucket = keys.RATE + hashlib.sha256(key.encode()).hexdigest()[:16]  # Redis holds no secret
        async with redis_call():
            wait = await self._allow([bucket], {"cost": cost, "burst": cost * self._burst, "now": repr(self._now())})
        if float(wait) > 0:
            raise RateLimited(self._per_second, float(wait))
