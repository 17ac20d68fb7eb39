"""Clean-ups are planned behind each other, by however many sweeps."""

import asyncio
import itertools

import pytest
from redis.asyncio import Redis

from shared.errors import StoreUnavailable
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from tests.conftest import Clock
from worker.jobs.cleanup_throttle import CLEANUPS_PER_SECOND, CleanupThrottle

pytestmark = pytest.mark.anyio

APART = 1 / CLEANUPS_PER_SECOND


@pytest.fixture
def throttle(redis: Redis, clock: Clock) -> CleanupThrottle:
    return CleanupThrottle(redis, clock)


async def test_one_after_the_other(throttle: CleanupThrottle, clock: Clock):
    """The first at once, the others at the rate; the next ones behind them."""
    assert await throttle.reserve(3) == pytest.approx([clock.now, clock.now + APART, clock.now + 2 * APART], abs=1e-5)
    assert await throttle.reserve(1) == pytest.approx([clock.now + 3 * APART], abs=1e-5)


async def test_none(throttle: CleanupThrottle, clock: Clock):
    """Who plans none takes nobody's place."""
    assert await throttle.reserve(0) == []
    assert await throttle.reserve(1) == pytest.approx([clock.now], abs=1e-5)


async def test_afterwards(throttle: CleanupThrottle, clock: Clock):
    """When all that was planned has begun, the next begins at once."""
    await throttle.reserve(100)
    clock.advance(100 * APART + 5)
    assert await throttle.reserve(1) == pytest.approx([clock.now], abs=1e-5)


@pytest.mark.parametrize("back", [1, 60, 7200, 10**6])
async def test_a_clock_that_goes_back(throttle: CleanupThrottle, clock: Clock, back: float):
    """What was planned lies as far ahead as it did, however far the clock jumped: ten thousand take 200 s, and the
    next begins behind them."""
    await throttle.reserve(10_000)
    clock.advance(-back)
    assert await throttle.reserve(1) == pytest.approx([clock.now + 200], abs=1e-5)
    clock.advance(150)
    assert await throttle.reserve(1) == pytest.approx([clock.now + 50 + APART], abs=1e-5)


async def test_several_at_once(redis: Redis, clock: Clock):
    """Workers that plan at once share the places: no two have the same."""
    planned = await asyncio.gather(*(CleanupThrottle(redis, clock).reserve(20) for _ in range(10)))
    times = sorted(at for part in planned for at in part)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([APART] * 199, abs=1e-4)


async def test_redis_away(away_url: str, clock: Clock):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as away:
        with pytest.raises(StoreUnavailable):
            await CleanupThrottle(away, clock).reserve(1)
