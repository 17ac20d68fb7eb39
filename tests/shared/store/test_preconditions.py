"""Preconditions: an update is refused whole unless a key of Redis holds the expected value."""

import pytest
from redis.asyncio import Redis

from shared.errors import PreconditionFailed
from shared.sandbox.transitions import next_attempt
from shared.store.store import Store
from shared.store.update import ANY_VALUE, Precondition, Update
from tests.conftest import created
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


async def test_any_value_requires_that_the_key_exists(store: Store, redis: Redis):
    precondition = Precondition("mark", ANY_VALUE)
    with pytest.raises(PreconditionFailed):
        await store.create_or_update("abc", created("abc", store.now()), precondition=precondition)
    assert await store.get("abc") is None
    await redis.set("mark", "some")
    assert (await store.create_or_update("abc", created("abc", store.now()), precondition=precondition)).written


async def test_lost_lease_does_not_matter_if_mutate_leaves_the_record(store: Store):
    record = await create(store)
    assert await store.create_or_update("abc", lambda _: None, precondition=LEASE) == (record, False)
    assert await store.update("abc", lambda _: None, precondition=LEASE) == (record, False)
    assert await store.update_cached(record, lambda _: None, precondition=LEASE) == (record, False)
