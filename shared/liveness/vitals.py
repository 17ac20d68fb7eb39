"""Signs of life in Redis: when the cluster was last observed, and which workers live.

| key | type | holds |
|---|---|---|
| `synced:{cluster}` | string | when all records last agreed with the cluster, and a name for what Redis holds |
| `workers` | sorted set | each worker's name → when it last said that it lives |

`synced:…` never ends by itself, so it says one thing more: without it, Redis is new or was emptied, and that a record
is not there says nothing, until a worker has made the records anew from what is in the cluster.
"""

import secrets
from collections.abc import Collection

from redis.asyncio import Redis

from shared.errors import PreconditionFailed
from shared.redis.clock import Clock
from shared.redis.connection import translate_redis_errors
from shared.store.lua import MARK, filled
from shared.store.update import ANY_VALUE, Precondition

BEAT_SECONDS = 2.0
ALIVE_SECONDS = 15.0
"""A worker that has said nothing for so long is not counted on."""
FRESH_SECONDS = 60.0
"""A cluster that was not observed for so long is one of which little is known."""

_OBSERVED = "synced:"
WORKERS = "workers"


class Vitals:
    """Lives as long as the `redis` it is given. Its methods raise StoreUnavailable."""

    def __init__(self, redis: Redis, now: Clock, cluster: str) -> None:
        self._redis = redis
        self._mark = redis.register_script(filled(MARK))
        self._now = now
        self._cluster = cluster

    async def observed(self, precondition: Precondition) -> None:
        """All records agree with the cluster now. Raises Fenced: whoever says so is not the observer any more."""
        with translate_redis_errors():
            verdict = await self._mark(
                keys=[_OBSERVED + self._cluster, precondition.key],
                args=[precondition.value, f"{self._now():.3f}", secrets.token_hex(4)],
            )
        if verdict == b"fenced":
            raise PreconditionFailed(self._cluster)

    async def observed_at(self) -> float | None:
        """None: never since Redis holds anything."""
        at, _ = await self._observation()
        return at

    async def epoch(self) -> str | None:
        """Names what Redis holds: it is another one after Redis was emptied, and None until records are complete."""
        _, epoch = await self._observation()
        return epoch

    async def is_complete(self) -> bool:
        """Whether every sandbox in the cluster has a record, as far as anybody knows."""
        return await self.observed_at() is not None

    async def _observation(self) -> tuple[float | None, str | None]:
        with translate_redis_errors():
            raw = await self._redis.get(_OBSERVED + self._cluster)
        if not raw:
            return None, None
        at, _, epoch = raw.decode().partition(" ")
        return float(at), epoch

    async def beat(self, worker: str) -> None:
        """This worker lives; those that have not said so for long are taken off."""
        now = self._now()
        with translate_redis_errors():
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.zadd(WORKERS, {worker: now})
                pipeline.zremrangebyscore(WORKERS, "-inf", now - FRESH_SECONDS)
                await pipeline.execute()

    async def gone(self, worker: str) -> None:
        with translate_redis_errors():
            await self._redis.zrem(WORKERS, worker)

    async def workers(self) -> list[str]:
        """Names of those that live."""
        with translate_redis_errors():
            seconds, _ = await self._redis.time()
            names = await self._redis.zrangebyscore(WORKERS, seconds - ALIVE_SECONDS, "+inf")
        return [name.decode() for name in names]

    @property
    def precondition(self) -> Precondition:
        """Holds while records are complete."""
        return Precondition(_OBSERVED + self._cluster, ANY_VALUE)

    async def is_any_worker(self) -> bool:
        """Whether there are workers at all, so that records are being made anew if there are none."""
        with translate_redis_errors():
            return bool(await self._redis.exists(WORKERS))

    async def is_any_alive(self, names: Collection[str]) -> bool:
        """Whoever never said that it lives, as workers of arq's own command, is believed to."""
        with translate_redis_errors():
            beats = await self._redis.zmscore(WORKERS, list(names))
        return any(beat is None or beat > self._now() - ALIVE_SECONDS for beat in beats)

    async def missing(self) -> list[str]:
        """What is wanting for sandboxes to be made and seen: a sentence each; nothing: all is there."""
        wanting = [] if await self.workers() else ["No worker lives: start one, `python -m worker`."]
        observed_at = await self.observed_at()
        with translate_redis_errors():
            now, _ = await self._redis.time()
        if observed_at is None:
            wanting.append(f"Cluster {self._cluster} was never observed: see the workers' log.")
        elif (age := now - observed_at) > FRESH_SECONDS:
            wanting.append(f"Cluster {self._cluster} was last observed {age:.0f} s ago: see the workers' log.")
        return wanting
