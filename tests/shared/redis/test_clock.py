"""Redis' time, as a process estimates it from samples."""

import pytest

from shared.redis.clock import STEP_SECONDS, RedisClock
from tests.conftest import Clock

START = 1_750_000_000.0
AHEAD = 12.5


@pytest.fixture
def host() -> Clock:
    return Clock(START)


@pytest.fixture
def clock(host: Clock) -> RedisClock:
    return RedisClock(host)


def synchronize(clock: RedisClock, host: Clock, *, late: float = 0.0, ahead: float = AHEAD) -> None:
    """Add a sample of a Redis clock that is `ahead`, with a reply that takes `late` seconds."""
    redis_seconds = host() + ahead
    host.advance(late)
    clock.synchronize(redis_seconds)


def test_clock_without_a_sample_is_the_host_clock(clock: RedisClock, host: Clock):
    assert clock() == host()


def test_sample_with_the_smallest_delay_counts(clock: RedisClock, host: Clock):
    synchronize(clock, host, late=0.1)
    assert clock() == pytest.approx(host() + AHEAD - 0.1)
    synchronize(clock, host, late=0.01)
    assert clock() == pytest.approx(host() + AHEAD - 0.01)
    synchronize(clock, host, late=0.5)
    assert clock() == pytest.approx(host() + AHEAD - 0.01)


def test_clock_follows_drift_in_both_directions(clock: RedisClock, host: Clock):
    for drift in (0.0005, -0.0005):
        ahead = AHEAD
        for _ in range(1000):
            host.advance(2)
            ahead += 2 * drift
            synchronize(clock, host, late=0.002, ahead=ahead)
            assert clock() == pytest.approx(host() + ahead, abs=0.02)


@pytest.mark.parametrize("step", [3600.0, -3600.0, -(STEP_SECONDS + 0.1), 0.5])
def test_large_step_of_a_clock_is_followed_at_the_next_sample(clock: RedisClock, host: Clock, step: float):
    synchronize(clock, host)
    synchronize(clock, host, ahead=AHEAD + step)
    assert clock() == pytest.approx(host() + AHEAD + step)


def test_small_step_back_is_followed_after_two_windows(clock: RedisClock, host: Clock):
    """At first, a small step back looks like a late reply."""
    synchronize(clock, host)
    for _ in range(21):
        synchronize(clock, host, ahead=AHEAD - 0.9)
        host.advance(1)
    assert clock() == pytest.approx(host() + AHEAD - 0.9)


def test_old_sample_does_not_count(clock: RedisClock, host: Clock):
    synchronize(clock, host)
    host.advance(3600)
    synchronize(clock, host, ahead=AHEAD - 0.5)
    assert clock() == pytest.approx(host() + AHEAD - 0.5)


def test_very_late_reply_is_corrected_by_the_next_sample(clock: RedisClock, host: Clock):
    """Until then the late reply looks like a clock that was set back."""
    synchronize(clock, host)
    synchronize(clock, host, late=3.0)
    synchronize(clock, host, late=0.01)
    assert clock() == pytest.approx(host() + AHEAD, abs=0.02)
