"""Updates of one record. Each of the store's three methods writes the same, and differs in what it reads first."""

from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from shared.queue.job import CREATE_PRIORITY_SECONDS, Job, JobKind
from shared.sandbox.history import PROVISIONER, entry
from shared.sandbox.record import Reason, Sandbox
from shared.sandbox.transitions import failed, new_incarnation, next_attempt, terminating, touched, with_reason
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Mutate, MutateOrCreate, Update, UpdateResult
from tests.conftest import Clock, created
from tests.support.redis_contents import contents_of, expected_contents, record_contents_of
from tests.support.store import create, remove, updated

pytestmark = pytest.mark.anyio

Write = Callable[[Store, Sandbox, Mutate], Awaitable[UpdateResult]]


def if_exists(mutate: Mutate) -> MutateOrCreate:
    return lambda current: None if current is None else mutate(current)


WRITES: dict[str, Write] = {
    "update": lambda store, record, mutate: store.update(record.id, mutate),
    "update of an incarnation": lambda store, record, mutate: store.update(
        record.id, mutate, incarnation=record.incarnation
    ),
    "update_cached": lambda store, record, mutate: store.update_cached(record, mutate),
    "create_or_update": lambda store, record, mutate: store.create_or_update(record.id, if_exists(mutate)),
}
each_write = pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())


def leave(_: Sandbox) -> None:
    """Leave the record as it is."""


class Recorded:
    """Mutate function that keeps the record of each call in `calls`."""

    def __init__(self, mutate: Mutate) -> None:
        self.calls: list[Sandbox] = []
        self._mutate = mutate

    def __call__(self, current: Sandbox) -> Sandbox | Update | None:
        self.calls.append(current)
        return self._mutate(current)


# What an update writes


async def test_create_writes_record_history_indexes_and_job(store: Store, redis: Redis, clock: Clock):
    record = await create(store)
    job = Job.of(JobKind.PROVISION, record)
    assert await contents_of(redis) == {
        **expected_contents([record]),
        "sandbox:abc:history": [entry(clock.now, PROVISIONER, "Normal", "Accepted", "Accepted as generation 1.")],
        keys.QUEUE: {job.id: (clock.now - CREATE_PRIORITY_SECONDS) * 1000},
        keys.JOB + job.id: job.payload(clock.now),
    }


@each_write
@pytest.mark.parametrize("wrap", [lambda record: record, Update], ids=["Sandbox", "Update"])
async def test_changed_record_is_written_whole_counted_and_dated(
    store: Store, redis: Redis, clock: Clock, write: Write, wrap: Callable[[Sandbox], Sandbox | Update]
):
    record = await create(store)
    clock.advance(3.125)
    result = await write(store, record, lambda r: wrap(with_reason(r, Reason.QUOTA_EXCEEDED, "full – wait")))
    assert result.written
    assert result.record == replace(
        record, revision=2, updated_at=clock.now, reason=Reason.QUOTA_EXCEEDED, message="full – wait"
    )
    assert await record_contents_of(redis) == expected_contents([result.record])


async def test_revision_counts_the_writes_of_one_incarnation(store: Store):
    await create(store)
    revisions = []
    for mutate in (next_attempt, terminating, lambda r: new_incarnation(r, r.spec, now=store.now()), next_attempt):
        record = await updated(store, mutate)
        revisions.append((record.generation, record.revision))
    assert revisions == [(1, 2), (1, 3), (2, 1), (2, 2)]


async def test_silent_update_keeps_revision_and_date(store: Store, redis: Redis, clock: Clock):
    record = await create(store)
    clock.advance(1)
    now_used = await updated(store, lambda r: Update(touched(r, clock.now), silent=True))
    assert now_used == replace(record, last_used_at=clock.now)
    assert await record_contents_of(redis) == expected_contents([now_used])


async def test_update_with_two_jobs_enqueues_both_due_at_once(store: Store, redis: Redis, clock: Clock):
    record = await create(store)
    clock.advance(5)
    successor = new_incarnation(failed(record, Reason.INVALID, "no"), record.spec, now=clock.now)
    jobs = (Job.of(JobKind.TERMINATE, next_attempt(record)), Job.of(JobKind.PROVISION, successor))
    await store.update("abc", lambda _: Update(successor, jobs))
    contents = await contents_of(redis)
    assert {job.id: contents[keys.JOB + job.id] for job in jobs} == {job.id: job.payload(clock.now) for job in jobs}
    assert {job.id: contents[keys.QUEUE][job.id] for job in jobs} == {
        job.id: (clock.now - early) * 1000 for job, early in zip(jobs, (0, CREATE_PRIORITY_SECONDS), strict=True)
    }
    assert 0 < await redis.pttl(keys.JOB + jobs[0].id) <= 86_400_000


@each_write
async def test_deleted_record_leaves_nothing(store: Store, redis: Redis, write: Write):
    record = await create(store)
    await redis.delete(keys.QUEUE, *await redis.keys(f"{keys.JOB}*"))
    assert await write(store, record, lambda _: Update(None)) == (None, True)
    assert await record_contents_of(redis) == {}


