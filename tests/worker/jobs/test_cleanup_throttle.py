"""Slots of clean-ups, reserved by several workers."""

import asyncio
import itertools

import pytest
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.redis.connection import FAIL_FAST, connect
from tests.conftest import Clock
from tests.support.records import settings_of
from worker.jobs.cleanup_throttle import CLEANUPS_PER_SECOND, CleanupThrottle

pytestmark = pytest.mark.anyio

INTERVAL = 1 / CLEANUPS_PER_SECOND


@pytest.fixture
def throttle(redis: Redis, clock: Clock) -> CleanupThrottle:
    return CleanupThrottle(redis, clock)


async def test_reserve_returns_slots_at_the_rate_behind_earlier_ones(throttle: CleanupThrottle, clock: Clock):
    assert await throttle.reserve(3) == pytest.approx(
        [clock.now, clock.now + INTERVAL, clock.now + 2 * INTERVAL], abs=1e-5
    )
    assert await throttle.reserve(1) == pytest.approx([clock.now + 3 * INTERVAL], abs=1e-5)


async def test_reserve_of_no_slots_takes_none(throttle: CleanupThrottle, clock: Clock):
    assert await throttle.reserve(0) == []
    assert await throttle.reserve(1) == pytest.approx([clock.now], abs=1e-5)


async def test_reserve_after_all_slots_have_passed_starts_now(throttle: CleanupThrottle, clock: Clock):
    await throttle.reserve(100)
    clock.advance(100 * INTERVAL + 5)
    assert await throttle.reserve(1) == pytest.approx([clock.now], abs=1e-5)


@pytest.mark.parametrize("back", [1, 60, 7200, 10**6])
async def test_reserve_after_clock_was_set_back_keeps_the_distance(
    throttle: CleanupThrottle, clock: Clock, back: float
):
    """Ten thousand slots take 200 s, however far the clock jumped."""
    await throttle.reserve(10_000)
    clock.advance(-back)
    assert await throttle.reserve(1) == pytest.approx([clock.now + 200], abs=1e-5)
    clock.advance(150)
    assert await throttle.reserve(1) == pytest.approx([clock.now + 50 + INTERVAL], abs=1e-5)


async def test_reserve_by_several_workers_at_once_gives_each_slot_once(redis: Redis, clock: Clock):
    slots = await asyncio.gather(*(CleanupThrottle(redis, clock).reserve(20) for _ in range(10)))
    times = sorted(slot for reserved in slots for slot in reserved)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([INTERVAL] * 199, abs=1e-4)


async def test_reserve_without_redis_raises(away_url: str, clock: Clock):
    async with connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away:
        with pytest.raises(StoreUnavailable):
            await CleanupThrottle(away, clock).reserve(1)
