"""The record of one sandbox: what was requested, and what was last seen in the cluster.

`status` is the Pod's phase as Kubernetes spells it, or `Terminating`. `ready` is the Pod's Ready condition and separate
from `status`, because a Running Pod can become unready and ready again. `reason` (a closed list) and `message` explain
both.

DeerFlow derives an id from user and thread, so a delete and a create of one id seconds apart are normal. Each run of an
id is an incarnation with a `generation` and a `token`. `generation` counts the incarnations of the id from 1. It is not
Kubernetes' `metadata.generation`, which counts changes of a spec. `token` is random and unique. The generation alone
would not be enough: after Redis lost its data, the count starts at 1 again while a Pod of the old generation 1 still
runs. Jobs, Pod labels and updates name the incarnation, so anything late for an old incarnation cannot touch a new one.
"""

from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta


class Status(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"
    TERMINATING = "Terminating"


class Reason(StrEnum):
    """Cause of a sandbox's state; empty if there is nothing to explain.

    Records hold a plain string, because a later version of this service can write reasons that this version lacks.
    """

    NONE = ""
    CLAIM_MISSING = "ClaimMissing"
    CLUSTER_UNAVAILABLE = "ClusterUnavailable"
    CRASH_LOOP = "CrashLoop"
    EVICTED = "Evicted"
    FORBIDDEN = "Forbidden"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    INVALID = "Invalid"
    MOUNT_FAILED = "MountFailed"
    NODE_PORTS_EXHAUSTED = "NodePortsExhausted"
    OUT_OF_MEMORY = "OutOfMemory"
    POD_FAILED = "PodFailed"
    POD_LOST = "PodLost"
    PROBE_FAILED = "ProbeFailed"
    PROVISIONING_TIMED_OUT = "ProvisioningTimedOut"
    QUOTA_EXCEEDED = "QuotaExceeded"
    UNAUTHORIZED = "Unauthorized"
    UNSCHEDULABLE = "Unschedulable"


JOB_REASONS = frozenset(
    {
        Reason.CLUSTER_UNAVAILABLE,
        Reason.FORBIDDEN,
        Reason.INVALID,
        Reason.NODE_PORTS_EXHAUSTED,
        Reason.QUOTA_EXCEEDED,
        Reason.UNAUTHORIZED,
    }
)
"""Reasons that a provision job writes, and clears. The Pod and its Events show all others."""


class ExpiryCause(StrEnum):
    """The time of an expiry policy that ended."""

    IDLE = "idle"
    LIFETIME = "lifetime"


STALLED_SECONDS = 15.0
"""Time after which a record that waits for a job and does not change gets another job. A healthy job takes a tenth of
this time. If the old job still runs, two jobs do no harm."""
FAST_RETRIES = 5
MAX_BACKOFF_DOUBLINGS = 4
"""After `FAST_RETRIES` attempts the time doubles with each attempt, up to four minutes. For example, a Pod on a lost
node stays for hours, and frequent jobs would not help."""

TERMINAL_STATUSES = frozenset({Status.SUCCEEDED, Status.FAILED})
"""Statuses in which the sandbox has ended for the client. The next create of the id starts a new incarnation."""

ALLOWED_TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset(Status),
    Status.RUNNING: frozenset(Status) - {Status.PENDING},
    Status.UNKNOWN: frozenset(Status) - {Status.PENDING},
    Status.SUCCEEDED: frozenset({Status.SUCCEEDED, Status.TERMINATING}),
    Status.FAILED: frozenset({Status.FAILED, Status.TERMINATING}),
    Status.TERMINATING: frozenset({Status.TERMINATING}),
}
"""Transitions within one incarnation. No status goes back to Pending, and terminal statuses only become Terminating."""


MAX_SECONDS = 1e10
"""Latest time, in seconds since the epoch, and longest duration in a record: the year 2286. A larger number is a
mistake, such as milliseconds, and from the year 10000 on no date can be made of it."""
MAX_SPEC_SECONDS = 31_536_000
"""Longest timeout that a request can ask for: a year."""

Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]
"""Checked when a record is read: one impossible time must not break the lists of all records."""


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    host_path: str
    container_path: str
    read_only: bool = False


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The caller's request. Spec and settings together define the whole Pod."""

    user_id: str = "default"
    thread_id: str | None = None
    extra_mounts: tuple[Mount, ...] = ()
    provision_lark_cli_runtime: bool = False
    provision_lark_cli_broker: bool = False
    idle_timeout_seconds: Annotated[int, Meta(ge=1, le=MAX_SPEC_SECONDS)] | None = None
    lifetime_seconds: Annotated[int, Meta(ge=1, le=MAX_SPEC_SECONDS)] | None = None


