import asyncio
import re
import time
from collections.abc import Awaitable
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from api.state.sync_gate import SyncGate
from shared.errors import NotSynced, PreconditionFailed, StoreUnavailable
from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import ALIVE_SECONDS, HEARTBEAT_SECONDS
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store.store import Store
from tests.conftest import HELD, Clock, created, observe

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> Clock:
    """Of now, as Redis has it; what is to be long ago is said first, by a clock that is put back."""
    return Clock(time.time())


@pytest.fixture
def vitals(redis: Redis, clock: Clock) -> ClusterSync:
    return ClusterSync(redis, clock, "default")


async def test_observed(redis: Redis, vitals: ClusterSync, clock: Clock):
    """The time of the last comparison is kept, for ever, and for each cluster by itself."""
    assert await vitals.synced_at() is None
    assert not await vitals.has_synced()
    await observe(redis, vitals)
    clock.advance(1.5)
    await observe(redis, vitals)
    assert await vitals.synced_at() == pytest.approx(clock.now, abs=0.001)
    assert await vitals.has_synced()
    assert await redis.ttl("synced:default") == -1
    assert not await ClusterSync(redis, clock, "another").has_synced()


@pytest.mark.parametrize("holder", ["another's", None])
async def test_observed_by_a_former_leader(redis: Redis, vitals: ClusterSync, holder: str | None):
    """Who has lost the lease may not say that the records are complete."""
    if holder:
        await redis.set(HELD.key, holder)
    with pytest.raises(PreconditionFailed):
        await vitals.mark_synced(HELD)
    assert not await vitals.has_synced()


async def test_workers_are_known_by_their_beat(vitals: ClusterSync, clock: Clock):
    """A worker lives as long as it says so; one that fell silent is not counted on, one that left is gone at once."""
    for name, seconds_ago in (("silent", ALIVE_SECONDS + 1), ("late", ALIVE_SECONDS / 2), ("new", 0), ("left", 0)):
        clock.advance(-seconds_ago)
        await vitals.beat(name)
        clock.advance(seconds_ago)
    await vitals.remove("left")
    assert await vitals.alive() == ["late", "new"]
    await vitals.beat("silent")
    assert sorted(await vitals.alive()) == ["late", "new", "silent"]


def test_a_beat_that_is_late_kills_nobody():
    """Two beats may be lost."""
    assert ALIVE_SECONDS >= 3 * HEARTBEAT_SECONDS


async def test_the_dead_are_taken_off(redis: Redis, vitals: ClusterSync, clock: Clock):
    """However many workers there have been, those of long ago are not kept."""
    clock.advance(-FRESH_SECONDS - 1)
    for number in range(5):
        await vitals.beat(f"old:{number}")
    clock.advance(FRESH_SECONDS + 1)
    await vitals.beat("new:1")
    assert await redis.zcard("workers") == 1


@pytest.mark.parametrize(
    ("names", "alive"),
    [
        (["alive"], True),
        (["dead"], False),
        (["dead", "alive"], True),
        (["arq's own"], True),
        (["dead", "arq's own"], True),
    ],
)
async def test_is_any_alive(vitals: ClusterSync, clock: Clock, names: list[str], alive: bool):
    """One that lives is enough; who never said that it lives is believed to, and who fell silent is not."""
    clock.advance(-ALIVE_SECONDS - 1)
    await vitals.beat("dead")
    clock.advance(ALIVE_SECONDS + 1)
    await vitals.beat("alive")
    assert await vitals.any_alive(names) is alive


# What is missing


async def test_nothing_is_missing(redis: Redis, vitals: ClusterSync, clock: Clock):
    """A worker that lives, and a cluster that was observed within a minute: that is all."""
    clock.advance(-FRESH_SECONDS / 2)
    await observe(redis, vitals)
    clock.advance(FRESH_SECONDS / 2)
    await vitals.beat("a:1")
    assert await vitals.missing() == []


