import pytest

from tests.conftest import Clock
from worker.kubernetes.denials import GAP_SECONDS, LASTING_SECONDS, Denials


@pytest.fixture
def denials(clock: Clock) -> Denials:
    return Denials(clock)


def refuse_for(denials: Denials, clock: Clock, seconds: float, kind: str = "create pods") -> bool:
    """Refuse every ten seconds, as a job's tries do; return the last verdict."""
    verdict = denials.refuse(kind)
    for _ in range(int(seconds // 10)):
        clock.advance(10)
        verdict = denials.refuse(kind)
    return verdict


def test_refusals_without_a_break_last_after_a_minute(denials: Denials, clock: Clock):
    assert not refuse_for(denials, clock, LASTING_SECONDS - 10)
    clock.advance(10)
    assert denials.refuse("create pods")


def test_success_ends_the_series(denials: Denials, clock: Clock):
    refuse_for(denials, clock, LASTING_SECONDS)
    denials.accept("create pods")
    assert not denials.refuse("create pods")


def test_two_refusals_far_apart_are_two_series(denials: Denials, clock: Clock):
    """Between them, nothing was asked: the second one may be as short as the first one."""
    denials.refuse("create pods")
    clock.advance(max(LASTING_SECONDS, GAP_SECONDS) + 1)
    assert not denials.refuse("create pods")


def test_kinds_of_calls_are_judged_alone(denials: Denials, clock: Clock):
    refuse_for(denials, clock, LASTING_SECONDS)
    assert not denials.refuse("create services")
    denials.accept("create services")
    assert denials.refuse("create pods")
