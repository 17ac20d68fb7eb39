"""When a sandbox' time is over: the pure part, held by properties."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.errors import InvalidRequest
from shared.sandbox import transitions
from shared.sandbox.expiry import NEVER_EXPIRES, ExpiryPolicy, check_expiry, expiry_policy
from shared.sandbox.record import Expiry, ExpiryCause, Reason, Sandbox, Spec, Status
from shared.settings import Settings, read_settings

NOW = 1_750_000_000.0
SECONDS = st.integers(0, 10**6).map(float)
TIMES = SECONDS.map(lambda seconds: NOW + seconds)
KEEPS = st.just(0.0) | SECONDS
TERMS = st.builds(ExpiryPolicy, SECONDS, st.just(0.0) | SECONDS)


def born(expiry_policy: ExpiryPolicy = NEVER_EXPIRES, now: float = NOW) -> Sandbox:
    return transitions.new_record("abc", Spec(), cluster="default", now=now, policy=expiry_policy)


class Case(NamedTuple):
    why: str
    record: Sandbox
    expiry: Expiry | None


IDLE, LIFETIME = ExpiryCause.IDLE, ExpiryCause.LIFETIME
BOTH = born(ExpiryPolicy(100, 300))
CASES = [
    Case("for ever", born(), None),
    Case("unused", born(ExpiryPolicy(idle_timeout=100)), Expiry(NOW + 100, IDLE)),
    Case("a lifetime only", born(ExpiryPolicy(lifetime=300)), Expiry(NOW + 300, LIFETIME)),
    Case("the earlier of both", BOTH, Expiry(NOW + 100, IDLE)),
    Case("used", transitions.touched(BOTH, NOW + 50), Expiry(NOW + 150, IDLE)),
    Case("used late", transitions.touched(BOTH, NOW + 250), Expiry(NOW + 300, LIFETIME)),
    Case("kept", transitions.touched(BOTH, NOW + 50, keep_seconds=200), Expiry(NOW + 250, IDLE)),
    Case(
        "kept for less than it has anyway", transitions.touched(BOTH, NOW + 50, keep_seconds=5), Expiry(NOW + 150, IDLE)
    ),
    Case("kept beyond its lifetime", transitions.touched(BOTH, NOW, keep_seconds=10**6), Expiry(NOW + 300, LIFETIME)),
    Case("kept, and nothing to be kept from", transitions.touched(born(), NOW, keep_seconds=9), None),
    Case("of equal times, the idle one", born(ExpiryPolicy(100, 100)), Expiry(NOW + 100, IDLE)),
    Case("runs", replace(BOTH, status=Status.RUNNING), Expiry(NOW + 100, IDLE)),
    Case("not seen", replace(BOTH, status=Status.UNKNOWN), Expiry(NOW + 100, IDLE)),
    Case("over", transitions.failed(BOTH, Reason.POD_LOST, "gone"), None),
    Case("being deleted", transitions.terminating(BOTH), None),
    Case("expired", transitions.expired(BOTH, IDLE, NOW + 100), None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.why)
def test_expiry(case: Case):
    """Whichever of its times comes first, as long as it has a Pod or waits for one."""
    assert case.record.expiry == case.expiry


@given(TERMS, TIMES, KEEPS, TIMES, KEEPS)
def test_a_use_never_brings_the_end_nearer(
    kept: ExpiryPolicy, first: float, keep: float, then: float, keep_then: float
):
    """However the times of two uses are ordered, and whatever each asked for."""
    before = transitions.touched(born(kept), first, keep_seconds=keep)
    after = transitions.touched(before, then, keep_seconds=keep_then)
    assert (before.expiry is None) is (after.expiry is None)
    if before.expiry and after.expiry:
        assert after.expiry.at >= before.expiry.at


@given(TERMS, st.lists(st.tuples(TIMES, SECONDS), max_size=8))
def test_the_lifetime_wins(kept: ExpiryPolicy, uses: list[tuple[float, float]]):
    """No use, and no keeping, takes a sandbox beyond its lifetime."""
    record = born(kept)
    for at, keep in uses:
        record = transitions.touched(record, at, keep_seconds=keep)
    if kept.lifetime:
        assert record.expiry is not None
        assert record.expiry.at <= record.created_at + kept.lifetime
    assert (record.created_at, record.lifetime) == (NOW, kept.lifetime)


@given(TERMS, st.lists(st.tuples(st.integers(0, 10**6), SECONDS, st.integers(-5000, 5000)), max_size=8), SECONDS)
def test_a_clock_that_jumps(kept: ExpiryPolicy, uses: list[tuple[int, float, int]], born_off: float):
    """Read from a clock that is off by at most `d` whenever it is asked, the end is off by at most `d`."""
    true, read = born(kept), born(kept, NOW + born_off)
    for seconds, keep, off in uses:
        true = transitions.touched(true, NOW + seconds, keep_seconds=keep)
        read = transitions.touched(read, NOW + seconds + off, keep_seconds=keep)
    d = max([born_off, *(abs(off) for _, _, off in uses)])
    assert (true.expiry is None) is (read.expiry is None)
    if true.expiry and read.expiry:
        assert abs(true.expiry.at - read.expiry.at) <= d


@given(TERMS, TIMES, SECONDS)
def test_asking_puts_only_the_idle_end_off(kept: ExpiryPolicy, deadline: float, keep: float):
    """While a sandbox is asked whether it is busy nobody else looks, but at the end of its lifetime."""
    record = transitions.probing(
        replace(transitions.touched(born(kept), NOW, keep_seconds=keep), service_uid="s"), deadline
    )
    if record.expiry is None:
        assert record.due_at is None
    elif record.expiry.by is LIFETIME:
        assert record.due_at == record.expiry.at
    else:
        ends_at = record.created_at + record.lifetime if record.lifetime else deadline
        assert record.due_at == max(record.expiry.at, min(deadline, ends_at))


def test_expired():
    """It is being ended, says since when and why, and its job may begin later."""
    record = transitions.expired(
        replace(BOTH, status=Status.RUNNING, ready=True), LIFETIME, NOW + 300, deadline=NOW + 500
    )
    assert (record.status, record.ready, record.is_active) == (Status.TERMINATING, False, False)
    assert (record.expired_at, record.expired_by) == (NOW + 300, "lifetime")
    assert record.due_at == NOW + 500


def test_the_next_life_has_all_its_time():
    """What ended the last one, and how it was kept, is forgotten."""
    last = transitions.expired(transitions.touched(BOTH, NOW, keep_seconds=500), IDLE, NOW + 500)
    following = transitions.new_incarnation(last, Spec(), now=NOW + 600, policy=ExpiryPolicy(50, 0))
    assert following.expiry == Expiry(NOW + 650, IDLE)
    assert (following.expired_at, following.expired_by, following.keep_alive_until) == (None, "", 0.0)


# What may be chosen

USUAL = {"SANDBOX_IDLE_TIMEOUT_SECONDS": "100", "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS": "1000"}
LIMITED = {**USUAL, "SANDBOX_MAX_LIFETIME_SECONDS": "5000"}
UNLIMITED = dict.fromkeys(LIMITED, "0")


def settings(**environment: str) -> Settings:
    return read_settings(environment)


@pytest.mark.parametrize(
    ("environment", "spec", "expected"),
    [
        (LIMITED, Spec(), ExpiryPolicy(100, 5000)),
        (LIMITED, Spec(idle_timeout_seconds=7), ExpiryPolicy(7, 5000)),
        (LIMITED, Spec(idle_timeout_seconds=1000, lifetime_seconds=5000), ExpiryPolicy(1000, 5000)),
        (LIMITED, Spec(lifetime_seconds=1), ExpiryPolicy(100, 1)),
        (UNLIMITED, Spec(), ExpiryPolicy(0, 0)),
        (UNLIMITED, Spec(idle_timeout_seconds=10**7, lifetime_seconds=10**7), ExpiryPolicy(10**7, 10**7)),
        ({}, Spec(), ExpiryPolicy(14400, 86400)),
    ],
)
def test_terms(environment: dict[str, str], spec: Spec, expected: ExpiryPolicy):
    """The caller's, or else the settings'; 0 in the settings: none, and any may be asked for."""
    check_expiry(spec, settings(**environment))
    assert expiry_policy(spec, settings(**environment)) == expected


@pytest.mark.parametrize(
    ("spec", "field", "setting"),
    [
        (Spec(idle_timeout_seconds=1001), "idle_timeout_seconds", "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS"),
        (Spec(lifetime_seconds=5001), "lifetime_seconds", "SANDBOX_MAX_LIFETIME_SECONDS"),
    ],
)
def test_too_much(spec: Spec, field: str, setting: str):
    """More than is allowed is refused; who asked is told the field, the limit, and what sets it."""
    with pytest.raises(InvalidRequest) as refused:
        check_expiry(spec, settings(**LIMITED))
    assert refused.value.extra == {"field": field}
    assert setting in refused.value.detail
