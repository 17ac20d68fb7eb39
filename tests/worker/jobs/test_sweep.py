import asyncio
from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.errors import StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import STALLED_SECONDS, Reason, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, failed, provisioned, terminating, with_reason
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Precondition
from tests.conftest import Clock
from tests.support.records import record_of, settings_of
from tests.worker.conftest import put, queued, read
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.sweep import sweep

pytestmark = pytest.mark.anyio


ID = "abc"
RETENTION = 600.0


async def run_sweep(store: Store, **environment: str) -> int:
    """Sweep once with these settings."""
    settings = settings_of(FAILED_RETENTION_SECONDS=str(RETENTION), **environment)
    return await sweep(store, CleanupThrottle(store.redis, store.now), settings)


def provisioned_record() -> Sandbox:
    record = record_of(ID)
    return provisioned(
        record, ProvisionedObjects("sandbox-abc", "u", "service", "http://node:30001"), now=record.created_at
    )


PENDING = record_of(ID)
TERMINATING = terminating(provisioned_record())
DUE = {
    "pending without a job": (PENDING, "provision:abc:1-0a1b2c3d:2"),
    "pending with a reason": (with_reason(PENDING, Reason.QUOTA_EXCEEDED, "full"), "provision:abc:1-0a1b2c3d:2"),
    "terminating": (TERMINATING, "terminate:abc:1-0a1b2c3d:2"),
    "terminating before it was provisioned": (terminating(PENDING), "terminate:abc:1-0a1b2c3d:2"),
    "at the fifth attempt": (record_of(ID, attempt=5), "provision:abc:1-0a1b2c3d:6"),
    "a later incarnation": (record_of(ID, generation=3), "provision:abc:3-0a1b2c3d:2"),
}


@pytest.mark.parametrize(("record", "job"), DUE.values(), ids=DUE)
async def test_sweep_enqueues_next_attempt_of_stalled_record(
    valkey: ArqRedis, store: Store, clock: Clock, record: Sandbox, job: str
):
    """Nothing else of the record changes."""
    await put(store, record)
    clock.advance(STALLED_SECONDS)
    assert await run_sweep(store) == 1
    assert await queued(valkey) == [job]
    assert await valkey.exists(keys.JOB + job)
    after = await read(store, ID)
    assert (after.attempt, after.status, after.reason) == (record.attempt + 1, record.status, record.reason)


async def test_sweep_waits_for_the_new_job_before_the_next_attempt(valkey: ArqRedis, store: Store, clock: Clock):
    await put(store, PENDING)
    clock.advance(STALLED_SECONDS)
    assert [await run_sweep(store), await run_sweep(store)] == [1, 0]
    clock.advance(STALLED_SECONDS)
    assert await run_sweep(store) == 1
    assert await queued(valkey) == ["provision:abc:1-0a1b2c3d:2", "provision:abc:1-0a1b2c3d:3"]


NOT_DUE = {
    "provisioned, and the leader waits for its Pod": provisioned_record(),
    "failed within its retention": failed(PENDING, Reason.FORBIDDEN, "no"),
}


@pytest.mark.parametrize("record", NOT_DUE.values(), ids=NOT_DUE)
async def test_sweep_leaves_record_that_waits_for_no_job(valkey: ArqRedis, store: Store, clock: Clock, record: Sandbox):
    await put(store, record)
    clock.advance(STALLED_SECONDS * 100)
    assert await run_sweep(store) == 0
    assert await queued(valkey) == []


async def test_sweep_counts_the_time_from_the_last_progress(valkey: ArqRedis, store: Store, clock: Clock):
    await put(store, PENDING)
    clock.advance(STALLED_SECONDS - 1)
    await put(store, with_reason(await read(store, ID), Reason.QUOTA_EXCEEDED, "full"))
    clock.advance(STALLED_SECONDS - 1)
    assert await run_sweep(store) == 0
    assert await queued(valkey) == []


async def test_two_sweeps_at_once_enqueue_each_job_once(valkey: ArqRedis, store: Store, clock: Clock):
    for number in range(30):
        await put(store, record_of(f"s{number}"))
    clock.advance(STALLED_SECONDS)
    assert sum(await asyncio.gather(run_sweep(store), run_sweep(store))) == 30
    assert await queued(valkey) == sorted(f"provision:s{number}:1-0a1b2c3d:2" for number in range(30))


async def test_sweep_enqueues_jobs_that_are_due_now(valkey: ArqRedis, store: Store, clock: Clock):
    await put(store, PENDING)
    clock.advance(STALLED_SECONDS)
    await run_sweep(store)
    ((_, due),) = await valkey.zrange(keys.QUEUE, 0, -1, withscores=True)
    assert due <= clock.now * 1000


async def test_sweep_skips_unreadable_record_and_leaves_it(valkey: ArqRedis, store: Store, clock: Clock):
    for sandbox_id in ("a", "b", "c"):
        await put(store, record_of(sandbox_id))
    await valkey.set("sandbox:b", b"{}")
    clock.advance(STALLED_SECONDS)
    assert await run_sweep(store) == 2
    assert await queued(valkey) == ["provision:a:1-0a1b2c3d:2", "provision:c:1-0a1b2c3d:2"]
    assert await valkey.get("sandbox:b") == b"{}"


async def test_sweep_retries_record_after_many_attempts_every_four_minutes(
    valkey: ArqRedis, store: Store, clock: Clock
):
    await put(store, record_of(ID, attempt=20))
    clock.advance(239)
    assert await run_sweep(store) == 0
    clock.advance(1)
    assert await run_sweep(store) == 1
    assert await queued(valkey) == ["provision:abc:1-0a1b2c3d:21"]


@pytest.fixture
async def away(away_url: str, clock: Clock) -> AsyncIterator[Store]:
    """Return the store of a Redis that does not answer."""
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as redis:
        yield Store(redis, clock)


async def test_sweep_without_redis_raises(away: Store):
    with pytest.raises(StoreUnavailable):
        await run_sweep(away)


async def test_sweep_fails_sandbox_that_was_not_ready_in_time(
    valkey: ArqRedis, store: Store, clock: Clock, sync: ClusterSync, leading: Precondition
):
    """The record keeps the last cause, and a job removes the objects."""
    stuck = replace(with_reason(provisioned_record(), Reason.UNSCHEDULABLE, "no room"), deadline=clock.now + 300)
    await put(store, stuck)
    clock.advance(299)
    assert await run_sweep(store) == 0
    clock.advance(1)
    assert await run_sweep(store) == 0, "no sync since the deadline: the Pod may be ready"
    await sync.mark_synced(leading)
    assert await run_sweep(store) == 1
    after = await read(store, ID)
    assert (after.status, after.reason, after.deadline) == (Status.FAILED, Reason.UNSCHEDULABLE, clock.now + RETENTION)
    assert "no room" in after.message
    assert await queued(valkey) == ["terminate:abc:1-0a1b2c3d:2"]


async def test_sweep_terminates_failed_sandbox_after_its_retention(valkey: ArqRedis, store: Store, clock: Clock):
    await put(store, failed(provisioned_record(), Reason.CRASH_LOOP, "exit code 3", deadline=clock.now + RETENTION))
    clock.advance(RETENTION)
    assert await run_sweep(store) == 1
    assert (await read(store, ID)).status is Status.TERMINATING
    assert await queued(valkey) == ["terminate:abc:1-0a1b2c3d:2"]
