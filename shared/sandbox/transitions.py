"""Transitions: pure functions from one record to the next one."""

import secrets

import msgspec
from msgspec.structs import replace

from shared.sandbox.expiry import NEVER_EXPIRES, ExpiryPolicy
from shared.sandbox.record import JOB_REASONS, ExpiryCause, Reason, Sandbox, Spec, Status


class ProvisionedObjects(msgspec.Struct, frozen=True):
    """Objects of one incarnation in the cluster, by the field names of the record."""

    pod_name: str
    pod_uid: str
    service_uid: str
    url: str
    node_port: int | None = None


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
    """Return the first record of an incarnation, with a new token."""
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
    """Return the first record of the id's next incarnation. The previous one has ended or terminates."""
    generation = previous.generation + 1
    return new_record(
        previous.id, spec, cluster=previous.cluster, now=now, deadline=deadline, generation=generation, policy=policy
    )


def started(record: Sandbox, started_at: float) -> Sandbox:
    """Note that a worker has started the provision job. A later start does not change the time."""
    return replace(record, timings=replace(record.timings, queued=record.timings.queued or started_at))


def provisioned(record: Sandbox, objects: ProvisionedObjects, *, now: float) -> Sandbox:
    """Add Pod, Service and URL. If a lost Service was replaced, the time of the first provisioning stays.

    A reason that the provision job wrote ends with the job. A reason that the Pod shows stays.
    """
    timings = replace(record.timings, created=record.timings.created or now)
    record = replace(record, **msgspec.structs.asdict(objects), timings=timings)
    return with_reason(record, Reason.NONE, "") if record.reason in JOB_REASONS else record


def without_service(record: Sandbox) -> Sandbox:
    """Remove the lost Service and its URL. A provision job creates another Service, with the same node port if free."""
    return replace(record, service_uid="", url="")


def failed(record: Sandbox, reason: str, message: str, *, deadline: float | None = None) -> Sandbox:
    """End the incarnation as failed. The record can be read until `deadline`."""
    return replace(record, status=Status.FAILED, ready=False, reason=reason, message=message, deadline=deadline)


def terminating(record: Sandbox) -> Sandbox:
    return replace(record, status=Status.TERMINATING, ready=False, deadline=None)


def touched(record: Sandbox, now: float, *, keep_seconds: float = 0.0) -> Sandbox:
    """Record a use at `now`, and keep the sandbox at least `keep_seconds` longer. The lifetime does not change."""
    keep_alive_until = now + keep_seconds if keep_seconds else 0.0
    return replace(
        record,
        last_used_at=max(record.last_used_at, now),
        keep_alive_until=max(record.keep_alive_until, keep_alive_until),
    )


def probing(record: Sandbox, deadline: float) -> Sandbox:
    """Wait for an activity probe, at most until `deadline`, before the idle sandbox expires."""
    return replace(record, probing_until=deadline)


def expired(record: Sandbox, cause: ExpiryCause, now: float, *, deadline: float | None = None) -> Sandbox:
    """End the incarnation because it expired. Before `deadline` its terminate job may still wait for its slot."""
    return replace(terminating(record), expired_at=now, expired_by=cause, deadline=deadline)


def next_attempt(record: Sandbox) -> Sandbox:
    """Count one more job. The number is part of the job's id, so a lost or late job does not block the next one."""
    return replace(record, attempt=record.attempt + 1)


def with_reason(record: Sandbox, reason: str, message: str) -> Sandbox:
    """Explain why provisioning is retried. The status stays as last seen."""
    return replace(record, reason=reason, message=message)
