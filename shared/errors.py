"""Everything this service raises itself, as one family; a library's exceptions stop at its adapter.

ProvisionerError
├── InvalidRequest      400  what the caller sent breaks a rule of the contract
├── Unauthorized        401  no key, a wrong key, or a server that has none
├── SandboxNotFound     404  no live sandbox has this id
├── SandboxExpired      404  its time was over, lately
├── LimitReached        429  there is no room for one more sandbox
├── RateLimited         429  too many requests of one key
├── LaterLife           412  the id's present life is not the one that the caller means
├── SandboxNotReady     503  (DEERFLOW_COMPAT only) the sandbox has no URL yet, or will have none
├── StoreUnavailable    503  Redis does not answer
├── RecordsMissing      503  Redis was emptied, and its records are being made anew
├── NotReady            503  (/health/ready only) something is wanting
├── RecordUnreadable    500  what Redis holds of a sandbox is no record of this version
└── InvalidSettings     (at start only) the environment breaks a rule

`status` and `code` are what `api.http.problems` answers with; `code` is stable, `detail` is for people.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import ClassVar


class ProvisionerError(Exception):
    """Root of the family. `extra` ends up beside `detail` in the problem's body, `headers` in the answer's."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None, **extra: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra


class InvalidRequest(ProvisionerError):
    """`field` names what is wrong, as the caller wrote it: `extra_mounts[1].host_path`."""

    status = 400
    code = "invalid_request"
    title = "The request breaks a rule"

    def __init__(self, detail: str, *, field: str) -> None:
        super().__init__(detail, field=field)


class Unauthorized(ProvisionerError):
    status = 401
    code = "unauthorized"
    title = "A valid API key is needed"


class SandboxNotFound(ProvisionerError):
    status = 404
    code = "sandbox_not_found"
    title = "There is no such sandbox"


class SandboxExpired(SandboxNotFound):
    """`expired_by`: which of its times was over, `idle` or `lifetime`; `expired_at`: when."""

    code = "sandbox_expired"
    title = "The sandbox was ended: its time was over"

    def __init__(self, sandbox_id: str, expired_at: float, expired_by: str, **extra: str) -> None:
        at = datetime.fromtimestamp(round(expired_at, 3), tz=UTC).isoformat().replace("+00:00", "Z")
        why = {"idle": "nobody had used it", "lifetime": "its lifetime was over"}.get(expired_by, expired_by)
        super().__init__(f"Sandbox {sandbox_id} was ended at {at}: {why}.")
        self.extra = {"expired_at": at, "expired_by": expired_by, **extra}


class LimitReached(ProvisionerError):
    """`limit` is the setting that says how many."""

    status = 429
    code = "limit_reached"
    title = "There is no room for one more sandbox"

    def __init__(self, limit: str, maximum: int, seconds: float) -> None:
        super().__init__(
            f"There are as many sandboxes as there may be: {limit} is {maximum}. Delete one, or wait.",
            headers={"Retry-After": str(min(60, max(1, math.ceil(seconds))))},
            limit=limit,
        )


class RateLimited(ProvisionerError):
    status = 429
    code = "rate_limited"
    title = "Too many requests"

    def __init__(self, per_second: float, seconds: float) -> None:
        super().__init__(
            f"More than {per_second:g} requests a second (RATE_LIMIT_PER_SECOND) with this key.",
            headers={"Retry-After": str(max(1, math.ceil(seconds)))},
        )


class IncarnationMismatch(ProvisionerError):
    status = 412
    code = "incarnation_mismatch"
    title = "This is another life of the sandbox than you mean"


class SandboxNotReady(ProvisionerError):
    """Today's client must not be given a 2xx without a URL, nor be told a status on which it would delete."""

    status = 503
    code = "sandbox_not_ready"
    title = "The sandbox has no URL yet"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


class StoreUnavailable(ProvisionerError):
    """Nothing is known about any sandbox while Redis is away, so nothing is claimed: 503, never a status."""

    status = 503
    code = "redis_unavailable"
    title = "The store does not answer"

    def __init__(self, cause: BaseException) -> None:
        why = str(cause) or type(cause).__name__
        detail = f"Redis does not answer ({why}); nothing is known of the outcome. Try again."
        super().__init__(detail, headers={"Retry-After": "1"})


class NotSynced(ProvisionerError):
    """That there is no record says nothing now, so nothing is claimed."""

    status = 503
    code = "not_synced"
    title = "The records are being made anew"

    def __init__(self) -> None:
        detail = (
            "Redis is new, or was emptied, and no worker has compared it with the cluster yet. Records are being made "
            "anew from what is there: try again soon."
        )
        super().__init__(detail, headers={"Retry-After": "1"})


class NotReady(ProvisionerError):
    """`missing` names what is wanting, a sentence each."""

    status = 503
    code = "not_ready"
    title = "Not ready to make and see sandboxes"

    def __init__(self, missing: Sequence[str]) -> None:
        super().__init__(" ".join(missing), missing=list(missing))


class RecordUnreadable(ProvisionerError):
    status = 500
    code = "record_unreadable"
    title = "The record of this sandbox cannot be read"

    def __init__(self, raw: bytes, cause: Exception) -> None:
        text = raw[:80].decode(errors="replace")
        super().__init__(f"What Redis holds is no record of this version: {cause}. It begins with {text!r}.")


class PreconditionFailed(Exception):
    """A guard no longer holds: whoever writes under it is no longer entitled to, and has written nothing."""


class InvalidSettings(ProvisionerError):
    """One line per setting that is wrong: its name, what it expects, what it got."""
