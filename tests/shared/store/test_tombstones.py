"""Tombstones: what stays of a sandbox after its record is deleted."""

from collections.abc import Callable

import pytest
from redis.asyncio import Redis

from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Spec
from shared.sandbox.transitions import expired, failed, new_incarnation, terminating
from shared.store.store import Store
from shared.store.tombstone import Tombstone
from shared.store.update_script import TOMBSTONE_SECONDS
from tests.conftest import Clock
from tests.support.store import create, put, remove

pytestmark = pytest.mark.anyio

KEY = "sandbox:abc:tombstone"


async def test_tombstone_of_an_expired_sandbox_has_time_and_cause_for_ten_minutes(
    store: Store, redis: Redis, clock: Clock
):
    """The time is that of the expiry, not of the deletion of the record."""
    record = await create(store)
    clock.advance(5)
    expired_at = clock.now
    await put(store, expired(record, ExpiryCause.LIFETIME, expired_at))
    assert await store.tombstone("abc") is None
    clock.advance(9)
    await remove(store, "abc")
    assert await store.tombstone("abc") == Tombstone(record.incarnation, expired_at, ExpiryCause.LIFETIME)
    assert TOMBSTONE_SECONDS == 600
    assert TOMBSTONE_SECONDS - 60 < await redis.ttl(KEY) <= TOMBSTONE_SECONDS


@pytest.mark.parametrize("end", [terminating, lambda r: failed(r, Reason.POD_LOST, "gone")], ids=["deleted", "failed"])
async def test_tombstone_of_a_deleted_or_failed_sandbox_has_its_incarnation_only(
    store: Store, redis: Redis, end: Callable[[Sandbox], Sandbox]
):
    assert await store.tombstone("abc") is None
    ended = end(await create(store))
    await put(store, ended)
    await remove(store, "abc")
    assert await store.tombstone("abc") == Tombstone(ended.incarnation)
    assert await redis.ttl(KEY) > 0


async def test_new_sandbox_removes_the_tombstone_of_its_id(store: Store):
    await put(store, expired(await create(store), ExpiryCause.IDLE, store.now()))
    await remove(store, "abc")
    await create(store)
    assert await store.tombstone("abc") is None


async def test_tombstone_of_a_successor_does_not_tell_the_expiry_of_its_predecessor(store: Store):
    """The successor began while the expired incarnation's Pod still terminated, and was deleted."""
    record = await create(store)
    await put(store, expired(record, ExpiryCause.IDLE, store.now()))
    successor = new_incarnation(record, Spec(), now=store.now())
    await put(store, successor)
    await remove(store, "abc")
    assert await store.tombstone("abc") == Tombstone(successor.incarnation)
