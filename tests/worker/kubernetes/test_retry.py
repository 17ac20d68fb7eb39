import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.sandbox.record import Reason
from tests.worker.transcripts import refusal
from worker.kubernetes import retry
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, KubernetesError

UNAVAILABLE = Reason.CLUSTER_UNAVAILABLE


def answer(status: int, message: str = "", *, reason: str = "", retry_after: float | None = None) -> KubernetesError:
    return KubernetesError(status, reason, message, retry_after)


RECORDED = {
    "a wrong token": (refusal("unauthorized"), Reason.UNAUTHORIZED),
    "the namespace is missing": (refusal("namespace-missing"), Reason.INVALID),
    "two mounts of one path": (refusal("pod-invalid-duplicate-mount"), Reason.INVALID),
    "a quantity that is none": (refusal("pod-invalid-resources", 1), Reason.INVALID),
    "a continue token that is none": (refusal("list-continue", 2), Reason.INVALID),
    "the Pod security standard": (refusal("pod-security-forbidden"), Reason.FORBIDDEN),
    "a node port that is taken": (refusal("service-nodeport-taken", 1), Reason.INVALID),
    "the name is there already": (refusal("pod-create", 1), Reason.INVALID),
}


@pytest.mark.parametrize(("error", "reason"), RECORDED.values(), ids=RECORDED)
def test_final(error: KubernetesError, reason: Reason):
    """What the same request would be told again is final, is not tried again at once, and has its word."""
    assert not retry.is_retryable(error)
    assert not retry.is_transient(error)
    assert retry.reason_for(error) is reason


TEMPORARY = {
    "the quota of Pods is full": (refusal("quota-exceeded", 1), Reason.QUOTA_EXCEEDED),
    "the quota of node ports is full": (refusal("quota-exceeded", 3), Reason.QUOTA_EXCEEDED),
    "no node port is left": (
        answer(500, "Internal error occurred: failed to allocate a nodePort: range is full", reason="InternalError"),
        Reason.NODE_PORTS_EXHAUSTED,
    ),
    "too many requests": (answer(429, "Too many requests", retry_after=1.0), UNAVAILABLE),
    "request timeout": (answer(408), UNAVAILABLE),
    "an error of the server": (answer(500, reason="InternalError"), UNAVAILABLE),
    "a bad gateway": (answer(502), UNAVAILABLE),
    "unavailable": (answer(503, reason="ServiceUnavailable"), UNAVAILABLE),
    "etcd takes too long": (answer(504, reason="Timeout"), UNAVAILABLE),
    "no answer in time": (answer(NO_ANSWER, reason=TIMED_OUT), UNAVAILABLE),
    "the connection was lost": (answer(NO_ANSWER, reason="ServerDisconnectedError"), UNAVAILABLE),
}


@pytest.mark.parametrize(("error", "reason"), TEMPORARY.values(), ids=TEMPORARY)
def test_temporary(error: KubernetesError, reason: Reason):
    """What may be otherwise later is temporary, and has its word."""
    assert retry.is_retryable(error)
    assert retry.reason_for(error) is reason


@given(st.integers(500, 599))
def test_every_error_of_the_server_is_temporary(status: int):
    """5xx says nothing about the request."""
    assert retry.is_retryable(answer(status))


@pytest.mark.parametrize(
    ("error", "blip"),
    [
        (answer(NO_ANSWER, reason="ServerDisconnectedError"), True),
        (answer(500), True),
        (answer(502), True),
        (answer(503), True),
        (answer(NO_ANSWER, reason=TIMED_OUT), False),
        (answer(503, retry_after=1.0), False),
        (answer(429), False),
        (answer(504), False),
        (refusal("quota-exceeded", 1), False),
    ],
    ids=str,
)
def test_blip(error: KubernetesError, blip: bool):
    """Only what failed quickly, without a word to wait, is worth another try at once."""
    assert retry.is_transient(error) is blip


ATTEMPTS = st.integers(1, 10_000)
SECONDS = st.none() | st.floats(0, 3600)


@given(ATTEMPTS, SECONDS)
def test_never_before_the_servers_word(attempt: int, retry_after: float | None):
    """Whoever is told to wait waits at least that long."""
    assert retry.backoff_seconds(attempt, retry_after) >= (retry_after or 0)


@given(ATTEMPTS)
def test_delays_stay_within_their_bounds(attempt: int):
    """Never at once, and never longer than the cap, however often it failed."""
    ceiling = min(retry.CAP_SECONDS, retry.BASE_SECONDS * 2.0 ** min(attempt - 1, 50))
    assert ceiling / 2 <= retry.backoff_seconds(attempt) <= ceiling


def test_delays_grow_up_to_the_cap():
    """Each attempt waits at least as long as the one before could at most, until the cap."""
    delays = [retry.backoff_seconds(attempt) for attempt in range(1, 30)]
    growing = list(itertools.takewhile(lambda seconds: seconds < retry.CAP_SECONDS / 2, delays))
    assert growing == sorted(growing)
    assert len(growing) >= 3
    assert all(seconds >= retry.CAP_SECONDS / 2 for seconds in delays[len(growing) :])


def test_delays_are_spread():
    """Many that failed at once do not come back at once."""
    assert len({retry.backoff_seconds(10) for _ in range(100)}) > 50
