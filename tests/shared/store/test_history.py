"""Histories: each update appends its entries, and the leader appends Events of Kubernetes."""

from functools import partial

import pytest
from redis.asyncio import Redis

from shared.errors import PreconditionFailed
from shared.sandbox.history import MAX_ENTRIES, HistoryEntry, entry
from shared.sandbox.record import Reason
from shared.sandbox.transitions import ProvisionedObjects, new_incarnation, provisioned, terminating, with_reason
from shared.store.store import Store
from shared.store.update import Precondition
from tests.conftest import Clock
from tests.support.redis_contents import contents_of
from tests.support.store import create, remove, updated

pytestmark = pytest.mark.anyio

LEASE = Precondition("lease", "mine")


async def append(store: Store, reason: str, message: str = "a message", sandbox_id: str = "abc") -> HistoryEntry:
    appended = entry(store.now(), "kubelet", "Warning", reason, message)
    await store.append_history(sandbox_id, [appended], LEASE)
    return appended


async def test_each_update_appends_its_entries_newest_last(store: Store, clock: Clock):
    record = await create(store)
    clock.advance(1)
    await updated(store, lambda r: provisioned(r, ProvisionedObjects("p", "u", "s", "http://h"), now=clock.now))
    await store.update("abc", lambda _: None)
    clock.advance(1)
    await updated(store, terminating)
    await updated(store, lambda r: new_incarnation(r, r.spec, now=clock.now))
    assert [(entry.at - record.created_at, entry.reason) for entry in await store.history("abc")] == [
        (0, "Accepted"),
        (1, "Provisioned"),
        (2, "Terminating"),
        (2, "Accepted"),
    ]


async def test_deleted_record_takes_its_history_along(store: Store, redis: Redis):
    await create(store)
    await remove(store, "abc")
    assert await store.history("abc") == []
    assert not await redis.exists("sandbox:abc:history")
    await create(store)
    assert [entry.reason for entry in await store.history("abc")] == ["Accepted"]


async def test_history_of_many_updates_keeps_the_last_entries(store: Store):
    await create(store)
    for number in range(MAX_ENTRIES + 8):
        await updated(store, partial(with_reason, reason=Reason.CLUSTER_UNAVAILABLE, message=f"try {number}"))
    messages = [entry.message for entry in await store.history("abc")]
    assert messages == [f"try {number}" for number in range(8, MAX_ENTRIES + 8)]


async def test_appended_entry_comes_last_and_leaves_the_record(store: Store, redis: Redis, clock: Clock):
    await redis.set(*LEASE)
    record = await create(store)
    clock.advance(1)
    appended = await append(store, "FailedMount")
    assert (await store.history("abc"))[1:] == [appended]
    assert await store.get("abc") == record


async def test_repeated_entry_replaces_the_earlier_one(store: Store, redis: Redis, clock: Clock):
    """An entry that differs in a word is another entry."""
    await redis.set(*LEASE)
    await create(store)
    for reason, message in (("FailedMount", "a"), ("FailedMount", "b"), ("Unhealthy", "a"), ("FailedMount", "a")):
        clock.advance(1)
        await append(store, reason, message)
    (_, *appended) = await store.history("abc")
    assert [(e.reason, e.message) for e in appended] == [("FailedMount", "b"), ("Unhealthy", "a"), ("FailedMount", "a")]
    assert appended[-1].at == clock.now


async def test_no_entries_append_nothing(store: Store, redis: Redis):
    await redis.set(*LEASE)
    await create(store)
    contents = await contents_of(redis)
    await store.append_history("abc", [], LEASE)
    assert await contents_of(redis) == contents


async def test_many_appended_entries_keep_the_last_ones(store: Store, redis: Redis):
    await redis.set(*LEASE)
    await create(store)
    for number in range(MAX_ENTRIES + 8):
        await append(store, "Unhealthy", str(number))
    assert [e.message for e in await store.history("abc")] == [str(number) for number in range(8, MAX_ENTRIES + 8)]


async def test_entry_of_a_missing_record_is_not_appended(store: Store, redis: Redis):
    await redis.set(*LEASE)
    await append(store, "Killing")
    assert await contents_of(redis) == {"lease": b"mine"}


@pytest.mark.parametrize("holder", ["another's", None])
async def test_append_without_the_lease_is_refused(store: Store, redis: Redis, holder: str | None):
    if holder:
        await redis.set("lease", holder)
    await create(store)
    contents = await contents_of(redis)
    with pytest.raises(PreconditionFailed):
        await append(store, "FailedMount")
    assert await contents_of(redis) == contents
