"""The synced mark of a cluster: time of the last sync, and id of the data set in Redis."""

import asyncio

import pytest
from redis.asyncio import Redis

from shared.errors import PreconditionFailed, StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store.store import Store
from tests.conftest import HELD, Clock, created, observe

pytestmark = pytest.mark.anyio


async def test_mark_keeps_the_time_of_the_last_sync_without_expiry(redis: Redis, sync: ClusterSync, clock: Clock):
    assert await sync.synced_at() is None
    assert not await sync.has_synced()
    await observe(redis, sync)
    clock.advance(1.5)
    await observe(redis, sync)
    assert await sync.synced_at() == pytest.approx(clock.now, abs=0.001)
    assert await sync.has_synced()
    assert await redis.ttl("synced:default") == -1


async def test_mark_of_one_cluster_is_none_of_another(redis: Redis, sync: ClusterSync, clock: Clock):
    await observe(redis, sync)
    assert not await ClusterSync(redis, clock, "another").has_synced()


@pytest.mark.parametrize("holder", ["another's", None])
async def test_mark_without_the_lease_is_refused(redis: Redis, sync: ClusterSync, holder: str | None):
    if holder:
        await redis.set(HELD.key, holder)
    with pytest.raises(PreconditionFailed):
        await sync.mark_synced(HELD)
    assert not await sync.has_synced()


async def test_dataset_id_stays_until_redis_is_emptied(redis: Redis, sync: ClusterSync):
    assert await sync.dataset_id() is None
    await observe(redis, sync)
    dataset_id = await sync.dataset_id()
    assert dataset_id
    await observe(redis, sync)
    assert await sync.dataset_id() == dataset_id
    await redis.flushall()
    assert await sync.dataset_id() is None
    await observe(redis, sync)
    assert await sync.dataset_id() not in {None, dataset_id}


async def test_precondition_holds_while_the_cluster_is_synced(redis: Redis, sync: ClusterSync, clock: Clock):
    store = Store(redis, clock)
    with pytest.raises(PreconditionFailed):
        await store.create_or_update("abc", created("abc", clock()), precondition=sync.precondition)
    await observe(redis, sync)
    assert (await store.create_or_update("abc", created("abc", clock()), precondition=sync.precondition)).written


async def test_each_method_raises_if_redis_is_down(clock: Clock, away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        sync = ClusterSync(redis, clock, "default")
        calls = [sync.synced_at(), sync.has_synced(), sync.dataset_id()]
        results = await asyncio.gather(sync.mark_synced(HELD), *calls, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 4