async def test_all_is_missing(vitals: ClusterSync):
    """Each thing that is wanting is a sentence: what it is, and what to do."""
    no_worker, never_observed = await vitals.missing()
    assert "No worker" in no_worker
    assert "python -m worker" in no_worker
    assert "default" in never_observed
    assert "never" in never_observed


async def test_one_thing_is_missing(redis: Redis, vitals: ClusterSync, clock: Clock):
    """A cluster that was last observed long ago is named, with how long; a worker that fell silent is wanting."""
    clock.advance(-FRESH_SECONDS - 10)
    await observe(redis, vitals)
    clock.advance(FRESH_SECONDS + 10)
    await vitals.beat("a:1")
    (stale,) = await vitals.missing()
    assert re.search(r"default was last observed (69|7\d) s ago", stale)
    await observe(redis, vitals)
    await vitals.remove("a:1")
    (no_worker,) = await vitals.missing()
    assert "No worker" in no_worker


# Whether it can be believed that there is no record


async def test_a_new_redis_is_believed(vitals: ClusterSync):
    """Where nothing ever was, nothing was lost."""
    sync_gate = SyncGate(vitals)
    assert await sync_gate.is_open()
    await sync_gate.require()


async def test_an_emptied_redis_is_not_believed(redis: Redis, vitals: ClusterSync):
    """Who has seen the records complete, and then sees that they are not, believes in none that is missing, until a
    worker has said anew that they are."""
    sync_gate = SyncGate(vitals)
    await observe(redis, vitals)
    await sync_gate.require()
    await redis.flushall()
    assert not await sync_gate.is_open()
    for _ in range(2):
        with pytest.raises(NotSynced) as refused:
            await sync_gate.require()
        assert refused.value.headers["Retry-After"] == "1"
    await observe(redis, vitals)
    await sync_gate.require()


async def test_who_comes_after_it_was_emptied(redis: Redis, vitals: ClusterSync):
    """A process that began after that knows by the workers, who live and have not observed anything, that Redis may
    not be new."""
    sync_gate = SyncGate(vitals)
    await vitals.beat("a:1")
    with pytest.raises(NotSynced):
        await sync_gate.require()
    await observe(redis, vitals)
    await sync_gate.require()


async def test_settled_before_it_was_emptied(redis: Redis, vitals: ClusterSync):
    """Whoever has settled while the records were complete knows from then on that there were some."""
    await observe(redis, vitals)
    sync_gate = SyncGate(vitals)
    await sync_gate.wait_for_workers()
    await redis.flushall()
    with pytest.raises(NotSynced):
        await sync_gate.require()


async def test_a_step_that_needs_it(redis: Redis, vitals: ClusterSync, clock: Clock):
    """It is taken while records are complete, and in a Redis that is new; never in one that was emptied, though that
    came about as late as could be."""
    store, sync_gate = Store(redis, clock), SyncGate(vitals)

    async def make(sandbox_id: str) -> bool:
        return (await sync_gate.needed(partial(store.change, sandbox_id, created(sandbox_id, clock())))).written

    assert await make("first")
    await observe(redis, vitals)
    assert await make("second")
    await redis.flushall()
    with pytest.raises(NotSynced):
        await make("third")
    assert await store.all() == []


async def test_settling(vitals: ClusterSync):
    """It takes until the first worker is heard of, which says that the records may not be complete yet."""
    sync_gate = SyncGate(vitals)
    settling = asyncio.create_task(sync_gate.wait_for_workers())
    await vitals.beat("a:1")
    async with asyncio.timeout(HEARTBEAT_SECONDS):
        await settling
    assert not await sync_gate.is_open()


async def test_away(clock: Clock, away_url: str):
    """While Redis is away, whatever is asked says so, and nothing is taken for missing."""
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        vitals = ClusterSync(redis, clock, "default")
        asked: list[Awaitable[Any]] = [
            *(vitals.mark_synced(HELD), vitals.synced_at(), vitals.has_synced(), vitals.beat("a"), vitals.remove("a")),
            *(vitals.alive(), vitals.any_alive(["a"]), vitals.missing(), SyncGate(vitals).require()),
        ]
        errors = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailable] * len(asked)
