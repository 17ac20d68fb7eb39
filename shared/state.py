"""What all processes share, as Redis has it at one moment. Its cost does not depend on how many sandboxes there are."""

from typing import NamedTuple, cast

import msgspec
from redis.asyncio import Redis

from shared import indexes, queue
from shared.clock import Clock
from shared.connection import unavailable
from shared.limits import Limit
from shared.sandbox import Status

BEHIND_SECONDS = 30.0
"""A record that is due for so long was not looked at by three sweeps."""
_LOOKED_AT = 200
"""Jobs in whose number the oldest that waits is looked for: those before it are being worked on."""


class State(NamedTuple):
    """`oldest` is how long the job that waits longest is due, seconds; 0: none waits. `held` is by limit's name."""

    by_status: dict[str, int]
    waiting: int
    delayed: int
    oldest: float
    behind: int
    held: dict[str, int]


async def read_state(redis: Redis, now: Clock, limits: tuple[Limit, ...]) -> State:
    """Raises StoreUnavailable."""
    at = now()
    with unavailable():
        async with redis.pipeline(transaction=False) as pipeline:
            for status in Status:
                pipeline.zcard(indexes.STATUS + status)
            pipeline.zcount(queue.QUEUE, "-inf", at * 1000)
            pipeline.zcount(queue.QUEUE, f"({at * 1000}", "+inf")
            pipeline.zcount(indexes.DEADLINE, "-inf", at - BEHIND_SECONDS)
            pipeline.zrangebyscore(queue.QUEUE, "-inf", at * 1000, start=0, num=_LOOKED_AT, withscores=True)
            for limit in limits:
                for index in limit.indexes:
                    pipeline.zcard(index)
            found = await pipeline.execute()
    counts = dict(zip((status.value for status in Status), found, strict=False))
    waiting, delayed, behind, due = found[len(counts) : len(counts) + 4]
    rest = iter(found[len(counts) + 4 :])
    held = {limit.name: sum(next(rest) for _ in limit.indexes) for limit in limits}
    return State(counts, waiting, delayed, await _oldest(redis, due, at), behind, held)


async def _oldest(redis: Redis, due: list[tuple[bytes, float]], at: float) -> float:
    """Of the first that nobody works on: since it was enqueued or, if it was put off, since it is due again."""
    if not due:
        return 0.0
    with unavailable():
        marks = await redis.mget([queue.IN_PROGRESS_KEY + job.decode() for job, _ in due])
        first = next((entry for entry, mark in zip(due, marks, strict=True) if mark is None), None)
        raw = await redis.get(queue.JOB_KEY + first[0].decode()) if first else None
    if first is None or raw is None:
        return 0.0
    enqueued = cast(int, msgspec.msgpack.decode(raw)["et"]) / 1000
    return max(0.0, at - max(enqueued, first[1] / 1000))