class Expiry(NamedTuple):
    """Time and cause of the expiry of a sandbox that is not used any more."""

    at: float
    by: ExpiryCause


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """Times at which an incarnation reached each stage, in seconds since the epoch; None if not reached, or not seen.

    `queued` is the end of the wait in the queue: a worker started the job. At `created`, Pod and Service exist.
    """

    queued: Seconds | None = None
    created: Seconds | None = None
    scheduled: Seconds | None = None
    running: Seconds | None = None
    ready: Seconds | None = None


class Sandbox(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times are in seconds since the epoch. `revision` counts the changes of one incarnation, `attempt` its jobs.

    `deadline` bounds a state that must not last. Its meaning depends on `status`:

    - Pending, Running, Unknown: the sandbox fails if it has not been ready by then. None once it was ready.
    - Succeeded, Failed: the end of the retention. The sandbox then becomes Terminating and its record is deleted.
    - Terminating: a terminate job is planned, and the sweep enqueues no other job before then.

    `idle_timeout` counts from `last_used_at` and does not end before `keep_alive_until`. `lifetime` counts from
    `created_at`. 0 means no such limit. Until `probing_until` an activity probe runs, and idleness is not acted on.
    `expired_at` and `expired_by` are set once the sandbox has expired.
    """

    id: str
    generation: int
    token: str
    cluster: str
    spec: Spec
    created_at: Seconds
    updated_at: Seconds
    last_used_at: Seconds
    revision: int = 1
    attempt: int = 1
    status: Status = Status.PENDING
    ready: bool = False
    url: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    service_uid: str = ""
    node_port: int | None = None
    reason: str = Reason.NONE
    message: str = ""
    deadline: Seconds | None = None
    idle_timeout: Seconds = 0.0
    lifetime: Seconds = 0.0
    keep_alive_until: Seconds = 0.0
    probing_until: Seconds | None = None
    expired_at: Seconds | None = None
    expired_by: str = ""
    timings: Timings = Timings()

    @property
    def incarnation(self) -> str:
        """The name `{generation}-{token}` in jobs and Pod labels; a valid label value."""
        return f"{self.generation}-{self.token}"

    @property
    def thread_id(self) -> str:
        """The requested thread, or the sandbox's own id if the request names none."""
        return self.spec.thread_id or self.id

    @property
    def is_provisioned(self) -> bool:
        """True if Pod and Service exist. `url` does not show this: a ClusterIP URL is known earlier."""
        return bool(self.service_uid)

    @property
    def is_active(self) -> bool:
        """False once the incarnation has ended or terminates: no more objects are created for it."""
        return self.status not in TERMINAL_STATUSES and self.status is not Status.TERMINATING

    @property
    def is_expiring(self) -> bool:
        """True if the sandbox terminates because it expired. No caller waits for this, so it can be slow."""
        return self.status is Status.TERMINATING and self.expired_at is not None

    @property
    def expiry(self) -> Expiry | None:
        """The earlier of the two expiries; None if the sandbox never expires, or has ended already."""
        return min(self._expiries, default=None)

    def expired_by_now(self, now: float) -> ExpiryCause | None:
        """Return the cause of an expiry that is due; the lifetime first, because no use extends it."""
        causes = {expiry.by for expiry in self._expiries if expiry.at <= now}
        return ExpiryCause.LIFETIME if ExpiryCause.LIFETIME in causes else ExpiryCause.IDLE if causes else None

    @property
    def _expiries(self) -> list[Expiry]:
        if not self.is_active:
            return []
        idle_at = max(self.last_used_at + self.idle_timeout, self.keep_alive_until)
        expiries = [Expiry(idle_at, ExpiryCause.IDLE)] if self.idle_timeout else []
        if self.lifetime:
            expiries.append(Expiry(self.created_at + self.lifetime, ExpiryCause.LIFETIME))
        return expiries

    @property
    def due_at(self) -> float | None:
        """Time at which the sweep must act on this record if it does not change; None for never."""
        if self.status is Status.TERMINATING:
            return max(self._retry_at, self.deadline or 0.0)
        waits_for_job = self.is_active and not self.is_provisioned
        dues = [self._retry_at if waits_for_job else self.deadline, self._expiry_due_at]
        return min((due for due in dues if due is not None), default=None)

    @property
    def _retry_at(self) -> float:
        """Time at which a waiting or running job counts as stalled."""
        doublings = min(max(0, self.attempt - FAST_RETRIES), MAX_BACKOFF_DOUBLINGS)
        return self.updated_at + STALLED_SECONDS * 2.0**doublings

    @property
    def _expiry_due_at(self) -> float | None:
        """Time of the next expiry. An activity probe defers the idle expiry, but not the end of the lifetime."""
        probing_until = self.probing_until or 0.0
        times = (max(e.at, probing_until) if e.by is ExpiryCause.IDLE else e.at for e in self._expiries)
        return min(times, default=None)
