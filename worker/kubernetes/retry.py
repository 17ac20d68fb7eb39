"""What is temporary and what is final: the one module that decides, and how long to wait in between.

Temporary: no answer, 408, 429, 5xx, two writers that met, a quota or node-port range that is full: others leave.
Final: what the same request would be told again, 400, 401, 403, 404, 422, and a name that is taken.
"""

import random

from shared.sandbox.record import Reason
from worker.kubernetes.errors import NO_ANSWER, TIMED_OUT, KubernetesError

BASE_SECONDS = 0.2
CAP_SECONDS = 10.0
"""Short enough that a cluster's return is noticed soon, long enough not to be in its way."""

_TEMPORARY = frozenset({NO_ANSWER, 408, 429})
_BLIPS = frozenset({NO_ANSWER, 500, 502, 503})
_FORBIDDEN = 403
_CONFLICT = 409
_SERVER_ERROR = 500


def is_retryable(error: KubernetesError) -> bool:
    if error.http_status == _CONFLICT:
        return (
            error.reason == "Conflict"
        )  # of two writers, as of a quota's count; a name that is taken is AlreadyExists
    return error.http_status in _TEMPORARY or error.http_status >= _SERVER_ERROR or _is_passing(error)


def is_transient(error: KubernetesError) -> bool:
    """Worth another try at once: it failed quickly, and nobody asked us to wait."""
    if error.retry_after is not None or error.reason == TIMED_OUT:
        return False
    return error.http_status in _BLIPS


def reason_for(error: KubernetesError) -> Reason:
    """The closed list's word for it."""
    if _is_quota(error):
        return Reason.QUOTA_EXCEEDED
    if "nodePort" in error.message and "range is full" in error.message:
        return Reason.NODE_PORTS_EXHAUSTED
    if is_retryable(error):
        return Reason.CLUSTER_UNAVAILABLE
    return {401: Reason.UNAUTHORIZED, 403: Reason.FORBIDDEN}.get(error.http_status, Reason.INVALID)


def backoff_seconds(attempt: int, retry_after: float | None = None) -> float:
    """Seconds before the attempt after this one (the first is 1): growing, jittered, never before the server's word."""
    ceiling = min(CAP_SECONDS, BASE_SECONDS * 2 ** min(attempt - 1, 10))
    jittered = random.uniform(ceiling / 2, ceiling)  # noqa: S311 - spreads load, hides nothing
    return max(jittered, retry_after or 0.0)


def _is_passing(error: KubernetesError) -> bool:
    """What is forbidden now, and will not be: a full quota; a namespace so new that it has no service account yet, or
    one that is going, and can then be made again."""
    is_young = "error looking up service account" in error.message
    is_going = "being terminated" in error.message
    return _is_quota(error) or (error.http_status == _FORBIDDEN and (is_young or is_going))


def _is_quota(error: KubernetesError) -> bool:
    return error.http_status == _FORBIDDEN and "exceeded quota" in error.message
