"""Shared state, as a scrape reads it: counts, the age of the oldest waiting job, the usage of limits."""

import pytest
from arq.constants import in_progress_key_prefix
from redis.asyncio import Redis

from api.health.stats import OVERDUE_SECONDS, QueueStats, read_stats
from shared.queue.job import Job, JobKind
from shared.sandbox.record import STALLED_SECONDS, Spec, Status
from shared.sandbox.transitions import new_record, terminating
from shared.store import keys
from shared.store.limits import Limit
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import Clock, created

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(redis: Redis, clock: Clock) -> Store:
    return Store(redis, clock)


NONE: dict[str, int] = dict.fromkeys(Status, 0)
ROOM = Limit("MAX_SANDBOXES", 10, (keys.STATUS + Status.PENDING, keys.STATUS + Status.RUNNING))


async def start(redis: Redis, job_id: str) -> None:
    """Mark a job as a worker does that fetches it: the job stays in the queue."""
    await redis.set(in_progress_key_prefix + job_id, "worker-1")


async def end(redis: Redis, job_id: str) -> None:
    await redis.delete(in_progress_key_prefix + job_id, keys.JOB + job_id)


async def queued(redis: Redis) -> list[str]:
    """Return the ids of the jobs in the queue, the longest due first."""
    return [job.decode() for job in await redis.zrange(keys.QUEUE, 0, -1)]


async def create_delayed(store: Store, sandbox_id: str, due_at: float) -> None:
    """Create a sandbox whose job is due at `due_at`."""
    record = new_record(sandbox_id, Spec(), cluster="default", now=store.now())
    await store.create_or_update(sandbox_id, lambda _: Update(record, (Job.of(JobKind.PROVISION, record, due_at),)))


async def test_stats_of_an_empty_redis_are_zero(redis, clock):
    assert await read_stats(redis, clock, (ROOM,)) == QueueStats(NONE, 0, 0, 0.0, 0, {"MAX_SANDBOXES": 0})


async def test_sandboxes_are_counted_by_status(redis, store, clock):
    for name in ("ada", "bob", "eve"):
        await store.create_or_update(name, created(name, clock()))
    await store.update("eve", terminating)
    stats = await read_stats(redis, clock, ())
    assert stats.by_status == NONE | {Status.PENDING: 2, Status.TERMINATING: 1}


async def test_oldest_job_waits_since_it_was_enqueued(redis, store, clock):
    """The job's score in the queue is another time, which orders jobs by priority."""
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(3)
    await store.create_or_update("bob", created("bob", clock()))
    clock.advance(4)
    stats = await read_stats(redis, clock, ())
    assert (stats.waiting, stats.delayed) == (2, 0)
    assert stats.oldest_seconds == pytest.approx(7.0, abs=0.01)


async def test_running_job_does_not_wait(redis, store, clock):
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(3)
    await store.create_or_update("bob", created("bob", clock()))
    clock.advance(4)
    first, second = await queued(redis)
    await start(redis, first)
    assert (await read_stats(redis, clock, ())).oldest_seconds == pytest.approx(4.0, abs=0.01)
    await start(redis, second)
    stats = await read_stats(redis, clock, ())
    assert (stats.waiting, stats.oldest_seconds) == (2, 0.0)


async def test_job_that_ends_during_the_read_hides_no_waiting_job(redis, store, clock):
    """The queue was read before, the mark and the payload are read after its end."""
    await store.create_or_update("ada", created("ada", clock()))
    await store.create_or_update("bob", created("bob", clock()))
    clock.advance(4)
    await end(redis, (await queued(redis))[0])
    assert (await read_stats(redis, clock, ())).oldest_seconds == pytest.approx(4.0, abs=0.01)


async def test_delayed_job_waits_since_it_became_due(redis, store, clock):
    await create_delayed(store, "ada", clock() + 10)
    stats = await read_stats(redis, clock, ())
    assert (stats.waiting, stats.delayed, stats.oldest_seconds) == (0, 1, 0.0)
    clock.advance(12)
    stats = await read_stats(redis, clock, ())
    assert (stats.waiting, stats.delayed) == (1, 0)
    assert stats.oldest_seconds == pytest.approx(2.0, abs=0.01)


async def test_oldest_job_is_found_behind_many_running_jobs(redis, store, clock):
    """Ten workers run five hundred jobs, which come first in the queue."""
    job = Job(JobKind.PROVISION, "ada", "1-token")
    running = [f"{job.id}{n}" for n in range(1200)]
    await redis.zadd(keys.QUEUE, dict.fromkeys(running, job.score(clock()) - 1))
    await redis.mset({in_progress_key_prefix + job_id: "worker" for job_id in running})
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(5)
    assert (await read_stats(redis, clock, ())).oldest_seconds == pytest.approx(5.0, abs=0.01)


async def test_job_enqueued_by_a_clock_ahead_has_age_zero(redis, store):
    await store.create_or_update("ada", created("ada", store.now()))
    assert (await read_stats(redis, Clock(store.now() - 1), ())).oldest_seconds == 0.0


async def test_record_that_three_sweeps_missed_is_overdue(redis, store, clock):
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(STALLED_SECONDS + OVERDUE_SECONDS - 1)
    assert (await read_stats(redis, clock, ())).overdue == 0
    clock.advance(2)
    assert (await read_stats(redis, clock, ())).overdue == 1


async def test_usage_of_a_limit_counts_all_its_indexes(redis, store, clock):
    for name in ("ada", "bob"):
        await store.create_or_update(name, created(name, clock()))
    both = Limit("NODE_PORT_CAPACITY", 10, (keys.STATUS + Status.PENDING, keys.STATUS + Status.TERMINATING))
    await store.update("bob", terminating)
    stats = await read_stats(redis, clock, (ROOM, both))
    assert stats.usage == {"MAX_SANDBOXES": 1, "NODE_PORT_CAPACITY": 2}
