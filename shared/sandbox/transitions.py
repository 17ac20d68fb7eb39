"""The moves a record may make. Pure: each takes a record and gives the next one."""

import secrets

import msgspec
from msgspec.structs import replace

from shared.sandbox.expiry import NEVER_EXPIRES, ExpiryPolicy
from shared.sandbox.record import ExpiryCause, Reason, Sandbox, Spec, Status


class ProvisionedObjects(msgspec.Struct, frozen=True):
    """What a life has in the cluster, in the words of its record."""

    pod_name: str
    pod_uid: str
    service_uid: str
    url: str


def new_record(
    sandbox_id: str,
    spec: Spec,
    *,
    cluster: str,
    now: float,
    deadline: float | None = None,
    generation: int = 1,
    policy: ExpiryPolicy = NEVER_EXPIRES,
) -> Sandbox:
    """The first record of a life: wanted, and nothing done yet."""
    return Sandbox(
        id=sandbox_id,
        generation=generation,
        token=secrets.token_hex(4),
        cluster=cluster,
        spec=spec,
        created_at=now,
        updated_at=now,
        last_used_at=now,
        deadline=deadline,
        idle_timeout=policy.idle_timeout,
        lifetime=policy.lifetime,
    )


def new_incarnation(
    previous: Sandbox, spec: Spec, *, now: float, deadline: float | None = None, policy: ExpiryPolicy = NEVER_EXPIRES
) -> Sandbox:
    """The same id again, when its last life is over or being ended."""
    generation = previous.generation + 1
    return new_record(
        previous.id, spec, cluster=previous.cluster, now=now, deadline=deadline, generation=generation, policy=policy
    )


def started(record: Sandbox, begun: float) -> Sandbox:
    """A worker has begun with it: the first time counts."""
    return replace(record, timings=replace(record.timings, queued=record.timings.queued or begun))


def provisioned(record: Sandbox, made: ProvisionedObjects, *, now: float) -> Sandbox:
    """With what was made. It may have been made before, and lost its Service since: the first time counts."""
    timings = replace(record.timings, created=record.timings.created or now)
    return replace(record, **msgspec.structs.asdict(made), timings=timings, reason=Reason.NONE, message="")


def without_service(record: Sandbox) -> Sandbox:
    """Its Service is gone, and with it the URL, until a job has made another."""
    return replace(record, service_uid="", url="")


def failed(record: Sandbox, reason: str, message: str, *, deadline: float | None = None) -> Sandbox:
    """Over for good, with its cause; to be read `until` then."""
    return replace(record, status=Status.FAILED, ready=False, reason=reason, message=message, deadline=deadline)


def terminating(record: Sandbox) -> Sandbox:
    return replace(record, status=Status.TERMINATING, ready=False, deadline=None)


def touched(record: Sandbox, now: float, *, keep_seconds: float = 0.0) -> Sandbox:
    """Somebody uses it now, and for so long. Its lifetime stays as it is."""
    last_used_at, keep_alive_until = max(record.last_used_at, now), max(record.keep_alive_until, now + keep_seconds)
    return replace(
        record,
        last_used_at=last_used_at,
        keep_alive_until=keep_alive_until if keep_seconds else record.keep_alive_until,
    )


def probing(record: Sandbox, deadline: float) -> Sandbox:
    """Before it is ended, it is asked whether it is busy."""
    return replace(record, probing_until=deadline)


def expired(record: Sandbox, by: ExpiryCause, now: float, *, deadline: float | None = None) -> Sandbox:
    """Its time is over; `until` then the job that ends it has not begun."""
    return replace(terminating(record), expired_at=now, expired_by=by, deadline=deadline)


def next_attempt(record: Sandbox) -> Sandbox:
    """Each job of a life has a number of its own: one that is stuck or late neither blocks nor doubles the next."""
    return replace(record, attempt=record.attempt + 1)


def with_reason(record: Sandbox, reason: Reason, message: str) -> Sandbox:
    """Something stands in the way and is being tried again; the status stays what was last seen."""
    return replace(record, reason=reason, message=message)
