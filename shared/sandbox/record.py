"""The record of one sandbox.

One vocabulary: `status` is the Pod's phase as Kubernetes spells it, and `Terminating`. `ready` is the Pod's Ready
condition, apart, because a Running Pod may flap. What is known beyond that is `reason` (a closed list) and `message`.

An id comes back: DeerFlow derives it from user and thread, so a delete and a create of one id seconds apart are normal.
Every such life has a number, its `generation`, and a `token` that no other life of any sandbox has. Whatever acts for
a life names it (`life`), so that what comes late for an earlier one cannot touch a later one, not even when Redis has
forgotten the earlier one and counts from 1 again.
"""

from enum import StrEnum
from typing import NamedTuple

import msgspec


class Status(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"
    TERMINATING = "Terminating"


class Reason(StrEnum):
    """Why a sandbox is as it is; empty when there is nothing to say.

    Records hold it as a plain string: a later version of us may know more of them.
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


class ExpiryCause(StrEnum):
    """Which of a sandbox' two times was over."""

    IDLE = "idle"
    LIFETIME = "lifetime"


STALLED_SECONDS = 15.0
"""A record that waits for a job and has not moved for this long gets another one. A healthy job takes a tenth of
it; one that still runs then does no harm beside its successor."""
FAST_RETRIES = 5
MAX_BACKOFF_DOUBLINGS = 4
"""What so many jobs could not move (a Pod on a node that is lost, say) is looked at less and less often: at last, every
four minutes."""

TERMINAL_STATUSES = frozenset({Status.SUCCEEDED, Status.FAILED})
"""A life in one of these is over for the client: the next create of its id begins a new one."""

ALLOWED_TRANSITIONS: dict[Status, frozenset[Status]] = {
    Status.PENDING: frozenset(Status),
    Status.RUNNING: frozenset(Status) - {Status.PENDING},
    Status.UNKNOWN: frozenset(Status) - {Status.PENDING},
    Status.SUCCEEDED: frozenset({Status.SUCCEEDED, Status.TERMINATING}),
    Status.FAILED: frozenset({Status.FAILED, Status.TERMINATING}),
    Status.TERMINATING: frozenset({Status.TERMINATING}),
}
"""Within one life. A phase never goes back to Pending, and nothing comes back from its end or its delete."""


class Mount(msgspec.Struct, frozen=True, omit_defaults=True):
    host_path: str
    container_path: str
    read_only: bool = False


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the caller asked for; with the settings it decides the whole Pod."""

    user_id: str = "default"
    thread_id: str | None = None
    extra_mounts: tuple[Mount, ...] = ()
    provision_lark_cli_runtime: bool = False
    provision_lark_cli_broker: bool = False
    idle_timeout_seconds: int | None = None
    lifetime_seconds: int | None = None


class Expiry(NamedTuple):
    """When a sandbox' time is over if nobody uses it any more, and which of its times that is."""

    at: float
    by: ExpiryCause


class Timings(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a life reached each stage, seconds since the epoch; None: not yet, or nobody saw it.

    `queued` is the end of its time in the queue: a worker took it up. `created`: Pod and Service are made.
    """

    queued: float | None = None
    created: float | None = None
    scheduled: float | None = None
    running: float | None = None
    ready: float | None = None


class Sandbox(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times are seconds since the epoch. `revision` counts the writes of one life, `attempt` its jobs.

    `until` bounds a state that must not last: when a life that was never ready is given up, when a failed one is
    forgotten, before when one that is being ended needs no other job. None: nothing of that kind.

    `idle_timeout` counts from the last use, and does not end before `kept_until`; `lifetime` counts from the creation;
    0: none. `asked_until`: whether it is busy is being asked; by then there is an answer. `expired_at`, `expired_by`: its
    time was over.
    """

    id: str
    generation: int
    token: str
    cluster: str
    spec: Spec
    created_at: float
    updated_at: float
    last_used_at: float
    revision: int = 1
    attempt: int = 1
    status: Status = Status.PENDING
    ready: bool = False
    url: str = ""
    pod_name: str = ""
    pod_uid: str = ""
    service_uid: str = ""
    reason: str = Reason.NONE
    message: str = ""
    deadline: float | None = None
    idle_timeout: float = 0.0
    lifetime: float = 0.0
    keep_alive_until: float = 0.0
    probing_until: float | None = None
    expired_at: float | None = None
    expired_by: str = ""
    timings: Timings = Timings()

    @property
    def incarnation(self) -> str:
        """Names this life in jobs and on the Pod: `{generation}-{token}`, a valid label value."""
        return f"{self.generation}-{self.token}"

    @property
    def thread_id(self) -> str:
        """The thread it is for; asked for none, it is for itself."""
        return self.spec.thread_id or self.id

    @property
    def is_provisioned(self) -> bool:
        """Pod and Service are made, and the record says where. (A ClusterIP URL is known before that.)"""
        return bool(self.service_uid)

    @property
    def is_active(self) -> bool:
        """False once the life is over or being ended: nothing more may be made for it."""
        return self.status not in TERMINAL_STATUSES and self.status is not Status.TERMINATING

    @property
    def is_expiring(self) -> bool:
        """It is being ended because its time was over: nobody waits for that."""
        return self.status is Status.TERMINATING and self.expired_at is not None

    @property
    def expiry(self) -> Expiry | None:
        """The first of its ends; None: it never expires, or is over already."""
        return min(self._expiries, default=None)

    def expired_by_now(self, now: float) -> ExpiryCause | None:
        """Which of its times is over by now, its lifetime first: nothing prolongs that."""
        over = {end.by for end in self._expiries if end.at <= now}
        return ExpiryCause.LIFETIME if ExpiryCause.LIFETIME in over else ExpiryCause.IDLE if over else None

    @property
    def _expiries(self) -> list[Expiry]:
        if not self.is_active:
            return []
        idle_at = max(self.last_used_at + self.idle_timeout, self.keep_alive_until)
        ends = [Expiry(idle_at, ExpiryCause.IDLE)] if self.idle_timeout else []
        return [*ends, Expiry(self.created_at + self.lifetime, ExpiryCause.LIFETIME)] if self.lifetime else ends

    @property
    def due_at(self) -> float | None:
        """When somebody must look at this record again if nothing happens to it; None: never."""
        if self.status is Status.TERMINATING:
            return max(self._retry_at, self.deadline or 0.0)
        waits_for_job = self.is_active and not self.is_provisioned
        dues = [self._retry_at if waits_for_job else self.deadline, self._expiry_due_at]
        return min((due for due in dues if due is not None), default=None)

    @property
    def _retry_at(self) -> float:
        """A job that waits or runs has had its time by then."""
        doublings = min(max(0, self.attempt - FAST_RETRIES), MAX_BACKOFF_DOUBLINGS)
        return self.updated_at + STALLED_SECONDS * 2.0**doublings

    @property
    def _expiry_due_at(self) -> float | None:
        """While it is asked whether it is busy, only the end of its lifetime counts."""
        probing_until = self.probing_until or 0.0
        return min(
            (max(e.at, probing_until) if e.by is ExpiryCause.IDLE else e.at for e in self._expiries), default=None
        )
