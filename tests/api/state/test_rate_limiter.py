"""The rate limiter: one bucket for each key, shared by all processes."""

import asyncio

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from api.state.rate_limiter import RateLimiter
from shared.errors import RateLimited, StoreUnavailable
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from tests.conftest import Clock

pytestmark = pytest.mark.anyio


async def is_allowed(rate_limiter: RateLimiter, key: str = "k") -> bool:
    try:
        await rate_limiter.check(key)
    except RateLimited:
        return False
    return True


async def allowed(rate_limiter: RateLimiter, count: int, key: str = "k") -> int:
    """Count `count` requests at once, and return how many are allowed."""
    return sum(await asyncio.gather(*(is_allowed(rate_limiter, key) for _ in range(count))))


async def test_burst_is_allowed_at_once_and_then_the_rate(redis: Redis, clock: Clock):
    rate_limiter = RateLimiter(redis, clock, per_second=2, burst=5)
    assert await allowed(rate_limiter, 20) == 5
    assert await allowed(rate_limiter, 20) == 0
    clock.advance(1)
    assert await allowed(rate_limiter, 20) == 2
    clock.advance(60)
    assert await allowed(rate_limiter, 20) == 5


async def test_check_after_retry_after_is_allowed(redis: Redis, clock: Clock):
    rate_limiter = RateLimiter(redis, clock, per_second=0.25, burst=1)
    assert await is_allowed(rate_limiter)
    clock.advance(1)
    with pytest.raises(RateLimited) as refused:
        await rate_limiter.check("k")
    assert refused.value.headers == {"Retry-After": "3"}
    clock.advance(3)
    assert await is_allowed(rate_limiter)


async def test_keys_have_separate_buckets_and_are_not_stored(redis: Redis, clock: Clock):
    rate_limiter = RateLimiter(redis, clock, per_second=1, burst=3)
    assert await allowed(rate_limiter, 10, "the-secret") == 3
    assert await allowed(rate_limiter, 10, "another") == 3
    assert not [name for name in await redis.keys() if b"secret" in name or b"another" in name]


async def test_processes_share_one_bucket(redis: Redis, clock: Clock):
    rate_limiters = [RateLimiter(redis, clock, per_second=1, burst=10) for _ in range(4)]
    assert sum(await asyncio.gather(*(allowed(rate_limiter, 25) for rate_limiter in rate_limiters))) == 10


async def test_rate_of_zero_allows_any_number_without_redis(away_url: str, clock: Clock):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as away:
        assert await allowed(RateLimiter(away, clock, per_second=0, burst=1), 50) == 50


async def test_check_without_redis_raises_store_unavailable(away_url: str, clock: Clock):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as away:
        with pytest.raises(StoreUnavailable):
            await RateLimiter(away, clock, per_second=1, burst=1).check("k")


async def test_bucket_expires_a_minute_after_it_is_full(redis: Redis, clock: Clock):
    await is_allowed(RateLimiter(redis, clock, per_second=10, burst=5))
    (name,) = await redis.keys("rate:*")
    assert 30_000 < await redis.pttl(name) <= 61_000  # a minute and a second, minus the time since the request


@settings(deadline=None, max_examples=30)
@given(
    per_second=st.sampled_from([0.5, 1, 4, 50]),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
async def test_any_period_has_at_most_the_burst_and_the_rate(per_second: float, burst: int, gaps: list[float]):
    clock, times = Clock(1_750_000_000.0), []
    async with FakeAsyncRedis() as redis:
        rate_limiter = RateLimiter(redis, clock, per_second, burst)
        for gap in gaps:
            clock.advance(gap)
            if await is_allowed(rate_limiter):
                times.append(clock.now)
    for i, begin in enumerate(times):
        for j in range(i, len(times)):
            assert j - i + 1 <= burst + per_second * (times[j] - begin) + 0.01
