"""All errors that this service raises itself, in one family. The exceptions of a library stop at its adapter.

ProvisionerError
├── InvalidRequest       400  the request breaks a rule of the API
├── Unauthorized         401  the key is missing or wrong, or the server has no key
├── SandboxNotFound      404  no sandbox has this id, or it is being deleted
│   └── SandboxExpired   404  the sandbox expired in the last ten minutes
├── IncarnationMismatch  412  the request means another incarnation than the present one
├── LimitReached         429  a limit has no room for another sandbox
├── RateLimited          429  one key sends too many requests
├── RecordUnreadable     500  Redis holds no record of this version
├── SandboxNotReady      503  (DEERFLOW_COMPAT only) the sandbox has no URL
├── StoreUnavailable     503  Redis does not answer
├── NotSynced            503  Redis is empty and the records are not rebuilt yet
├── NotReady             503  (/health/system only) a part of the system is missing
└── InvalidSettings      at start only: the environment breaks a rule

PreconditionFailed is not in the family, because it never becomes an answer.

`api.http.problems` answers with `status` and `code`. `code` is stable, `detail` is for people.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar


class ProvisionerError(Exception):
    """Root of the family. `extra` becomes fields beside `detail` in the problem, `headers` become response headers."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra


class InvalidRequest(ProvisionerError):
    """`field` is the path of the wrong value in the request, for example `extra_mounts[1].host_path`."""

    status = 400
    code = "invalid_request"
    title = "Invalid request"

    def __init__(self, detail: str, *, field: str) -> None:
        super().__init__(detail, field=field)


class Unauthorized(ProvisionerError):
    status = 401
    code = "unauthorized"
    title = "A valid API key is required"


class SandboxNotFound(ProvisionerError):
    status = 404
    code = "sandbox_not_found"
    title = "Sandbox not found"


class SandboxExpired(SandboxNotFound):
    """`expired_at` is a time in RFC 3339, `expired_by` is `idle` or `lifetime`."""

    code = "sandbox_expired"
    title = "Sandbox expired"

    def __init__(self, sandbox_id: str, expired_at: float, expired_by: str, **extra: str) -> None:
        at = datetime.fromtimestamp(round(expired_at, 3), tz=UTC).isoformat().replace("+00:00", "Z")
        causes = {"idle": "nothing used it within its idle timeout", "lifetime": "its lifetime ended"}
        super().__init__(f"Sandbox {sandbox_id} expired at {at}: {causes.get(expired_by, expired_by)}.")
        self.extra = {"expired_at": at, "expired_by": expired_by, **extra}


class IncarnationMismatch(ProvisionerError):
    status = 412
    code = "incarnation_mismatch"
    title = "The sandbox has another incarnation"


class LimitReached(ProvisionerError):
    """`limit` is the name of the setting, `maximum` its value."""

    status = 429
    code = "limit_reached"
    title = "Too many sandboxes"

    def __init__(self, limit: str, maximum: int, seconds: float) -> None:
        super().__init__(
            f"No room for another sandbox: {limit} is {maximum}. Delete a sandbox, or try again later.",
            headers={"Retry-After": str(min(60, max(1, math.ceil(seconds))))},
            limit=limit,
        )


class RateLimited(ProvisionerError):
    status = 429
    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, per_second: float, seconds: float) -> None:
        super().__init__(
            f"This key sends more than {per_second:g} requests per second (RATE_LIMIT_PER_SECOND). Try again later.",
            headers={"Retry-After": str(max(1, math.ceil(seconds)))},
        )


class RecordUnreadable(ProvisionerError):
    status = 500
    code = "record_unreadable"
    title = "The record of the sandbox cannot be read"

    def __init__(self, raw: bytes, cause: Exception) -> None:
        text = raw[:80].decode(errors="replace")
        super().__init__(f"Redis holds no record of this version: {cause}. The value begins with {text!r}.")


class SandboxNotReady(ProvisionerError):
    """Protects today's client: a 2xx without a URL breaks it, and a status other than Running makes it delete."""

    status = 503
    code = "sandbox_not_ready"
    title = "The sandbox has no URL yet"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class StoreUnavailable(ProvisionerError):
    """Without Redis the state of every sandbox is unknown, so the API answers 503 and never a status."""

    status = 503
    code = "redis_unavailable"
    title = "Redis does not answer"

    def __init__(self, cause: BaseException) -> None:
        reason = str(cause) or type(cause).__name__
        detail = f"Redis does not answer ({reason}); the outcome of the request is unknown. Try again."
        super().__init__(detail, headers={"Retry-After": "1"})


class NotSynced(ProvisionerError):
    """Until the records are rebuilt, a missing record does not mean that the sandbox does not exist."""

    status = 503
    code = "not_synced"
    title = "The cluster is not synced"

    def __init__(self) -> None:
        detail = (
            "Redis is new or lost its data, and no worker has compared it with the cluster yet. "
            "A worker rebuilds the records. Try again soon; if this lasts, check that a worker is running."
        )
        super().__init__(detail, headers={"Retry-After": "1"})


class NotReady(ProvisionerError):
    """`missing` describes each missing part in one sentence."""

    status = 503
    code = "not_ready"
    title = "The system is not ready"

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(" ".join(missing), missing=list(missing))


class InvalidSettings(ProvisionerError):
    """`detail` has one line for each wrong setting: its name, what is allowed, and what was given."""


class PreconditionFailed(Exception):
    """A precondition of an update does not hold any more, so nothing was written. The leader has lost its lease."""


PROBLEMS: tuple[type[ProvisionerError], ...] = (
    InvalidRequest,
    Unauthorized,
    SandboxNotFound,
    SandboxExpired,
    IncarnationMismatch,
    LimitReached,
    RateLimited,
    RecordUnreadable,
    SandboxNotReady,
    StoreUnavailable,
    NotSynced,
    NotReady,
)
"""Errors that refuse a request. An internal error is a bug instead, and InvalidSettings ends the process."""
