from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from arq.connections import ArqRedis

from shared.queue import job as queue
from shared.store import keys
from worker.jobs.interval_job import IntervalJob, every
from worker.jobs.queue_worker import POLL_SECONDS, QueueWorker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),  # arq's, of `aclose`
]

NOON = datetime(2999, 6, 15, 12, 0, 0, tzinfo=UTC)
"""In the future, so that no test depends on the time of this host."""


async def tick(_: dict[Any, Any]) -> None:
    pass


def next_run(interval: float, previous: datetime) -> datetime:
    job = every(interval, tick, 5)
    job.calculate_next(previous)
    assert job.next_run is not None
    return job.next_run


@pytest.mark.parametrize(
    ("interval", "seconds", "following"),
    [(10, 0, 10), (10, 0.001, 10), (10, 9.999, 10), (10, 10, 20), (0.5, 0, 0.5), (0.5, 0.7, 1), (0.1, 0.3, 0.4)],
)
def test_calculate_next_returns_the_next_multiple_of_the_interval(interval: float, seconds: float, following: float):
    assert next_run(interval, NOON + timedelta(seconds=seconds)) == NOON + timedelta(seconds=following)


@pytest.mark.parametrize("interval", [7, 45, 3600, 0.7])
def test_calculate_next_for_interval_that_divides_no_minute_counts_from_the_epoch(interval: float):
    """All workers, whenever they started, mean the same times."""
    runs = {
        next_run(interval, NOON + timedelta(seconds=fraction * interval / 10)).timestamp() for fraction in range(10)
    }
    assert 1 <= len(runs) <= 2
    assert all(round(run * 1000) % round(interval * 1000) == 0 for run in runs)


def test_calculate_next_keeps_the_time_zone():
    """The next run is compared with a time in the worker's zone."""
    zone = timezone(timedelta(hours=-3))
    following = next_run(10, NOON.astimezone(zone))
    assert following.tzinfo is zone
    assert following == NOON + timedelta(seconds=10)


def test_calculate_next_after_a_long_pause_skips_the_missed_runs():
    before = datetime.now(tz=UTC)
    following = next_run(10, before - timedelta(hours=5))
    assert before < following <= datetime.now(tz=UTC) + timedelta(seconds=10)


def make_scheduling_worker(redis: ArqRedis, name: str, scheduled: IntervalJob) -> QueueWorker:
    return QueueWorker(
        name,
        cron_jobs=[scheduled],
        redis_pool=redis,
        handle_signals=False,
        job_serializer=queue.encode,
        job_deserializer=queue.decode,
    )


async def test_workers_enqueue_a_scheduled_job_once_each_interval(valkey: ArqRedis):
    workers = [make_scheduling_worker(valkey, f"host:{number}:a", every(10, tick, 5)) for number in range(3)]
    for worker in workers:
        await worker.run_cron(NOON, POLL_SECONDS)  # arq's first turn only computes the next run
    for second in range(1, 41):
        for worker in workers:
            await worker.run_cron(NOON + timedelta(seconds=second / 2), POLL_SECONDS)
    due = {score / 1000 for _, score in await valkey.zrange(keys.QUEUE, 0, -1, withscores=True)}
    assert due == {(NOON + timedelta(seconds=seconds)).timestamp() for seconds in (10, 20)}
    assert await valkey.zcard(keys.QUEUE) == 2
