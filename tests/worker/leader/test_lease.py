import asyncio
from collections.abc import AsyncIterator

import pytest
from arq.connections import ArqRedis

from shared.errors import PreconditionFailed, StoreUnavailable
from shared.redis.connection import FAIL_FAST, connect
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import StartValkey
from tests.support.records import record_of, settings_of
from tests.worker.conftest import SECONDS, eventually, put, read
from worker.leader.lease import LEASE_SECONDS, RENEW_SECONDS, RETRY_SECONDS, Lease, LeaseLost

pytestmark = pytest.mark.anyio

NAME = "leader:default"


def lease(redis: ArqRedis) -> Lease:
    return Lease(redis, NAME)


async def held(redis: ArqRedis) -> Lease:
    """One that is ours."""
    ours = lease(redis)
    async with asyncio.timeout(SECONDS):
        await ours.acquire()
    return ours


async def is_refused(other: Lease) -> bool:
    """Whether it still waits after it has asked."""
    try:
        async with asyncio.timeout(RETRY_SECONDS / 2):
            await other.acquire()
    except TimeoutError:
        return True
    return False


async def test_one_holder(valkey: ArqRedis):
    """While one holds it, another waits."""
    await held(valkey)
    assert await is_refused(lease(valkey))


async def test_given_back(valkey: ArqRedis):
    """What was given back is another's at once."""
    await (await held(valkey)).release()
    assert not await is_refused(lease(valkey))


async def test_a_dead_holder_does_not_keep_it(valkey: ArqRedis):
    """It ends by itself, so early that another worker has taken over within the ten seconds design.md promises."""
    await held(valkey)
    assert 0 < await valkey.pttl(NAME) <= LEASE_SECONDS * 1000
    assert LEASE_SECONDS + RETRY_SECONDS < 10


async def test_taken_over_when_it_has_ended(valkey: ArqRedis):
    """Who waits gets it soon after its end."""
    await held(valkey)
    waiting = asyncio.create_task(lease(valkey).acquire())
    await valkey.pexpire(NAME, 10)
    async with asyncio.timeout(RETRY_SECONDS * 3):
        await waiting


async def test_renewed(valkey: ArqRedis):
    """While its holder lives it does not end."""
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
async def test_lost(valkey: ArqRedis, taken: bool):
    """Whoever renews a lease that is not theirs any more is told so, and does not take it back."""
    ours = await held(valkey)
    await valkey.delete(NAME)
    if taken:
        await held(valkey)
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(SECONDS):
            await ours.renew_forever()
    assert bool(await valkey.exists(NAME)) is taken


async def test_giving_back_what_is_anothers(valkey: ArqRedis):
    """A former holder that gives back takes nothing from its successor."""
    ours = await held(valkey)
    await valkey.delete(NAME)
    await held(valkey)
    await ours.release()
    assert await is_refused(lease(valkey))


async def test_giving_back_what_was_never_held(valkey: ArqRedis):
    """A worker that stops while it waits takes nothing from the holder."""
    await held(valkey)
    await lease(valkey).release()
    assert await is_refused(lease(valkey))


async def test_the_former_holder_writes_nothing(valkey: ArqRedis, store: Store):
    """A holder that was frozen, and replaced meanwhile, is refused in the very step that would write."""
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
    """A client of a Redis that is away."""
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as redis:
        yield redis


async def test_waiting_for_redis(away: ArqRedis):
    """Redis being away is no reason to stop waiting."""
    assert await is_refused(lease(away))


async def test_redis_goes_and_comes_back(start_valkey: StartValkey):
    """Its holder learns within its next renewal that Redis is away, may give back all the same, and can wait anew."""
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
