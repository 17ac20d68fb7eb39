"""The registry of workers in Redis: each worker's name and its last heartbeat."""

from collections.abc import Collection

from redis.asyncio import Redis

from shared.redis.calls import redis_call
from shared.redis.clock import Clock
from shared.store import keys

HEARTBEAT_SECONDS = 2.0
ALIVE_SECONDS = 15.0
"""A worker whose last heartbeat is older counts as dead; its jobs are given to others."""
FORGET_SECONDS = 60.0
"""A worker whose last heartbeat is older is removed from the registry."""


class WorkerRegistry:
    """Lives as long as the `redis` it is given. Every method raises StoreUnavailable if Redis does not answer."""

    def __init__(self, redis: Redis, now: Clock) -> None:
        self._redis = redis
        self._now = now

    async def beat(self, worker: str) -> None:
        """Write a worker's heartbeat, and remove workers that have been silent for long."""
        now = self._now()
        async with redis_call(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.zadd(keys.WORKERS, {worker: now})
            pipeline.zremrangebyscore(keys.WORKERS, "-inf", now - FORGET_SECONDS)
            await pipeline.execute()

    async def remove(self, worker: str) -> None:
        """Remove a worker that stops."""
        async with redis_call():
            await self._redis.zrem(keys.WORKERS, worker)

    async def alive(self) -> list[str]:
        """Return the names of the workers with a recent heartbeat, by Redis' own time."""
        async with redis_call():
            seconds, _ = await self._redis.time()
            names = await self._redis.zrangebyscore(keys.WORKERS, seconds - ALIVE_SECONDS, "+inf")
        return [name.decode() for name in names]

    async def any_registered(self) -> bool:
        """Return True if any worker has ever sent a heartbeat to this Redis and was not removed since."""
        async with redis_call():
            return bool(await self._redis.exists(keys.WORKERS))

    async def any_alive(self, names: Collection[str]) -> bool:
        """Return True if one of these workers has a recent heartbeat."""
        async with redis_call():
            heartbeats = await self._redis.zmscore(keys.WORKERS, list(names))
        oldest = self._now() - ALIVE_SECONDS
        return any(heartbeat is not None and heartbeat > oldest for heartbeat in heartbeats)
