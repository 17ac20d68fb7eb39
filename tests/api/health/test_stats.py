"""The state that all processes share, as a scrape reads it: counts, the age of what waits, what limits leave."""

import pytest
from arq.constants import in_progress_key_prefix
from redis.asyncio import Redis

from api.health.stats import BEHIND_SECONDS, QueueStats, read_stats
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


NONE = dict.fromkeys(Status, 0)
ROOM = Limit("MAX_SANDBOXES", 10, (keys.STATUS + Status.PENDING, keys.STATUS + Status.RUNNING))


async def begin(redis: Redis, job_id: str) -> None:
    """What a worker does when it takes a job: the job stays in the queue."""
    await redis.set(in_progress_key_prefix + job_id, "worker-1")


async def end(redis: Redis, job_id: str) -> None:
    await redis.delete(in_progress_key_prefix + job_id, keys.JOB + job_id)


async def waiting(redis: Redis) -> list[str]:
    """Ids of the jobs in the queue, first the one that is due longest."""
    return [job.decode() for job in await redis.zrange(keys.QUEUE, 0, -1)]


async def put_off(store: Store, sandbox_id: str, at: float) -> None:
    """A sandbox whose job is due `at`."""
    record = new_record(sandbox_id, Spec(), cluster="default", now=store.now())
    await store.create_or_update(sandbox_id, lambda _: Update(record, (Job.of(JobKind.PROVISION, record, at),)))


async def test_an_empty_redis_has_nothing(redis, clock):
    assert await read_stats(redis, clock, (ROOM,)) == QueueStats(NONE, 0, 0, 0.0, 0, {"MAX_SANDBOXES": 0})


async def test_sandboxes_are_counted_by_status(redis, store, clock):
    for name in ("ada", "bob", "eve"):
        await store.create_or_update(name, created(name, clock()))
    await store.create_or_update("eve", lambda r: Update(terminating(r)) if r else None)
    state = await read_stats(redis, clock, ())
    assert state.by_status == NONE | {Status.PENDING: 2, Status.TERMINATING: 1}


async def test_the_oldest_job_waits_since_it_was_written(redis, store, clock):
    """Not since the time that is its place in the queue, which is a minute before."""
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(3)
    await store.create_or_update("bob", created("bob", clock()))
    clock.advance(4)
    state = await read_stats(redis, clock, ())
    assert (state.waiting, state.delayed, state.oldest) == (2, 0, pytest.approx(7.0, abs=0.01))


async def test_a_job_that_is_worked_on_does_not_wait(redis, store, clock):
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(3)
    await store.create_or_update("bob", created("bob", clock()))
    clock.advance(4)
    first, second = await waiting(redis)
    await begin(redis, first)
    assert (await read_stats(redis, clock, ())).oldest == pytest.approx(4.0, abs=0.01)
    await begin(redis, second)
    state = await read_stats(redis, clock, ())
    assert (state.waiting, state.oldest) == (2, 0.0)


async def test_a_job_that_ended_as_we_looked_hides_none_that_waits(redis, store, clock):
    """It was in the queue when that was read, and has neither a mark nor a text now."""
    await store.create_or_update("ada", created("ada", clock()))
    await store.create_or_update("bob", created("bob", clock()))
    clock.advance(4)
    await end(redis, (await waiting(redis))[0])
    assert (await read_stats(redis, clock, ())).oldest == pytest.approx(4.0, abs=0.01)


async def test_a_job_that_is_put_off_waits_from_its_time_on(redis, store, clock):
    await put_off(store, "ada", clock() + 10)
    state = await read_stats(redis, clock, ())
    assert (state.waiting, state.delayed, state.oldest) == (0, 1, 0.0)
    clock.advance(12)
    state = await read_stats(redis, clock, ())
    assert (state.waiting, state.delayed, state.oldest) == (1, 0, pytest.approx(2.0, abs=0.01))


async def test_the_oldest_is_found_behind_all_that_many_workers_work_on(redis, store, clock):
    """Ten workers have five hundred jobs in hand: those stand first in the queue."""
    job = Job(JobKind.PROVISION, "ada", "1-token")
    busy = [f"{job.id}{n}" for n in range(1200)]
    await redis.zadd(keys.QUEUE, dict.fromkeys(busy, job.score(clock()) - 1))
    await redis.mset({in_progress_key_prefix + job_id: "worker" for job_id in busy})
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(5)
    assert (await read_stats(redis, clock, ())).oldest == pytest.approx(5.0, abs=0.01)


async def test_a_job_of_a_clock_before_ours_waits_no_negative_time(redis, store):
    await store.create_or_update("ada", created("ada", store.now()))
    assert (await read_stats(redis, Clock(store.now() - 1), ())).oldest == 0.0


async def test_what_no_sweep_has_looked_at_in_time_is_behind(redis, store, clock):
    await store.create_or_update("ada", created("ada", clock()))
    clock.advance(STALLED_SECONDS + BEHIND_SECONDS - 1)
    assert (await read_stats(redis, clock, ())).overdue == 0
    clock.advance(2)
    assert (await read_stats(redis, clock, ())).overdue == 1


async def test_a_limit_holds_what_all_its_indexes_hold(redis, store, clock):
    for name in ("ada", "bob"):
        await store.create_or_update(name, created(name, clock()))
    both = Limit("NODE_PORT_CAPACITY", 10, (keys.STATUS + Status.PENDING, keys.STATUS + Status.TERMINATING))
    await store.create_or_update("bob", lambda r: Update(terminating(r)) if r else None)
    state = await read_stats(redis, clock, (ROOM, both))
    assert state.held == {"MAX_SANDBOXES": 1, "NODE_PORT_CAPACITY": 2}
