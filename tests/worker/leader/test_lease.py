import asyncio
from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis

from shared.errors import PreconditionFailed, StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.redis.connection import FAIL_FAST, connect
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import StartValkey
from tests.support.records import record_of, settings_of
from tests.worker.conftest import SECONDS, eventually, put, read
from worker.leader.lease import LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, DatasetChanged, Lease, LeaseLost

pytestmark = pytest.mark.anyio

NAME = "leader:default"


def lease(redis: ArqRedis) -> Lease:
    return Lease(redis, "default")


async def held(redis: ArqRedis) -> Lease:
    """Return a lease that is held."""
    ours = lease(redis)
    async with asyncio.timeout(SECONDS):
        await ours.acquire()
    return ours


async def is_refused(other: Lease) -> bool:
    """Return True if the lease still waits after it has asked."""
    try:
        async with asyncio.timeout(RETRY_SECONDS / 2):
            await other.acquire()
    except TimeoutError:
        return True
    return False


async def test_acquire_lease_held_waits(valkey: ArqRedis):
    await held(valkey)
    assert await is_refused(lease(valkey))


async def test_release_lets_the_next_acquire_at_once(valkey: ArqRedis):
    await (await held(valkey)).release()
    assert not await is_refused(lease(valkey))


async def test_lease_of_dead_holder_expires_within_the_promised_ten_seconds(valkey: ArqRedis):
    await held(valkey)
    assert 0 < await valkey.pttl(NAME) <= LEASE_SECONDS * 1000
    assert LEASE_SECONDS + RETRY_SECONDS < 10


async def test_acquire_succeeds_soon_after_the_lease_expired(valkey: ArqRedis):
    await held(valkey)
    waiting = asyncio.create_task(lease(valkey).acquire())
    await valkey.pexpire(NAME, 10)
    async with asyncio.timeout(RETRY_SECONDS * 3):
        await waiting


async def test_lease_is_renewed_while_its_holder_lives(valkey: ArqRedis):
    ours = await held(valkey)
    keeping = asyncio.create_task(ours.renew_forever())
    await valkey.pexpire(NAME, int(RENEW_SECONDS * 1000) + 500)

    async def extended() -> bool:
        return bool(await valkey.pttl(NAME) > LEASE_SECONDS * 500)

    await eventually(extended, "the lease is renewed")
    assert not keeping.done()
    keeping.cancel()
    await asyncio.wait([keeping])


@pytest.mark.parametrize("taken", [True, False], ids=["another holds it", "redis forgot it"])
async def test_renew_lease_of_another_raises_lease_lost_and_does_not_take_it(valkey: ArqRedis, taken: bool):
    ours = await held(valkey)
    await valkey.delete(NAME)
    if taken:
        await held(valkey)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(SECONDS):
            await ours.renew_forever()
    assert bool(await valkey.exists(NAME)) is taken


async def test_release_by_former_holder_leaves_the_lease_to_its_successor(valkey: ArqRedis):
    ours = await held(valkey)
    await valkey.delete(NAME)
    await held(valkey)
    await ours.release()
    assert await is_refused(lease(valkey))


async def test_release_by_a_waiting_worker_leaves_the_lease_to_its_holder(valkey: ArqRedis):
    await held(valkey)
    await lease(valkey).release()
    assert await is_refused(lease(valkey))


async def test_update_by_former_holder_fails_its_precondition(valkey: ArqRedis, store: Store):
    """A holder that was frozen, and replaced meanwhile, is refused in the step that writes."""
    record = await put(store, record_of())
    ours = await held(valkey)
    assert (await store.create_or_update(record.id, lambda _: None, precondition=ours.precondition)).record == record
    await valkey.delete(NAME)
    theirs = await held(valkey)
    with pytest.raises(PreconditionFailed):
        await put_guarded(store, ours, "from the past")
    await put_guarded(store, theirs, "from now")
    assert (await read(store, record.id)).message == "from now"


async def put_guarded(store: Store, by: Lease, message: str) -> None:
    record = record_of(message=message)
    await store.create_or_update(record.id, lambda _: Update(record), precondition=by.precondition)


@pytest.fixture
async def away(away_url: str) -> AsyncIterator[ArqRedis]:
    """Return a client of a Redis that does not answer."""
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as redis:
        yield redis


async def test_acquire_redis_unavailable_goes_on_waiting(away: ArqRedis):
    assert await is_refused(lease(away))


async def test_renew_redis_gone_raises_and_lease_can_be_released_and_acquired_again(start_valkey: StartValkey):
    """The holder learns of it at its next renewal."""
    server = start_valkey()
    async with connect(settings_of(REDIS_URL=server.url), FAIL_FAST) as redis:
        ours = await held(redis)
        server.stop()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(SECONDS):
                await ours.renew_forever()
        await ours.release()
        waiting = asyncio.create_task(lease(redis).acquire())
        server.start()
        async with asyncio.timeout(SECONDS):
            await waiting


# Redis restarted, or went back in time


async def test_renew_redis_restarted_raises_dataset_changed(start_valkey: StartValkey):
    """With its data or without: the last writes may be lost."""
    server = start_valkey()
    async with connect(settings_of(REDIS_URL=server.url), FAIL_FAST) as redis:
        holder = await held(redis)
        await holder.renew()
        server.stop()
        server.start()
        with pytest.raises(DatasetChanged):
            await holder.renew()


async def test_renew_after_step_back_raises_dataset_changed_and_removes_the_synced_mark(
    valkey: ArqRedis, sync: ClusterSync
):
    """The server is the same: somebody restored keys in place. Only the count of renewals tells."""
    holder = await held(valkey)
    await holder.renew()
    snapshot = await valkey.get("leader:default:renewals")
    assert snapshot is not None
    await holder.renew()
    assert await sync.has_synced()
    await valkey.set("leader:default:renewals", snapshot)
    with pytest.raises(DatasetChanged):
        await holder.renew()
    assert not await sync.has_synced()


async def test_renew_after_redis_was_emptied_keeps_the_synced_mark_of_the_next_leader(valkey: ArqRedis):
    """The next leader has compared records and cluster since. Without its mark the API would answer 503."""
    former = await held(valkey)
    await former.renew()
    await former.renew()
    await valkey.flushall()
    successor = await held(valkey)
    await successor.renew()
    store = Store(valkey)
    await store.set_clock()
    sync = ClusterSync(valkey, store.now, "default")
    await sync.mark_synced(successor.precondition)
    with pytest.raises(DatasetChanged):
        await former.renew()
    assert await sync.has_synced()


async def test_renew_takes_over_the_count_of_earlier_holders(valkey: ArqRedis):
    first = await held(valkey)
    await first.renew()
    await first.release()
    second = await held(valkey)
    await second.renew()
    await second.renew()
    assert await valkey.get("leader:default:renewals") == b"3"
