"""Expiry of sandboxes: the pure part, tested by properties."""

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
POLICIES = st.builds(ExpiryPolicy, SECONDS, st.just(0.0) | SECONDS)


def new_record(policy: ExpiryPolicy = NEVER_EXPIRES, now: float = NOW) -> Sandbox:
    return transitions.new_record("abc", Spec(), cluster="default", now=now, policy=policy)


class Case(NamedTuple):
    name: str
    record: Sandbox
    expiry: Expiry | None


IDLE, LIFETIME = ExpiryCause.IDLE, ExpiryCause.LIFETIME
BOTH = new_record(ExpiryPolicy(100, 300))
CASES = [
    Case("never", new_record(), None),
    Case("idle timeout", new_record(ExpiryPolicy(idle_timeout=100)), Expiry(NOW + 100, IDLE)),
    Case("lifetime", new_record(ExpiryPolicy(lifetime=300)), Expiry(NOW + 300, LIFETIME)),
    Case("earlier of both", BOTH, Expiry(NOW + 100, IDLE)),
    Case("touched", transitions.touched(BOTH, NOW + 50), Expiry(NOW + 150, IDLE)),
    Case("touched late", transitions.touched(BOTH, NOW + 250), Expiry(NOW + 300, LIFETIME)),
    Case("kept alive", transitions.touched(BOTH, NOW + 50, keep_seconds=200), Expiry(NOW + 250, IDLE)),
    Case(
        "kept alive for less than its idle timeout",
        transitions.touched(BOTH, NOW + 50, keep_seconds=5),
        Expiry(NOW + 150, IDLE),
    ),
    Case(
        "kept alive beyond its lifetime",
        transitions.touched(BOTH, NOW, keep_seconds=10**6),
        Expiry(NOW + 300, LIFETIME),
    ),
    Case("kept alive without an idle timeout", transitions.touched(new_record(), NOW, keep_seconds=9), None),
    Case("idle first at equal times", new_record(ExpiryPolicy(100, 100)), Expiry(NOW + 100, IDLE)),
    Case("running", replace(BOTH, status=Status.RUNNING), Expiry(NOW + 100, IDLE)),
    Case("unknown", replace(BOTH, status=Status.UNKNOWN), Expiry(NOW + 100, IDLE)),
    Case("failed", transitions.failed(BOTH, Reason.POD_LOST, "gone"), None),
    Case("terminating", transitions.terminating(BOTH), None),
    Case("expired", transitions.expired(BOTH, IDLE, NOW + 100), None),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_expiry_is_the_earlier_time_of_an_active_sandbox(case: Case):
    assert case.record.expiry == case.expiry


@given(POLICIES, TIMES, KEEPS, TIMES, KEEPS)
def test_touch_never_brings_the_expiry_nearer(
    policy: ExpiryPolicy, first: float, first_keep: float, second: float, second_keep: float
):
    """The times of two uses can be in any order."""
    before = transitions.touched(new_record(policy), first, keep_seconds=first_keep)
    after = transitions.touched(before, second, keep_seconds=second_keep)
    assert (before.expiry is None) is (after.expiry is None)
    if before.expiry and after.expiry:
        assert after.expiry.at >= before.expiry.at


@given(POLICIES, st.lists(st.tuples(TIMES, SECONDS), max_size=8))
def test_no_use_extends_the_lifetime(policy: ExpiryPolicy, uses: list[tuple[float, float]]):
    record = new_record(policy)
    for time, keep in uses:
        record = transitions.touched(record, time, keep_seconds=keep)
    if policy.lifetime:
        assert record.expiry is not None
        assert record.expiry.at <= record.created_at + policy.lifetime
    assert (record.created_at, record.lifetime) == (NOW, policy.lifetime)


@given(POLICIES, st.lists(st.tuples(st.integers(0, 10**6), SECONDS, st.integers(-5000, 5000)), max_size=8), SECONDS)
def test_expiry_is_off_by_no_more_than_the_clock(
    policy: ExpiryPolicy, uses: list[tuple[int, float, int]], first_skew: float
):
    """With a clock skew of at most `d` at each read, the expiry is off by at most `d`."""
    exact, skewed = new_record(policy), new_record(policy, NOW + first_skew)
    for seconds, keep, skew in uses:
        exact = transitions.touched(exact, NOW + seconds, keep_seconds=keep)
        skewed = transitions.touched(skewed, NOW + seconds + skew, keep_seconds=keep)
    d = max([first_skew, *(abs(skew) for _, _, skew in uses)])
    assert (exact.expiry is None) is (skewed.expiry is None)
    if exact.expiry and skewed.expiry:
        assert abs(exact.expiry.at - skewed.expiry.at) <= d


@given(POLICIES, TIMES, SECONDS)
def test_activity_probe_defers_the_idle_expiry_and_not_the_lifetime(policy: ExpiryPolicy, deadline: float, keep: float):
    record = transitions.probing(
        replace(transitions.touched(new_record(policy), NOW, keep_seconds=keep), service_uid="s"), deadline
    )
    if record.expiry is None:
        assert record.due_at is None
    elif record.expiry.by is LIFETIME:
        assert record.due_at == record.expiry.at
    else:
        ends_at = record.created_at + record.lifetime if record.lifetime else deadline
        assert record.due_at == max(record.expiry.at, min(deadline, ends_at))


def test_expired_record_terminates_with_time_and_cause_and_is_due_at_its_deadline():
    record = transitions.expired(
        replace(BOTH, status=Status.RUNNING, ready=True), LIFETIME, NOW + 300, deadline=NOW + 500
    )
    assert (record.status, record.ready, record.is_active) == (Status.TERMINATING, False, False)
    assert (record.expired_at, record.expired_by) == (NOW + 300, "lifetime")
    assert record.due_at == NOW + 500


def test_next_incarnation_starts_with_a_whole_idle_timeout():
    last = transitions.expired(transitions.touched(BOTH, NOW, keep_seconds=500), IDLE, NOW + 500)
    successor = transitions.new_incarnation(last, Spec(), now=NOW + 600, policy=ExpiryPolicy(50, 0))
    assert successor.expiry == Expiry(NOW + 650, IDLE)
    assert (successor.expired_at, successor.expired_by, successor.keep_alive_until) == (None, "", 0.0)


# Requests within and above the maximums

DEFAULT = {"SANDBOX_IDLE_TIMEOUT_SECONDS": "100", "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS": "1000"}
LIMITED = {**DEFAULT, "SANDBOX_MAX_LIFETIME_SECONDS": "5000"}
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
def test_policy_has_the_requested_values_or_the_defaults(
    environment: dict[str, str], spec: Spec, expected: ExpiryPolicy
):
    """0 in the settings means that there is no maximum."""
    check_expiry(spec, settings(**environment))
    assert expiry_policy(spec, settings(**environment)) == expected


@pytest.mark.parametrize(
    ("spec", "field", "setting"),
    [
        (Spec(idle_timeout_seconds=1001), "idle_timeout_seconds", "SANDBOX_MAX_IDLE_TIMEOUT_SECONDS"),
        (Spec(lifetime_seconds=5001), "lifetime_seconds", "SANDBOX_MAX_LIFETIME_SECONDS"),
    ],
)
def test_request_above_a_maximum_is_refused_with_field_and_setting(spec: Spec, field: str, setting: str):
    with pytest.raises(InvalidRequest) as refusal:
        check_expiry(spec, settings(**LIMITED))
    assert refusal.value.extra == {"field": field}
    assert setting in refusal.value.detail
