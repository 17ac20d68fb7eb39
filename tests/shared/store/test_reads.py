"""Reads: one record, all of them, those that are due, and who works on one."""

import msgspec
import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from shared.errors import RecordUnreadable
from shared.queue.job import Job, JobKind
from shared.sandbox.record import STALLED_SECONDS, Sandbox
from shared.sandbox.transitions import ProvisionedObjects, new_incarnation, next_attempt, provisioned
from shared.store import keys
from shared.store.indexes import Selection
from shared.store.pagination import START
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import Clock, created
from tests.support.store import create, updated

pytestmark = pytest.mark.anyio

OBJECTS = ProvisionedObjects("p", "u", "service", "http://h")


async def test_get_returns_the_written_record_or_none(store: Store):
    record = await create(store)
    assert await store.get("abc") == record
    assert await store.get("abd") is None


async def test_all_returns_more_records_than_one_read_oldest_first(store: Store, clock: Clock):
    ids = [f"s{(number * 7919) % 1201:04}" for number in range(1201)]
    for sandbox_id in ids:
        clock.advance(0.25)
        await store.create_or_update(sandbox_id, created(sandbox_id, clock.now))
    assert [record.id for record in await store.all()] == ids


async def test_all_of_an_empty_redis_is_empty(store: Store):
    assert await store.all() == []


async def due_ids(store: Store, limit: int = 10) -> list[str]:
    return [record.id for record in await store.due(limit) if record]


async def test_due_returns_stalled_records_longest_overdue_first(store: Store, clock: Clock):
    for sandbox_id in ("a", "b", "c"):
        await create(store, sandbox_id)
        clock.advance(1)
    clock.advance(STALLED_SECONDS - 3)
    assert await due_ids(store) == ["a"]
    clock.advance(1)
    assert await due_ids(store) == ["a", "b"]
    assert await due_ids(store, 1) == ["a"]
    await updated(store, next_attempt, "a")
    assert await due_ids(store) == ["b"]
    await updated(store, lambda r: provisioned(r, OBJECTS, now=clock.now), "b")
    assert await due_ids(store) == []


async def test_provisioned_record_is_due_when_it_expires(store: Store, clock: Clock):
    await create(store)
    await updated(store, lambda r: replace(provisioned(r, OBJECTS, now=clock.now), idle_timeout=60.0))
    clock.advance(59)
    assert await due_ids(store) == []
    clock.advance(1)
    assert await due_ids(store) == ["abc"]


async def test_provisioning_workers_are_those_of_any_attempt_of_this_incarnation(store: Store, redis: Redis):
    record = replace(await create(store), attempt=3)
    assert await store.provisioning_workers(record) == set()
    stranger = new_incarnation(record, record.spec, now=store.now())
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, stranger).id, "a")
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.TERMINATE, record).id, "b")
    assert await store.provisioning_workers(record) == set()
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, replace(record, attempt=2)).id, "c")
    await redis.set(keys.IN_PROGRESS + Job.of(JobKind.PROVISION, record).id, "d")
    assert await store.provisioning_workers(record) == {"c", "d"}


# Records that this version cannot read

UNREADABLE = [b'{"id":"\xff"}', b"[" * 3000, b"{", b"[]", b'{"id":"abc"}', b"\xff\xfe", b'{"id":1}']


def next_or_new(current: Sandbox | None) -> Sandbox | Update | None:
    return next_attempt(current) if current else created("abc", 0.0)(None)


@pytest.mark.parametrize("raw", UNREADABLE)
async def test_unreadable_record_is_reported_and_not_overwritten(store: Store, redis: Redis, raw: bytes):
    record = await create(store)
    await redis.set("sandbox:abc", raw)
    for call in (
        store.get("abc"),
        store.update("abc", next_attempt),
        store.update_cached(record, next_attempt),
        store.create_or_update("abc", next_or_new),
    ):
        with pytest.raises(RecordUnreadable) as refused:
            await call
        assert "no record of this version" in refused.value.detail
    assert await redis.get("sandbox:abc") == raw


@pytest.mark.parametrize("raw", UNREADABLE)
async def test_unreadable_record_hides_no_other(store: Store, redis: Redis, clock: Clock, raw: bytes):
    for sandbox_id in ("a", "abc", "b"):
        await create(store, sandbox_id)
        clock.advance(1)
    await redis.set("sandbox:abc", raw)
    assert [record.id for record in await store.all()] == ["a", "b"]
    page = await store.page(Selection(), START, 10)
    assert [record.id for record in page.records] == ["a", "b"]


async def test_record_of_a_later_version_is_read_without_its_new_fields(store: Store, redis: Redis):
    record = await create(store)
    later = {**msgspec.to_builtins(record), "a_newer_field": [1], "reason": "NewerReason"}
    await redis.set("sandbox:abc", msgspec.json.encode(later))
    known = replace(record, reason="NewerReason")
    assert await store.get("abc") == known
    assert (await store.update_cached(known, next_attempt)).written
