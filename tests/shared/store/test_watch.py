"""Watching: each write publishes the id of its record."""

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from shared.errors import PreconditionFailed
from shared.sandbox.transitions import next_attempt
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Precondition, Update
from tests.support.eventually import within
from tests.support.store import create

pytestmark = pytest.mark.anyio


async def next_message(subscription: PubSub) -> str:
    async for message in subscription.listen():
        if message["type"] == "message":
            text: str = message["data"].decode()
            return text
    raise AssertionError("the channel was closed")


async def test_each_write_publishes_its_id_and_others_publish_nothing(store: Store, redis: Redis):
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.CHANGES)
        record = await create(store)
        await store.update_cached(record, next_attempt)
        await store.update("abc", lambda _: None)
        with pytest.raises(PreconditionFailed):
            await store.update("abc", next_attempt, precondition=Precondition("lease", "mine"))
        await create(store, "abd")
        await store.update("abc", lambda _: Update(None))
        assert [await within(next_message(subscription)) for _ in range(4)] == ["abc", "abc", "abd", "abc"]


async def test_write_with_jobs_wakes_workers_once_and_others_do_not(store: Store, redis: Redis):
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.WAKEUP_CHANNEL)
        await create(store)
        await store.update("abc", next_attempt)
        await redis.publish(keys.WAKEUP_CHANNEL, "end")
        assert [await within(next_message(subscription)) for _ in range(2)] == ["", "end"]


async def test_watch_yields_none_at_the_start_and_then_each_id(store: Store, redis: Redis):
    watch = store.watch()
    assert await within(anext(watch)) is None
    await create(store, "abc")
    await redis.publish(keys.CHANGES, b"\xff")
    await create(store, "\u2028")
    assert [await within(anext(watch)) for _ in range(3)] == ["abc", "\ufffd", "\u2028"]
