"""Redis' time, as a process makes it out from what Redis says in passing."""

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
    """Redis says what time it is, and that takes so long to arrive."""
    said = host() + ahead
    host.advance(late)
    clock.synchronize(said)


def test_before_anything_was_heard(clock: RedisClock, host: Clock):
    assert clock() == host()


def test_the_least_delayed_counts(clock: RedisClock, host: Clock):
    """One that took long makes nothing worse, and one that took less makes it better."""
    synchronize(clock, host, late=0.1)
    assert clock() == pytest.approx(host() + AHEAD - 0.1)
    synchronize(clock, host, late=0.01)
    assert clock() == pytest.approx(host() + AHEAD - 0.01)
    synchronize(clock, host, late=0.5)
    assert clock() == pytest.approx(host() + AHEAD - 0.01)


def test_clocks_that_go_apart(clock: RedisClock, host: Clock):
    """It follows, in both directions, though each answer is late by some."""
    for drift in (0.0005, -0.0005):
        ahead = AHEAD
        for _ in range(1000):
            host.advance(2)
            ahead += 2 * drift
            synchronize(clock, host, late=0.002, ahead=ahead)
            assert clock() == pytest.approx(host() + ahead, abs=0.02)


@pytest.mark.parametrize("step", [3600.0, -3600.0, -(STEP_SECONDS + 0.1), 0.5])
def test_somebody_sets_a_clock(clock: RedisClock, host: Clock, step: float):
    """The next thing that is heard counts."""
    synchronize(clock, host)
    synchronize(clock, host, ahead=AHEAD + step)
    assert clock() == pytest.approx(host() + AHEAD + step)


def test_somebody_sets_a_clock_a_little(clock: RedisClock, host: Clock):
    """That cannot be told from an answer that is late, but for some seconds."""
    synchronize(clock, host)
    for _ in range(21):
        synchronize(clock, host, ahead=AHEAD - 0.9)
        host.advance(1)
    assert clock() == pytest.approx(host() + AHEAD - 0.9)


def test_after_a_long_silence(clock: RedisClock, host: Clock):
    """What was heard long ago counts no more."""
    synchronize(clock, host)
    host.advance(3600)
    synchronize(clock, host, ahead=AHEAD - 0.5)
    assert clock() == pytest.approx(host() + AHEAD - 0.5)


def test_an_answer_that_is_very_late(clock: RedisClock, host: Clock):
    """It is taken for a clock that was set, until the next one."""
    synchronize(clock, host)
    synchronize(clock, host, late=3.0)
    synchronize(clock, host, late=0.01)
    assert clock() == pytest.approx(host() + AHEAD, abs=0.02)
