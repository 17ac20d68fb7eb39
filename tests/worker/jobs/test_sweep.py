import asyncio
from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace

from shared.errors import StoreUnavailable
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import STALLED_SECONDS, Reason, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, failed, provisioned, terminating, with_reason
from shared.store import keys
from shared.store.store import Store
from tests.conftest import Clock
from tests.support.records import record_of, settings_of
from tests.worker.conftest import put, queued, read
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.sweep import sweep as sweep_once

pytestmark = pytest.mark.anyio

ID = "abc"
RETENTION = 600.0


async def sweep(store: Store, **environment: str) -> int:
    """With these settings, as the scheduled job does."""
    settings = settings_of(FAILED_RETENTION_SECONDS=str(RETENTION), **environment)
    return await sweep_once(store, CleanupThrottle(store.redis, store.now), settings)


def made() -> Sandbox:
    record = record_of(ID)
    return provisioned(
        record, ProvisionedObjects("sandbox-abc", "u", "service", "http://node:30001"), now=record.created_at
    )


WAITS_FOR_POD = record_of(ID)
BEING_DELETED = terminating(made())
DUE = {
    "accepted, and no job came": (WAITS_FOR_POD, "provision:abc:1-0a1b2c3d:2"),
    "in trouble": (with_reason(WAITS_FOR_POD, Reason.QUOTA_EXCEEDED, "full"), "provision:abc:1-0a1b2c3d:2"),
    "being deleted": (BEING_DELETED, "terminate:abc:1-0a1b2c3d:2"),
    "being deleted, never made": (terminating(WAITS_FOR_POD), "terminate:abc:1-0a1b2c3d:2"),
    "at its fifth attempt": (record_of(ID, attempt=5), "provision:abc:1-0a1b2c3d:6"),
    "a later life": (record_of(ID, generation=3), "provision:abc:3-0a1b2c3d:2"),
}


@pytest.mark.parametrize(("record", "job"), DUE.values(), ids=DUE)
async def test_no_progress(valkey: ArqRedis, store: Store, clock: Clock, record: Sandbox, job: str):
    """What waits for a job and has not moved gets one more, under the next attempt's name; nothing else changes."""
    await put(store, record)
    clock.advance(STALLED_SECONDS)
    assert await sweep(store) == 1
    assert await queued(valkey) == [job]
    assert await valkey.exists(keys.JOB + job)
    after = await read(store, ID)
    assert (after.attempt, after.status, after.reason) == (record.attempt + 1, record.status, record.reason)


async def test_once_is_enough(valkey: ArqRedis, store: Store, clock: Clock):
    """What has just got a job gets none from the next sweep; when that made no progress either, another."""
    await put(store, WAITS_FOR_POD)
    clock.advance(STALLED_SECONDS)
    assert [await sweep(store), await sweep(store)] == [1, 0]
    clock.advance(STALLED_SECONDS)
    assert await sweep(store) == 1
    assert await queued(valkey) == ["provision:abc:1-0a1b2c3d:2", "provision:abc:1-0a1b2c3d:3"]


NOT_DUE = {
    "provisioned: the observer waits for its Pod": made(),
    "failed, and waits for its delete": failed(WAITS_FOR_POD, Reason.FORBIDDEN, "no"),
}


@pytest.mark.parametrize("record", NOT_DUE.values(), ids=NOT_DUE)
async def test_nothing_to_do(valkey: ArqRedis, store: Store, clock: Clock, record: Sandbox):
    """What waits for no job gets none, however long it stands."""
    await put(store, record)
    clock.advance(STALLED_SECONDS * 100)
    assert await sweep(store) == 0
    assert await queued(valkey) == []


