"""How many requests a key may make, whoever counts them."""

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
    """Of so many at once."""
    return sum(await asyncio.gather(*(is_allowed(rate_limiter, key) for _ in range(count))))


async def test_a_burst_and_then_the_rate(redis: Redis, clock: Clock):
    rate_limiter = RateLimiter(redis, clock, per_second=2, burst=5)
    assert await allowed(rate_limiter, 20) == 5
    assert await allowed(rate_limiter, 20) == 0
    clock.advance(1)
    assert await allowed(rate_limiter, 20) == 2
    clock.advance(60)
    assert await allowed(rate_limiter, 20) == 5


async def test_when_to_come_again(redis: Redis, clock: Clock):
    """`Retry-After` is when the next is allowed: whoever waits for so long is."""
    rate_limiter = RateLimiter(redis, clock, per_second=0.25, burst=1)
    assert await is_allowed(rate_limiter)
    clock.advance(1)
    with pytest.raises(RateLimited) as refused:
        await rate_limiter.check("k")
    assert refused.value.headers == {"Retry-After": "3"}
    clock.advance(3)
    assert await is_allowed(rate_limiter)


async def test_each_key_has_its_own(redis: Redis, clock: Clock):
    """And Redis holds none of them."""
    rate_limiter = RateLimiter(redis, clock, per_second=1, burst=3)
    assert await allowed(rate_limiter, 10, "the-secret") == 3
    assert await allowed(rate_limiter, 10, "another") == 3
    assert not [name for name in await redis.keys() if b"secret" in name or b"another" in name]


async def test_one_bucket_for_all_processes(redis: Redis, clock: Clock):
    several = [RateLimiter(redis, clock, per_second=1, burst=10) for _ in range(4)]
    assert sum(await asyncio.gather(*(allowed(rate_limiter, 25) for rate_limiter in several))) == 10


async def test_off(away_url: str, clock: Clock):
    """With 0 any number is allowed, and Redis is not asked."""
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as away:
        assert await allowed(RateLimiter(away, clock, per_second=0, burst=1), 50) == 50


async def test_redis_away(away_url: str, clock: Clock):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as away:
        with pytest.raises(StoreUnavailable):
            await RateLimiter(away, clock, per_second=1, burst=1).check("k")


async def test_a_bucket_goes_a_minute_after_it_is_full_again(redis: Redis, clock: Clock):
    await is_allowed(RateLimiter(redis, clock, per_second=10, burst=5))
    (name,) = await redis.keys("rate:*")
    assert 60_000 < await redis.pttl(name) + 1_000 <= 62_000


@settings(deadline=None, max_examples=30)
@given(
    per_second=st.sampled_from([0.5, 1, 4, 50]),
    burst=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
async def test_never_more_than_said(per_second: float, burst: int, gaps: list[float]):
    """In any stretch of time: the burst, and what the rate gives in it."""
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
