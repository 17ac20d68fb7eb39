"""Retry rules: which Kubernetes errors are temporary, which are permanent, and how long to wait between attempts.

Temporary: no answer, 408, 429, 5xx, a conflict of two writers, a full quota or node-port range.
Permanent, because the same request fails again: 400, 404, 422, and a name that exists already.
401 and 403 are temporary at first, because tokens and Roles are replaced while requests go on, and permanent if they
last. The 403 of an admission rule is permanent at once: the rule judges the object.
"""

import random

from shared.sandbox.record import Reason
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, KubernetesError

BASE_SECONDS = 0.2
CAP_SECONDS = 10.0
"""Maximum pause between two attempts. Work goes on soon after an outage, and retries do not load a weak API server."""

_RETRYABLE = frozenset({NO_ANSWER, 408, 429})
_TRANSIENT = frozenset({NO_ANSWER, 500, 502, 503})
_UNAUTHORIZED = 401
_FORBIDDEN = 403
_CONFLICT = 409
_SERVER_ERROR = 500
_ADMISSION = ("violates PodSecurity", "denied the request", "denied request")
"""Parts of messages of Pod Security, of admission webhooks and of admission policies."""


def is_retryable(error: KubernetesError) -> bool:
    """Return True if the same request can succeed later."""
    if error.http_status == _CONFLICT:
        # "Conflict": two writers met, for example at a quota's count. A name that exists has "AlreadyExists".
        return error.reason == "Conflict"
    if is_denied(error):
        return not error.is_lasting
    return error.http_status in _RETRYABLE or error.http_status >= _SERVER_ERROR or _is_temporarily_forbidden(error)


def is_denied(error: KubernetesError) -> bool:
    """Return True if the API server does not accept the credentials, or refuses a right to them."""
    if error.http_status != _FORBIDDEN:
        return error.http_status == _UNAUTHORIZED
    is_of_admission = any(part in error.message for part in _ADMISSION)
    return not is_of_admission and not _is_temporarily_forbidden(error)


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
    if is_retryable(error) and not is_denied(error):
        return Reason.CLUSTER_UNAVAILABLE
    return {401: Reason.UNAUTHORIZED, 403: Reason.FORBIDDEN}.get(error.http_status, Reason.INVALID)


def is_node_port_refused(error: KubernetesError) -> bool:
    """Return True if the node port that a Service asks for is taken, or not in the cluster's range."""
    return "nodePort" in error.message and ("already allocated" in error.message or "valid range" in error.message)


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
