"""Races: several processes write one record, and no write is lost."""

import asyncio

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from shared.queue.job import Job, JobKind
from shared.sandbox.transitions import new_incarnation, next_attempt
from shared.store import keys
from shared.store.store import Store
from tests.conftest import Clock, Connect, created
from tests.support.races import Overtaken
from tests.support.redis_contents import expected_contents, record_contents_of
from tests.support.store import create, remove, updated

pytestmark = pytest.mark.anyio


async def test_overtaken_update_is_applied_to_the_new_record(
    store: Store, redis: Redis, open_redis: Connect, clock: Clock
):
    record = await create(store)

    async def write_url() -> None:
        async with open_redis() as other:
            await updated(Store(other, clock), lambda r: replace(r, url="http://h:1"))

    mutate = Overtaken(lambda r: next_attempt(r) if r else None, write_url)
    result = await store.update("abc", mutate)
    assert result.written
    assert result.record == replace(record, url="http://h:1", attempt=2, revision=3)
    assert [(r.url, r.revision) for r in mutate.calls if r] == [("", 1), ("http://h:1", 2)]
    assert await record_contents_of(redis) == expected_contents([result.record])


@pytest.mark.parametrize("method", ["update", "update_cached"])
async def test_update_overtaken_by_another_incarnation_leaves_it(
    store: Store, redis: Redis, open_redis: Connect, clock: Clock, method: str
):
    record = await create(store)
    successor = new_incarnation(record, record.spec, now=clock.now)

    async def replace_incarnation() -> None:
        async with open_redis() as other:
            await updated(Store(other, clock), lambda _: successor)

    mutate = Overtaken(lambda r: next_attempt(r) if r else None, replace_incarnation)
    if method == "update":
        result = await store.update("abc", mutate, incarnation=record.incarnation)
    else:
        result = await store.update_cached(record, mutate)
    assert result == (successor, False)
    assert mutate.calls == [record]
    assert await record_contents_of(redis) == expected_contents([successor])


async def test_overtaken_create_returns_the_record_of_the_other(
    store: Store, redis: Redis, open_redis: Connect, clock: Clock
):
    async def create_as_bob() -> None:
        async with open_redis() as other:
            await create(Store(other, clock), user_id="bob")

    mutate = Overtaken(created("abc", clock.now), create_as_bob)
    result = await store.create_or_update("abc", mutate)
    assert not result.written
    assert result.record is not None
    assert result.record.spec.user_id == "bob"
    assert mutate.calls == [None, result.record]
    assert await redis.zcard(keys.QUEUE) == 1


@pytest.mark.parametrize("method", ["update", "create_or_update"])
async def test_update_overtaken_by_a_delete_does_not_restore_the_record(
    store: Store, redis: Redis, open_redis: Connect, clock: Clock, method: str
):
    await create(store)

    async def delete() -> None:
        async with open_redis() as other:
            await remove(Store(other, clock), "abc")

    mutate = Overtaken(lambda r: next_attempt(r) if r else None, delete)
    result = await (store.update("abc", mutate) if method == "update" else store.create_or_update("abc", mutate))
    assert result == (None, False)
    assert await record_contents_of(redis) == {}


async def test_fifty_concurrent_creates_make_one_record_and_one_job(open_redis: Connect, redis: Redis, clock: Clock):
    async with open_redis() as one, open_redis() as two, open_redis() as three:
        stores = [Store(client, clock) for client in (one, two, three)]
        results = await asyncio.gather(
            *(stores[n % 3].create_or_update("abc", created("abc", clock.now)) for n in range(50))
        )
    record = await Store(redis, clock).get("abc")
    assert record is not None
    assert [result.record for result in results] == [record] * 50
    assert sum(result.written for result in results) == 1
    assert await redis.keys(f"{keys.JOB}*") == [f"{keys.JOB}{Job.of(JobKind.PROVISION, record).id}".encode()]


@pytest.mark.parametrize("is_cached", [False, True], ids=["update", "update_cached"])
async def test_concurrent_updates_are_all_written(open_redis: Connect, clock: Clock, is_cached: bool):
    async with open_redis() as redis:
        store = Store(redis, clock)
        stale = await create(store)
        await asyncio.gather(
            *(
                store.update_cached(stale, next_attempt) if is_cached else store.update("abc", next_attempt)
                for _ in range(25)
            )
        )
        record = await store.get("abc")
        assert record is not None
        assert (record.attempt, record.revision) == (26, 26)