async def test_second_delete_changes_nothing(store: Store, redis: Redis):
    await create(store)
    await remove(store, "abc")
    contents = await contents_of(redis)
    assert (await store.create_or_update("abc", lambda _: Update(None))).record is None
    assert await contents_of(redis) == contents


# What an update leaves


@each_write
@pytest.mark.parametrize("mutate", [leave, lambda record: record, replace], ids=["None", "the record", "an equal one"])
async def test_unchanged_record_writes_nothing(store: Store, redis: Redis, clock: Clock, write: Write, mutate: Mutate):
    """No revision, no date, no history, no job, and no message to those that watch or work."""
    record = await create(store)
    clock.advance(1)
    contents = await contents_of(redis)
    async with redis.pubsub() as subscription:
        await subscription.subscribe(keys.CHANGES, keys.WAKEUP_CHANNEL)
        assert await write(store, record, mutate) == (record, False)
        await redis.publish(keys.CHANGES, "end")
        messages = [await subscription.get_message(timeout=10) for _ in range(3)]
    assert [message and message["data"] for message in messages] == [1, 2, b"end"]
    assert await contents_of(redis) == contents


async def test_mutate_of_a_missing_record_is_not_called(store: Store, redis: Redis):
    mutate = Recorded(next_attempt)
    assert await store.update("abc", mutate) == (None, False)
    assert await store.update("abc", mutate, incarnation="1-0a1b2c3d") == (None, False)
    assert mutate.calls == []
    assert await redis.keys() == []


async def test_create_or_update_that_declines_to_create_writes_nothing(store: Store, redis: Redis):
    assert await store.create_or_update("abc", lambda _: None) == (None, False)
    assert await redis.keys() == []


async def test_update_of_another_incarnation_leaves_the_record(store: Store, redis: Redis):
    record = await create(store)
    contents = await contents_of(redis)
    mutate = Recorded(next_attempt)
    successor = new_incarnation(record, record.spec, now=store.now())
    for incarnation in (successor.incarnation, "", record.token):
        assert await store.update("abc", mutate, incarnation=incarnation) == (record, False)
    assert mutate.calls == []
    assert await contents_of(redis) == contents


# Which record an update is based on


async def test_update_cached_of_the_current_record_calls_mutate_once(store: Store):
    await create(store)
    record = await updated(store, next_attempt)
    mutate = Recorded(next_attempt)
    assert (await store.update_cached(record, mutate)).written
    assert mutate.calls == [record]


async def test_update_cached_of_a_stale_record_is_based_on_the_current_one(store: Store, redis: Redis, clock: Clock):
    stale = await create(store)
    current = await updated(store, next_attempt)
    clock.advance(1)
    mutate = Recorded(next_attempt)
    result = await store.update_cached(stale, mutate)
    assert result.written
    assert result.record == replace(stale, attempt=3, revision=3, updated_at=clock.now)
    assert mutate.calls == [stale, current]
    assert await record_contents_of(redis) == expected_contents([result.record])


@pytest.mark.parametrize("unchanged", [lambda _: None, lambda record: record], ids=["None", "the record"])
async def test_update_cached_that_leaves_a_stale_record_is_asked_again(store: Store, unchanged: Mutate):
    stale = await create(store)
    await updated(store, next_attempt)
    result = await store.update_cached(stale, lambda r: next_attempt(r) if r.attempt > 1 else unchanged(r))
    assert result.written
    assert result.record is not None
    assert (result.record.attempt, result.record.revision) == (3, 3)


@pytest.mark.parametrize("mutate", [next_attempt, leave])
async def test_update_cached_of_another_incarnation_leaves_the_record(store: Store, redis: Redis, mutate: Mutate):
    """The function is called with the cached record only, never with the successor's."""
    previous = await create(store)
    current = await updated(store, lambda r: new_incarnation(r, r.spec, now=store.now()))
    contents = await contents_of(redis)
    recorded = Recorded(mutate)
    assert await store.update_cached(previous, recorded) == (current, False)
    assert recorded.calls == [previous]
    assert await contents_of(redis) == contents


async def test_update_cached_of_a_deleted_record_writes_nothing(store: Store, redis: Redis):
    record = await create(store)
    await remove(store, "abc")
    contents = await contents_of(redis)
    assert await store.update_cached(record, next_attempt) == (None, False)
    assert await contents_of(redis) == contents


async def test_create_or_update_of_an_existing_record_updates_it(store: Store, redis: Redis, clock: Clock):
    record = await create(store)
    current = await updated(store, next_attempt)
    clock.advance(1)
    calls: list[Sandbox | None] = []

    def mutate(found: Sandbox | None) -> Sandbox | Update | None:
        calls.append(found)
        return created("abc", 0.0)(None) if found is None else next_attempt(found)

    result = await store.create_or_update("abc", mutate)
    assert result.written
    assert result.record == replace(record, attempt=3, revision=3, updated_at=clock.now)
    assert calls == [None, current]
    assert await record_contents_of(redis) == expected_contents([result.record])


async def test_create_or_update_that_declines_to_create_is_asked_again(store: Store, clock: Clock):
    await store.create_or_update("abc", created("abc", clock.now))
    result = await store.create_or_update("abc", if_exists(lambda record: Update(next_attempt(record))))
    assert result.written
