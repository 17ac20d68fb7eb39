"""The registry of workers: a worker is alive while its heartbeats come."""

import asyncio

import pytest
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.liveness.workers import ALIVE_SECONDS, FORGET_SECONDS, HEARTBEAT_SECONDS, WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store import keys
from tests.conftest import Clock

pytestmark = pytest.mark.anyio


async def beat(workers: WorkerRegistry, clock: Clock, name: str, *, seconds_ago: float) -> None:
    clock.advance(-seconds_ago)
    await workers.beat(name)
    clock.advance(seconds_ago)


async def test_worker_is_alive_while_its_heartbeat_is_recent(workers: WorkerRegistry, clock: Clock):
    """A silent worker is not, and a removed one neither. A silent worker that beats again is alive again."""
    for name, seconds_ago in (("silent", ALIVE_SECONDS + 1), ("late", ALIVE_SECONDS / 2), ("new", 0), ("left", 0)):
        await beat(workers, clock, name, seconds_ago=seconds_ago)
    await workers.remove("left")
    assert await workers.alive() == ["late", "new"]
    await workers.beat("silent")
    assert sorted(await workers.alive()) == ["late", "new", "silent"]


async def test_empty_registry_has_no_alive_worker(workers: WorkerRegistry):
    assert await workers.alive() == []


def test_worker_stays_alive_if_two_heartbeats_are_lost():
    assert ALIVE_SECONDS >= 3 * HEARTBEAT_SECONDS


async def test_heartbeat_removes_workers_silent_for_long(redis: Redis, workers: WorkerRegistry, clock: Clock):
    for number in range(5):
        await beat(workers, clock, f"old:{number}", seconds_ago=FORGET_SECONDS + 1)
    await beat(workers, clock, "silent:1", seconds_ago=FORGET_SECONDS - 1)
    await workers.beat("new:1")
    assert await redis.zrange(keys.WORKERS, 0, -1) == [b"silent:1", b"new:1"]


@pytest.mark.parametrize(
    ("names", "alive"),
    [
        (["alive"], True),
        (["dead"], False),
        (["dead", "alive"], True),
        (["unknown"], False),
        (["dead", "unknown"], False),
        (["unknown", "alive"], True),
    ],
)
async def test_any_alive_needs_one_recent_heartbeat(
    workers: WorkerRegistry, clock: Clock, names: list[str], alive: bool
):
    """A worker that is not registered is dead: each worker registers before it fetches jobs."""
    await beat(workers, clock, "dead", seconds_ago=ALIVE_SECONDS + 1)
    await workers.beat("alive")
    assert await workers.any_alive(names) is alive


async def test_any_registered_counts_silent_workers_until_they_are_removed(workers: WorkerRegistry, clock: Clock):
    assert not await workers.any_registered()
    await beat(workers, clock, "silent", seconds_ago=ALIVE_SECONDS + 1)
    assert await workers.any_registered()
    await workers.remove("silent")
    assert not await workers.any_registered()


async def test_each_method_raises_if_redis_is_down(clock: Clock, away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        workers = WorkerRegistry(redis, clock)
        calls = [workers.beat("a"), workers.remove("a"), workers.alive(), workers.any_alive(["a"])]
        results = await asyncio.gather(*calls, workers.any_registered(), return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 5
