import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.sandbox.record import Reason
from tests.worker.transcripts import refusal
from worker.kubernetes import retry
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, KubernetesError

UNAVAILABLE = Reason.CLUSTER_UNAVAILABLE


def error_of(status: int, message: str = "", *, reason: str = "", retry_after: float | None = None) -> KubernetesError:
    return KubernetesError(status, reason, message, retry_after)


PERMANENT = {
    "a missing namespace": (refusal("namespace-missing"), Reason.INVALID),
    "two mounts at one path": (refusal("pod-invalid-duplicate-mount"), Reason.INVALID),
    "an invalid quantity": (refusal("pod-invalid-resources", 1), Reason.INVALID),
    "an invalid continue token": (refusal("list-continue", 2), Reason.INVALID),
    "the Pod security standard": (refusal("pod-security-forbidden"), Reason.FORBIDDEN),
    "an admission webhook": (
        error_of(403, 'admission webhook "policy" denied the request: no', reason="Forbidden"),
        Reason.FORBIDDEN,
    ),
    "an admission policy": (
        error_of(403, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", reason="Forbidden"),
        Reason.FORBIDDEN,
    ),
    "a node port in use": (refusal("service-nodeport-taken", 1), Reason.INVALID),
    "an existing name": (refusal("pod-create", 1), Reason.INVALID),
}


@pytest.mark.parametrize(("error", "reason"), PERMANENT.values(), ids=PERMANENT)
def test_permanent_error_is_not_retried_and_has_reason(error: KubernetesError, reason: Reason):
    assert not retry.is_retryable(error)
    assert not retry.is_transient(error)
    assert retry.reason_for(error) is reason


DENIED = {
    "a wrong token": (refusal("unauthorized"), Reason.UNAUTHORIZED),
    "a missing right": (
        error_of(403, 'pods is forbidden: User "u" cannot create resource "pods" in API group ""', reason="Forbidden"),
        Reason.FORBIDDEN,
    ),
    "a proxy's 403": (error_of(403, "<html>"), Reason.FORBIDDEN),
}


@pytest.mark.parametrize(("error", "reason"), DENIED.values(), ids=DENIED)
@pytest.mark.parametrize("is_lasting", [False, True])
def test_refused_right_is_retryable_until_it_lasts_and_keeps_its_reason(
    error: KubernetesError, reason: Reason, is_lasting: bool
):
    error.is_lasting = is_lasting
    assert retry.is_retryable(error) is not is_lasting
    assert not retry.is_transient(error)
    assert retry.reason_for(error) is reason


TEMPORARY = {
    "the quota of Pods is full": (refusal("quota-exceeded", 1), Reason.QUOTA_EXCEEDED),
    "the quota of node ports is full": (refusal("quota-exceeded", 3), Reason.QUOTA_EXCEEDED),
    "no node port is left": (
        error_of(500, "Internal error occurred: failed to allocate a nodePort: range is full", reason="InternalError"),
        Reason.NODE_PORTS_EXHAUSTED,
    ),
    "too many requests": (error_of(429, "Too many requests", retry_after=1.0), UNAVAILABLE),
    "request timeout": (error_of(408), UNAVAILABLE),
    "an error of the server": (error_of(500, reason="InternalError"), UNAVAILABLE),
    "a bad gateway": (error_of(502), UNAVAILABLE),
    "unavailable": (error_of(503, reason="ServiceUnavailable"), UNAVAILABLE),
    "a timeout of etcd": (error_of(504, reason="Timeout"), UNAVAILABLE),
    "a timeout": (error_of(NO_ANSWER, reason=TIMED_OUT), UNAVAILABLE),
    "a lost connection": (error_of(NO_ANSWER, reason="ServerDisconnectedError"), UNAVAILABLE),
}


@pytest.mark.parametrize(("error", "reason"), TEMPORARY.values(), ids=TEMPORARY)
def test_temporary_error_is_retryable_and_has_reason(error: KubernetesError, reason: Reason):
    assert retry.is_retryable(error)
    assert retry.reason_for(error) is reason


@given(st.integers(500, 599))
def test_every_5xx_is_retryable(status: int):
    assert retry.is_retryable(error_of(status))


@pytest.mark.parametrize(
    ("error", "is_transient"),
    [
        (error_of(NO_ANSWER, reason="ServerDisconnectedError"), True),
        (error_of(500), True),
        (error_of(502), True),
        (error_of(503), True),
        (error_of(NO_ANSWER, reason=TIMED_OUT), False),
        (error_of(503, retry_after=1.0), False),
        (error_of(429), False),
        (error_of(504), False),
        (refusal("quota-exceeded", 1), False),
    ],
    ids=str,
)
def test_only_quick_failure_without_retry_after_is_transient(error: KubernetesError, is_transient: bool):
    assert retry.is_transient(error) is is_transient


ATTEMPTS = st.integers(1, 10_000)
SECONDS = st.none() | st.floats(0, 3600)


@given(ATTEMPTS, SECONDS)
def test_backoff_is_at_least_retry_after(attempt: int, retry_after: float | None):
    assert retry.backoff_seconds(attempt, retry_after) >= (retry_after or 0)


@given(ATTEMPTS)
def test_backoff_stays_between_half_and_whole_ceiling(attempt: int):
    ceiling = min(retry.CAP_SECONDS, retry.BASE_SECONDS * 2.0 ** min(attempt - 1, 50))
    assert ceiling / 2 <= retry.backoff_seconds(attempt) <= ceiling


def test_backoff_grows_up_to_the_cap():
    """The shortest pause after one attempt is as long as the longest after the attempt before."""
    delays = [retry.backoff_seconds(attempt) for attempt in range(1, 30)]
    growing = list(itertools.takewhile(lambda seconds: seconds < retry.CAP_SECONDS / 2, delays))
    assert growing == sorted(growing)
    assert len(growing) >= 3
    assert all(seconds >= retry.CAP_SECONDS / 2 for seconds in delays[len(growing) :])


def test_backoff_has_jitter():
    """Callers that fail together do not retry together."""
    assert len({retry.backoff_seconds(10) for _ in range(100)}) > 50
