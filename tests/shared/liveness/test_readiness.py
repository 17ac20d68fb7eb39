"""Readiness of the whole system: each missing part is a sentence that says what to do."""

import pytest
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.liveness import readiness
from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import ALIVE_SECONDS, WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from tests.conftest import Clock, observe

pytestmark = pytest.mark.anyio


async def sync_earlier(redis: Redis, sync: ClusterSync, clock: Clock, seconds_ago: float) -> None:
    clock.advance(-seconds_ago)
    await observe(redis, sync)
    clock.advance(seconds_ago)


async def test_nothing_is_missing_with_a_worker_and_a_fresh_sync(
    redis: Redis, workers: WorkerRegistry, sync: ClusterSync, clock: Clock
):
    await sync_earlier(redis, sync, clock, FRESH_SECONDS / 2)
    await workers.beat("a:1")
    assert await readiness.missing(workers, sync, clock()) == []


async def test_empty_redis_misses_worker_and_sync(workers: WorkerRegistry, sync: ClusterSync, clock: Clock):
    no_worker, not_synced = await readiness.missing(workers, sync, clock())
    assert "No worker is running" in no_worker
    assert "python -m worker" in no_worker
    assert "has synced cluster default yet" in not_synced
    assert "workers' log" in not_synced


async def test_stale_sync_is_named_with_its_age(redis: Redis, workers: WorkerRegistry, sync: ClusterSync, clock: Clock):
    await sync_earlier(redis, sync, clock, FRESH_SECONDS + 10)
    await workers.beat("a:1")
    (stale,) = await readiness.missing(workers, sync, clock())
    assert "last sync of cluster default was 70 s ago" in stale


@pytest.mark.parametrize("end", ["removed", "silent"])
async def test_worker_that_left_or_fell_silent_is_missing(
    redis: Redis, workers: WorkerRegistry, sync: ClusterSync, clock: Clock, end: str
):
    await observe(redis, sync)
    clock.advance(-ALIVE_SECONDS - 1)
    await workers.beat("a:1")
    clock.advance(ALIVE_SECONDS + 1)
    if end == "removed":
        await workers.beat("a:1")
        await workers.remove("a:1")
    (no_worker,) = await readiness.missing(workers, sync, clock())
    assert "No worker" in no_worker


async def test_readiness_raises_if_redis_is_down(clock: Clock, away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        with pytest.raises(StoreUnavailable):
            await readiness.missing(WorkerRegistry(redis, clock), ClusterSync(redis, clock, "default"), clock())
