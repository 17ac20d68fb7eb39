"""Preconditions: an update is refused whole unless a key of Redis holds the expected value."""

import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from shared.errors import PreconditionFailed
from shared.sandbox.transitions import next_attempt
from shared.store.store import Store
from shared.store.update import SYNCED, Precondition, Update
from tests.conftest import Clock, created
from tests.support.redis_contents import contents_of
from tests.support.store import create

pytestmark = pytest.mark.anyio

LEASE = Precondition("lease", "mine")


async def test_held_lease_allows_each_update(store: Store, redis: Redis):
    await redis.set(*LEASE)
    result = await store.create_or_update("abc", created("abc", store.now()), precondition=LEASE)
    assert result.written
    assert await store.get("abc") == result.record
    assert (await store.update("abc", next_attempt, precondition=LEASE)).written
    assert result.record is not None
    assert (await store.update_cached(result.record, next_attempt, precondition=LEASE)).written


@pytest.mark.parametrize("holder", ["another's", None])
async def test_lost_lease_refuses_record_indexes_and_job(store: Store, redis: Redis, holder: str | None):
    if holder:
        await redis.set("lease", holder)
    record = await create(store)
    contents = await contents_of(redis)
    for update in (
        store.create_or_update("abc", lambda _: Update(None), precondition=LEASE),
        store.create_or_update("abd", created("abd", store.now()), precondition=LEASE),
        store.update("abc", next_attempt, precondition=LEASE),
        store.update_cached(record, next_attempt, precondition=LEASE),
    ):
        with pytest.raises(PreconditionFailed):
            await update
    assert await contents_of(redis) == contents


async def test_synced_precondition_requires_a_mark(store: Store, redis: Redis):
    precondition = Precondition("mark", SYNCED)
    with pytest.raises(PreconditionFailed):
        await store.create_or_update("abc", created("abc", store.now()), precondition=precondition)
    assert await store.get("abc") is None
    await redis.set("mark", '{"synced_at": "1", "dataset_id": "d", "run_id": ""}')
    assert (await store.create_or_update("abc", created("abc", store.now()), precondition=precondition)).written


async def test_synced_precondition_refuses_a_mark_of_another_server(valkey: ArqRedis, clock: Clock):
    """The mark came with a restored data set. fakeredis has no INFO, and cannot tell servers apart."""
    store = Store(valkey, clock)
    precondition = Precondition("mark", SYNCED)
    info = await valkey.info("server")
    for run_id, is_accepted in (("f" * 40, False), (info["run_id"], True)):
        await valkey.set("mark", f'{{"synced_at": "1", "dataset_id": "d", "run_id": "{run_id}"}}')
        if is_accepted:
            assert (await store.create_or_update("abc", created("abc", clock.now), precondition=precondition)).written
            continue
        with pytest.raises(PreconditionFailed):
            await store.create_or_update("abc", created("abc", clock.now), precondition=precondition)


async def test_lost_lease_does_not_matter_if_mutate_leaves_the_record(store: Store):
    record = await create(store)
    assert await store.create_or_update("abc", lambda _: None, precondition=LEASE) == (record, False)
    assert await store.update("abc", lambda _: None, precondition=LEASE) == (record, False)
    assert await store.update_cached(record, lambda _: None, precondition=LEASE) == (record, False)