async def test_progress_in_time(valkey: ArqRedis, store: Store, clock: Clock):
    """A record that moved is left its time anew."""
    await put(store, WAITS_FOR_POD)
    clock.advance(STALLED_SECONDS - 1)
    await put(store, with_reason(await read(store, ID), Reason.QUOTA_EXCEEDED, "full"))
    clock.advance(STALLED_SECONDS - 1)
    assert await sweep(store) == 0
    assert await queued(valkey) == []


async def test_two_at_once(valkey: ArqRedis, store: Store, clock: Clock):
    """Two workers that sweep at once, over many, make one job for each."""
    for number in range(30):
        await put(store, record_of(f"s{number}"))
    clock.advance(STALLED_SECONDS)
    assert sum(await asyncio.gather(sweep(store), sweep(store))) == 30
    assert await queued(valkey) == sorted(f"provision:s{number}:1-0a1b2c3d:2" for number in range(30))


async def test_a_job_is_due_at_once(valkey: ArqRedis, store: Store, clock: Clock):
    """The new job waits for nothing."""
    await put(store, WAITS_FOR_POD)
    clock.advance(STALLED_SECONDS)
    await sweep(store)
    ((_, due),) = await valkey.zrange(keys.QUEUE, 0, -1, withscores=True)
    assert due <= clock.now * 1000


async def test_an_unreadable_record(valkey: ArqRedis, store: Store, clock: Clock):
    """One record that cannot be read keeps none of the others from being found, and is left as it is."""
    for sandbox_id in ("a", "b", "c"):
        await put(store, record_of(sandbox_id))
    await valkey.set("sandbox:b", b"{}")
    clock.advance(STALLED_SECONDS)
    assert await sweep(store) == 2
    assert await queued(valkey) == ["provision:a:1-0a1b2c3d:2", "provision:c:1-0a1b2c3d:2"]
    assert await valkey.get("sandbox:b") == b"{}"


async def test_what_never_moves_is_tried_less_often(valkey: ArqRedis, store: Store, clock: Clock):
    """A record that many jobs did not move gets another one still, but every few minutes only."""
    await put(store, record_of(ID, attempt=20))
    clock.advance(239)
    assert await sweep(store) == 0
    clock.advance(1)
    assert await sweep(store) == 1
    assert await queued(valkey) == ["provision:abc:1-0a1b2c3d:21"]


@pytest.fixture
async def away(away_url: str, clock: Clock) -> AsyncIterator[Store]:
    """Of a Redis that is away."""
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as redis:
        yield Store(redis, clock)


async def test_redis_away(away: Store):
    """A sweep that cannot read says so."""
    with pytest.raises(StoreUnavailable):
        await sweep(away)


async def test_what_was_never_ready_in_its_time_has_failed(valkey: ArqRedis, store: Store, clock: Clock):
    """It keeps the cause that was last known, and a job removes what was made."""
    stuck = replace(with_reason(made(), Reason.UNSCHEDULABLE, "no room"), deadline=clock.now + 300)
    await put(store, stuck)
    clock.advance(299)
    assert await sweep(store) == 0
    clock.advance(1)
    assert await sweep(store) == 0, "nobody has looked since: it may be ready by now"
    await valkey.set("synced:default", f"{clock.now} epoch")
    assert await sweep(store) == 1
    after = await read(store, ID)
    assert (after.status, after.reason, after.deadline) == (Status.FAILED, Reason.UNSCHEDULABLE, clock.now + RETENTION)
    assert "no room" in after.message
    assert await queued(valkey) == ["terminate:abc:1-0a1b2c3d:2"]


async def test_what_failed_long_ago_is_removed(valkey: ArqRedis, store: Store, clock: Clock):
    """A failed sandbox can be read for its retention; then its record is ended like any other."""
    await put(store, failed(made(), Reason.CRASH_LOOP, "exit code 3", deadline=clock.now + RETENTION))
    clock.advance(RETENTION)
    assert await sweep(store) == 1
    assert (await read(store, ID)).status is Status.TERMINATING
    assert await queued(valkey) == ["terminate:abc:1-0a1b2c3d:2"]
