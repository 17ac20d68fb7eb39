"""What stays of a sandbox when its record has gone."""

import pytest
from redis.asyncio import Redis

from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Spec
from shared.sandbox.transitions import expired, failed, new_incarnation, terminating
from shared.store.store import Store
from shared.store.tombstone import Tombstone
from shared.store.update import Update
from shared.store.update_script import TOMBSTONE_SECONDS
from tests.conftest import Clock, created

pytestmark = pytest.mark.anyio

KEY = "sandbox:abc:tombstone"


async def make(store: Store) -> Sandbox:
    outcome = await store.create_or_update("abc", created("abc", store.now()))
    assert outcome.record is not None
    return outcome.record


async def put(store: Store, record: Sandbox | None) -> None:
    await store.create_or_update("abc", lambda _: Update(record))


async def test_when_and_why(store: Store, redis: Redis, clock: Clock):
    """It tells when its time was over, not when its record went, and which time that was; for ten minutes."""
    record = await make(store)
    clock.advance(5)
    expired_at = clock.now
    await put(store, expired(record, ExpiryCause.LIFETIME, expired_at))
    assert await store.tombstone("abc") is None
    clock.advance(9)
    await put(store, None)
    assert await store.tombstone("abc") == Tombstone(record.incarnation, expired_at, ExpiryCause.LIFETIME)
    assert TOMBSTONE_SECONDS == 600
    assert TOMBSTONE_SECONDS - 60 < await redis.ttl(KEY) <= TOMBSTONE_SECONDS


@pytest.mark.parametrize("end", [terminating, lambda r: failed(r, Reason.POD_LOST, "gone")], ids=["deleted", "failed"])
async def test_of_the_life_only(store: Store, redis: Redis, end):
    """Of what was deleted, or failed, it is known which life it was: a Pod of it that turns up is nobody's."""
    assert await store.tombstone("abc") is None
    gone = end(await make(store))
    await put(store, gone)
    await put(store, None)
    assert await store.tombstone("abc") == Tombstone(gone.incarnation)
    assert await redis.ttl(KEY) > 0


async def test_a_new_sandbox_has_none(store: Store):
    """An id that begins anew is not told of what was before."""
    await put(store, expired(await make(store), ExpiryCause.IDLE, store.now()))
    await put(store, None)
    await make(store)
    assert await store.tombstone("abc") is None


async def test_the_next_life_of_what_is_going_leaves_none(store: Store):
    """It began while the last one's Pod was still going, and was deleted: that is what is told."""
    record = await make(store)
    await put(store, expired(record, ExpiryCause.IDLE, store.now()))
    following = new_incarnation(record, Spec(), now=store.now())
    await put(store, following)
    await put(store, None)
    assert await store.tombstone("abc") == Tombstone(following.incarnation)
