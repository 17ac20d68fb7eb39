"""Retry rules: which Kubernetes errors are temporary, which are permanent, and how long to wait between attempts.

Temporary: no answer, 408, 429, 5xx, a conflict of two writers, a full quota or node-port range.
Permanent, because the same request fails again: 400, 401, 403, 404, 422, and a name that exists already.
"""

import random

from shared.sandbox.record import Reason
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, KubernetesError

BASE_SECONDS = 0.2
CAP_SECONDS = 10.0
"""Maximum pause between two attempts. Work goes on soon after an outage, and retries do not load a weak API server."""

_RETRYABLE = frozenset({NO_ANSWER, 408, 429})
_TRANSIENT = frozenset({NO_ANSWER, 500, 502, 503})
_FORBIDDEN = 403
_CONFLICT = 409
_SERVER_ERROR = 500


def is_retryable(error: KubernetesError) -> bool:
    """Return True if the same request can succeed later."""
    if error.http_status == _CONFLICT:
        # "Conflict": two writers met, for example at a quota's count. A name that exists has "AlreadyExists".
        return error.reason == "Conflict"
    return error.http_status in _RETRYABLE or error.http_status >= _SERVER_ERROR or _is_temporarily_forbidden(error)


def is_transient(error: KubernetesError) -> bool:
    """Return True if an immediate retry is worthwhile: the call failed quickly, and the server set no Retry-After."""
    if error.retry_after is not None or error.reason == TIMED_OUT:
        return False
    return error.http_status in _TRANSIENT


def reason_for(error: KubernetesError) -> Reason:
    """Return the record's reason for this error."""
    if _is_quota(error):
        return Reason.QUOTA_EXCEEDED
    if "nodePort" in error.message and "range is full" in error.message:
        return Reason.NODE_PORTS_EXHAUSTED
    if is_retryable(error):
        return Reason.CLUSTER_UNAVAILABLE
    return {401: Reason.UNAUTHORIZED, 403: Reason.FORBIDDEN}.get(error.http_status, Reason.INVALID)


def backoff_seconds(attempt: int, retry_after: float | None = None) -> float:
    """Return the pause in seconds after attempt number `attempt`, counted from 1.

    The pause doubles up to CAP_SECONDS, has jitter, and is never shorter than the server's Retry-After.
    """
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2 ** min(attempt - 1, 10))
    jittered = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, no secret
    return max(jittered, retry_after or 0.0)


def _is_temporarily_forbidden(error: KubernetesError) -> bool:
    """Return True for a 403 that ends: a full quota, or a namespace that is new or terminating.

    A new namespace has no service account yet. A terminating one can be created again once it is gone.
    """
    is_new = "error looking up service account" in error.message
    is_terminating = "being terminated" in error.message
    return _is_quota(error) or (error.http_status == _FORBIDDEN and (is_new or is_terminating))


def _is_quota(error: KubernetesError) -> bool:
    return error.http_status == _FORBIDDEN and "exceeded quota" in error.message
