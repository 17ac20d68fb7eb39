"""State that all processes share, read from Redis at one moment. The cost is independent of the number of sandboxes."""

from typing import NamedTuple, cast

from redis.asyncio import Redis

from shared.queue import job as queue
from shared.redis.calls import redis_call
from shared.redis.clock import Clock
from shared.sandbox.record import Status
from shared.store import keys
from shared.store.limits import Limit

OVERDUE_SECONDS = 30.0
"""Age of a due record that counts as overdue. By default three sweeps have missed such a record."""
_CHUNK = 500
_SEARCHED_JOBS = 5000
"""Limit for the search for the oldest waiting job. Running jobs stay in the queue and come first."""


class QueueStats(NamedTuple):
    """`oldest_seconds` is the age of the job that waits longest; 0 if none waits. `usage` is by name of the limit."""

    by_status: dict[str, int]
    waiting: int
    delayed: int
    oldest_seconds: float
    overdue: int
    usage: dict[str, int]


async def read_stats(redis: Redis, clock: Clock, limits: tuple[Limit, ...]) -> QueueStats:
    """Read the state. `limits` are the limits whose usage is counted.

    Raises:
        StoreUnavailable: Redis does not answer.
    """
    now = clock()
    async with redis_call(), redis.pipeline(transaction=False) as pipeline:
        for status in Status:
            pipeline.zcard(keys.STATUS + status)
        pipeline.zcount(keys.QUEUE, "-inf", now * 1000)
        pipeline.zcount(keys.QUEUE, f"({now * 1000}", "+inf")
        pipeline.zcount(keys.DEADLINE, "-inf", now - OVERDUE_SECONDS)
        for limit in limits:
            for index in limit.indexes:
                pipeline.zcard(index)
        counts = iter(await pipeline.execute())
    by_status = {status.value: next(counts) for status in Status}
    waiting, delayed, overdue = next(counts), next(counts), next(counts)
    usage = {limit.name: sum(next(counts) for _ in limit.indexes) for limit in limits}
    return QueueStats(by_status, waiting, delayed, await _oldest_seconds(redis, now), overdue, usage)


async def _oldest_seconds(redis: Redis, now: float) -> float:
    """Return the age of the oldest job that no worker runs.

    The age counts from the time when the job was enqueued; for a delayed job, from the time when it became due.
    """
    for start in range(0, _SEARCHED_JOBS, _CHUNK):
        async with redis_call():
            jobs = await redis.zrangebyscore(keys.QUEUE, "-inf", now * 1000, start=start, num=_CHUNK, withscores=True)
            waiting_since = await _waiting_since(redis, {job.decode(): score / 1000 for job, score in jobs})
        if waiting_since or len(jobs) < _CHUNK:
            return max(0.0, now - min(waiting_since, default=now))
    return 0.0


async def _waiting_since(redis: Redis, due_jobs: dict[str, float]) -> list[float]:
    """Return the time since which each job waits that no worker runs; `due_jobs` has the due time of each job id.

    A job that ended after the queue was read has neither an in-progress mark nor a payload, and is left out.
    """
    if not due_jobs:
        return []
    marks = await redis.mget([keys.IN_PROGRESS + job for job in due_jobs])
    waiting = {job: due_at for (job, due_at), mark in zip(due_jobs.items(), marks, strict=True) if mark is None}
    payloads = await redis.mget([keys.JOB + job for job in waiting]) if waiting else []
    return [
        max(_enqueued_at(payload), due_at)
        for payload, due_at in zip(payloads, waiting.values(), strict=True)
        if payload is not None
    ]


def _enqueued_at(payload: bytes) -> float:
    return cast(int, queue.decode(payload)["et"]) / 1000
