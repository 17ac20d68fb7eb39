"""Turns a Pod's state into its record's status. Pure.

`apply_pod` decides status, `ready`, reason and timings from the Pod. `apply_event` adds a cause that only an Event
shows, and `apply_pod_gone` handles a Pod that no longer exists. `to_update` decides which write and job follow.

A Pod with a `deletionTimestamp` ends in phase `Failed` without a failure. So the phase of a terminating Pod is ignored.
"""

from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.record import ALLOWED_TRANSITIONS, TERMINAL_STATUSES, Reason, Sandbox, Status, Timings
from shared.sandbox.transitions import failed, next_attempt, with_reason
from shared.store.update import Update
from worker.kubernetes.objects import Pod
from worker.reconcile.diagnosis import Cause, diagnose

_EVENT_REASONS = frozenset({Reason.MOUNT_FAILED, Reason.PROBE_FAILED})
"""Reasons that only Events show. The Pod cannot contradict them, so they stay until the Pod makes progress."""
_NOTHING_SEEN = Timings()
_STATUS_BY_PHASE = {status.value: status for status in Status if status is not Status.TERMINATING}


def apply_pod(
    record: Sandbox, pod: Pod, *, now: float, deadline: float | None = None, first_seen: Timings = _NOTHING_SEEN
) -> Sandbox:
    """Return the record with the status that its own Pod shows; `record` itself if nothing changes.

    Times are in seconds since the epoch. `deadline` is the end of the retention if the Pod has failed or succeeded.
    `first_seen` holds the times at which the Pod was first seen in a stage, if that was before `now`.
    """
    if not record.is_active:
        return record
    if pod.is_stuck(now):
        message = "The deletion of the Pod is overdue: its node may be lost, or a finalizer blocks the deletion."
        return failed(record, Reason.POD_LOST, message, deadline=deadline)
    status = _next_status(record, pod)
    ready = status is Status.RUNNING and pod.is_condition_true("Ready") and not pod.is_terminating
    new = replace(
        record,
        status=status,
        ready=ready,
        pod_name=pod.metadata.name,
        pod_uid=pod.metadata.uid,
        deadline=deadline if status is Status.SUCCEEDED else None if ready else record.deadline,
        timings=_next_timings(record.timings, pod, status, ready=ready, now=now, first_seen=first_seen),
    )
    return _with_cause(new, None if pod.is_terminating else diagnose(pod), deadline)


def apply_event(record: Sandbox, pod_uid: str, cause: Cause) -> Sandbox:
    """Return the record with the cause that an Event of this Pod shows. A cause that the Pod shows has priority."""
    is_replaceable = record.reason in _EVENT_REASONS or not record.reason
    if not record.is_active or record.ready or not is_replaceable or record.pod_uid not in {"", pod_uid}:
        return record
    return with_reason(record, cause.reason, cause.message)


def apply_pod_gone(record: Sandbox, incarnation: str, uid: str, *, deadline: float | None = None) -> Sandbox | None:
    """Return the record after a Pod of this incarnation is gone; None if the sandbox was being deleted.

    If the Pod of an active sandbox was deleted from outside, the sandbox has failed. That also holds if the provision
    job has not written the Pod's uid yet. A Pod with another uid than the record's changes nothing. The record of the
    failed sandbox can be read until `deadline`, in seconds since the epoch.
    """
    if record.incarnation != incarnation:
        return record
    if record.status is Status.TERMINATING:
        return None
    if record.is_active and record.pod_uid in {"", uid}:
        message = "The Pod is gone: it was deleted or evicted, or its node was removed."
        return failed(record, Reason.POD_LOST, message, deadline=deadline)
    return record


def should_write(record: Sandbox, new: Sandbox) -> bool:
    """Return False if the only news is that the Pod exists or was scheduled, and the provision job still runs.

    That job writes the Pod's name itself. A second writer would only cause a conflict. Both facts are written together
    with the next change.
    """
    if record.is_provisioned:
        return new != record
    return new != replace(record, pod_name=new.pod_name, pod_uid=new.pod_uid, timings=new.timings)


def to_update(record: Sandbox, new: Sandbox | None) -> Update | None:
    """Return the write that turns `record` into `new`, which is None for a delete; None if nothing changes.

    The update contains a terminate job if Pods or Services can be left: the incarnation ended, or the id had earlier
    incarnations. In the second case the job deletes the record.
    """
    if new == record:
        return None
    if new is None and record.generation > 1:
        new = next_attempt(record)
        return Update(new, (Job.of(JobKind.TERMINATE, new),))
    if new is None or record.status in TERMINAL_STATUSES or new.status not in TERMINAL_STATUSES:
        return Update(new)
    new = next_attempt(new)
    return Update(new, (Job.of(JobKind.TERMINATE, new),))


def _next_status(record: Sandbox, pod: Pod) -> Status:
    """Return the Pod's phase as a status, or the old status if the transition is not allowed."""
    status = _STATUS_BY_PHASE.get(pod.status.phase, Status.UNKNOWN)
    if pod.is_terminating or status not in ALLOWED_TRANSITIONS[record.status]:
        return record.status
    return status


def _next_timings(
    timings: Timings, pod: Pod, status: Status, *, ready: bool, now: float, first_seen: Timings
) -> Timings:
    """Add the time of each stage that is reached. The worker's clock is used: Kubernetes' times are whole seconds."""
    return replace(
        timings,
        scheduled=timings.scheduled or first_seen.scheduled or (now if pod.spec.node_name else None),
        running=timings.running or first_seen.running or (now if status is Status.RUNNING else None),
        ready=timings.ready or first_seen.ready or (now if ready else None),
    )


def _with_cause(record: Sandbox, cause: Cause | None, deadline: float | None) -> Sandbox:
    """Add, replace or clear the reason. A permanent cause fails a sandbox that was never ready; others can recover."""
    if cause is None and _keeps_event_reason(record):
        return record
    if cause is None:
        return with_reason(record, Reason.NONE, "") if record.is_provisioned else record
    if record.status is Status.FAILED or (cause.is_permanent and record.timings.ready is None):
        return failed(record, cause.reason, cause.message, deadline=deadline)
    return with_reason(record, cause.reason, cause.message)


def _keeps_event_reason(record: Sandbox) -> bool:
    """Return True if the record's reason comes from an Event and the Pod has made no progress since."""
    if record.ready or record.reason not in _EVENT_REASONS:
        return False
    return record.reason == Reason.PROBE_FAILED or record.status is Status.PENDING
