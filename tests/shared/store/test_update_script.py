"""The update script: what it gets as JSON and as bytes reaches Redis unchanged, from fake Redis and Valkey alike."""

import pytest
from hypothesis import HealthCheck, example, given, settings
from msgspec.structs import replace
from redis.asyncio import Redis

from shared.queue.job import Job, JobKind
from shared.sandbox.history import entry
from shared.sandbox.record import Reason
from shared.sandbox.transitions import next_attempt, touched, with_reason
from shared.store import keys
from shared.store.indexes import Selection
from shared.store.limits import Limit
from shared.store.pagination import START
from shared.store.store import Store
from shared.store.tombstone import Tombstone
from shared.store.update import Precondition, Update
from tests.conftest import Clock
from tests.support.records import record_of
from tests.support.redis_contents import contents_of
from tests.support.store import create, remove, updated
from tests.support.texts import HARD_TEXT, TEXTS

pytestmark = pytest.mark.anyio

on_one_redis = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])

MICROSECONDS = [1_750_000_000.123457, 1_750_000_000.999999, 1_750_000_000.000001, 1_750_000_000.1 + 0.2]


@pytest.mark.parametrize("now", MICROSECONDS)
async def test_scores_keep_microseconds(store: Store, redis: Redis, clock: Clock, now: float):
    clock.now = now
    record = await create(store)
    for index in (keys.CREATED, keys.STATUS + "Pending", keys.USER + "ada", keys.LIVE + "ada"):
        assert await redis.zscore(index, "abc") == now
    assert await redis.zscore(keys.DEADLINE, "abc") == record.due_at
    assert await store.get("abc") == record


async def test_records_one_microsecond_apart_are_listed_in_order(store: Store, clock: Clock):
    ids = ["c", "a", "b"]
    for position, sandbox_id in enumerate(ids):
        clock.now = 1_750_000_000 + position / 1_000_000
        await create(store, sandbox_id)
    assert [record.id for record in await store.all()] == ids
    listed, after = [], START
    for _ in ids:
        page = await store.page(Selection(), after, 1)
        listed += [record.id for record in page.records]
        assert page.next is not None
        after = page.next
    assert listed == ids


@pytest.mark.parametrize("now", MICROSECONDS)
async def test_job_is_due_at_its_millisecond(store: Store, redis: Redis, clock: Clock, now: float):
    clock.now = now
    record = await create(store)
    job = Job.of(JobKind.TERMINATE, record, now + 0.0015)
    await store.update("abc", lambda r: Update(next_attempt(r), (job,)))
    assert await redis.zscore(keys.QUEUE, job.id) == int((now + 0.0015) * 1000)


async def test_job_payload_that_is_not_utf8_is_stored_unchanged(store: Store, redis: Redis, clock: Clock):
    job = Job.of(JobKind.PROVISION, await create(store))
    payload = await redis.get(keys.JOB + job.id)
    with pytest.raises(UnicodeDecodeError):
        payload.decode()
    assert payload == job.payload(clock.now)


@on_one_redis
@given(TEXTS, TEXTS, TEXTS)
@example("", "", "")
@example(HARD_TEXT, HARD_TEXT, HARD_TEXT)
async def test_any_text_is_stored_unchanged(redis: Redis, store: Store, sandbox_id: str, user_id: str, message: str):
    """As id, as user, whose name is part of the indexes that a limit counts, and as message in record and history."""
    await redis.flushall()
    limits = (Limit("MAX_SANDBOXES_PER_USER", 1, (keys.LIVE + user_id,)),)
    record = record_of(sandbox_id, now=store.now(), spec={"user_id": user_id, "thread_id": message})
    job = Job.of(JobKind.PROVISION, record)
    assert (await store.create_or_update(sandbox_id, lambda _: Update(record, (job,), limits))).written
    assert await redis.zrange(keys.LIVE + user_id, 0, -1) == [sandbox_id.encode()]
    assert await redis.zrange(keys.QUEUE, 0, -1) == [job.id.encode()]
    assert await redis.get(keys.JOB + job.id) == job.payload(store.now())
    explained = await updated(store, lambda r: with_reason(r, Reason.QUOTA_EXCEEDED, message), sandbox_id)
    assert explained == replace(record, revision=2, reason=Reason.QUOTA_EXCEEDED, message=message)
    assert await store.get(sandbox_id) == explained
    lease = Precondition("lease", message)
    await redis.set(*lease)
    event = entry(store.now(), message, "Warning", message, message)
    for _ in range(2):
        await store.append_history(sandbox_id, [event], lease)
    assert [(e.reason, e.message) for e in (await store.history(sandbox_id))[1:]] == [
        (Reason.QUOTA_EXCEEDED, message),
        (message, message),
    ]
    await remove(store, sandbox_id)
    assert await store.tombstone(sandbox_id) == Tombstone(record.incarnation)
    assert await store.all() == []


async def test_update_without_limits_history_and_jobs_writes_the_record_only(store: Store, redis: Redis, clock: Clock):
    record = await create(store)
    contents = await contents_of(redis)
    clock.advance(1)
    used = await updated(store, lambda r: Update(touched(r, clock.now), silent=True))
    assert used != record
    assert await contents_of(redis) == {**contents, "sandbox:abc": used}
