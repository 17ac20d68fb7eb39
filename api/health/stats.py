"""What all processes share, as Redis has it at one moment. Its cost does not depend on how many sandboxes there are."""

from typing import NamedTuple, cast

from redis.asyncio import Redis

from shared.queue import job as queue
from shared.redis.clock import Clock
from shared.redis.connection import translate_redis_errors
from shared.sandbox.record import Status
from shared.store import keys
from shared.store.limits import Limit

BEHIND_SECONDS = 30.0
"""A record that is due for so long was not looked at by three sweeps."""
_CHUNK = 500
_LOOKED_THROUGH = 5000
"""Jobs among which the oldest that waits is looked for: those being worked on stay in the queue till they are done."""


class QueueStats(NamedTuple):
    """`oldest` is how long the job that waits longest is due, seconds; 0: none waits. `held` is by limit's name."""

    by_status: dict[str, int]
    waiting: int
    delayed: int
    oldest: float
    overdue: int
    held: dict[str, int]


async def read_stats(redis: Redis, now: Clock, limits: tuple[Limit, ...]) -> QueueStats:
    """Raises StoreUnavailable."""
    at = now()
    with translate_redis_errors():
        async with redis.pipeline(transaction=False) as pipeline:
            for status in Status:
                pipeline.zcard(keys.STATUS + status)
            pipeline.zcount(keys.QUEUE, "-inf", at * 1000)
            pipeline.zcount(keys.QUEUE, f"({at * 1000}", "+inf")
            pipeline.zcount(keys.DEADLINE, "-inf", at - BEHIND_SECONDS)
            for limit in limits:
                for index in limit.indexes:
                    pipeline.zcard(index)
            found = await pipeline.execute()
    counts = dict(zip((status.value for status in Status), found, strict=False))
    waiting, delayed, overdue = found[len(counts) : len(counts) + 3]
    rest = iter(found[len(counts) + 3 :])
    held = {limit.name: sum(next(rest) for _ in limit.indexes) for limit in limits}
    return QueueStats(counts, waiting, delayed, await _oldest(redis, at), overdue, held)


async def _oldest(redis: Redis, at: float) -> float:
    """Of those that nobody works on: since it was enqueued or, if it was put off, since it is due again."""
    for start in range(0, _LOOKED_THROUGH, _CHUNK):
        with translate_redis_errors():
            due = await redis.zrangebyscore(keys.QUEUE, "-inf", at * 1000, start=start, num=_CHUNK, withscores=True)
            begun = await _waiting(redis, {job.decode(): score / 1000 for job, score in due})
        if begun or len(due) < _CHUNK:
            return max(0.0, at - min(begun, default=at))
    return 0.0


async def _waiting(redis: Redis, due: dict[str, float]) -> list[float]:
    """Since when each of these waits that nobody works on. One that has ended meanwhile has neither mark nor job."""
    if not due:
        return []
    marks = await redis.mget([keys.IN_PROGRESS + job for job in due])
    free = {job: at for (job, at), mark in zip(due.items(), marks, strict=True) if mark is None}
    raws = await redis.mget([keys.JOB + job for job in free]) if free else []
    return [max(_enqueued(raw), at) for raw, at in zip(raws, free.values(), strict=True) if raw is not None]


def _enqueued(raw: bytes) -> float:
    return cast(int, queue.decode(raw)["et"]) / 1000
