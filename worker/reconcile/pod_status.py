"""Pure: what a Pod looks like → what its record says. Only differences become writes.

A Pod with a `deletionTimestamp` ends as phase `Failed`: that is not a failure, so the phase of a dying
Pod is not taken over.
"""

from msgspec.structs import replace

from shared.queue.job import Job, JobKind
from shared.sandbox.record import ALLOWED_TRANSITIONS, TERMINAL_STATUSES, Reason, Sandbox, Status, Timings
from shared.sandbox.transitions import failed, next_attempt, with_reason
from shared.store.update import Update
from worker.kubernetes.objects import Pod
from worker.reconcile.diagnosis import Cause, diagnose

_TOLD_BY_EVENTS = frozenset({Reason.MOUNT_FAILED, Reason.PROBE_FAILED})
"""What the Pod itself does not show: it stays said until the Pod gets over it."""
_PHASES = {status.value: status for status in Status if status is not Status.TERMINATING}


def to_update(record: Sandbox, new: Sandbox | None) -> Update | None:
    """What to write, if anything is new. A life that ends leaves a Pod or a Service behind, and earlier lives may have:
    a job removes them before the record goes."""
    if new == record:
        return None
    if new is None and record.generation > 1:
        again = next_attempt(record)
        return Update(again, (Job.of(JobKind.TERMINATE, again),))
    if new is None or record.status in TERMINAL_STATUSES or new.status not in TERMINAL_STATUSES:
        return Update(new)
    over = next_attempt(new)
    return Update(over, (Job.of(JobKind.TERMINATE, over),))


def should_write(record: Sandbox, new: Sandbox) -> bool:
    """That a Pod is there and has a node is said along with what comes next, as long as its job still works on it: the
    job itself will say the first, and needs no other writer beside it just then."""
    if record.is_provisioned:
        return new != record
    return new != replace(record, pod_name=new.pod_name, pod_uid=new.pod_uid, timings=new.timings)


def apply_pod(
    record: Sandbox, pod: Pod, *, now: float, deadline: float | None = None, first_seen: Timings = Timings()
) -> Sandbox:
    """`record` as its own Pod shows it now; the same one when nothing is new. One that fails is kept `until`.

    `first_seen` holds times at which the Pod was first seen in a stage, if that was before `now`.
    """
    if not record.is_active:
        return record
    if pod.is_stuck(now):
        message = "The Pod should be gone since long, and is not: its node may be lost, or a finalizer holds it."
        return failed(record, Reason.POD_LOST, message, deadline=deadline)
    status = _status(record, pod)
    ready = status is Status.RUNNING and pod.is_condition_true("Ready") and not pod.is_terminating
    seen = replace(
        record,
        status=status,
        ready=ready,
        pod_name=pod.metadata.name,
        pod_uid=pod.metadata.uid,
        deadline=deadline if status is Status.SUCCEEDED else None if ready else record.deadline,
        timings=_timings(record.timings, pod, status, ready=ready, now=now, first_seen=first_seen),
    )
    return _explained(seen, None if pod.is_terminating else diagnose(pod), deadline)


def _explained(record: Sandbox, why: Cause | None, deadline: float | None) -> Sandbox:
    """With what is wrong. What does not mend itself fails a sandbox that was never ready; one that was may recover."""
    if why is None and _is_still_so(record):
        return record
    if why is None:
        return with_reason(record, Reason.NONE, "") if record.is_provisioned else record
    if record.status is Status.FAILED or (why.is_permanent and record.timings.ready is None):
        return failed(record, why.reason, why.message, deadline=deadline)
    return with_reason(record, why.reason, why.message)


def _is_still_so(record: Sandbox) -> bool:
    if record.ready or record.reason not in _TOLD_BY_EVENTS:
        return False
    return record.reason == Reason.PROBE_FAILED or record.status is Status.PENDING


def apply_event(record: Sandbox, pod_uid: str, why: Cause) -> Sandbox:
    """`record` after Kubernetes told of trouble with this Pod. What the Pod itself shows is more telling."""
    is_told = record.reason in _TOLD_BY_EVENTS or not record.reason
    if not record.is_active or record.ready or not is_told or record.pod_uid not in {"", pod_uid}:
        return record
    return with_reason(record, why.reason, why.message)


def apply_pod_gone(record: Sandbox, incarnation: str, uid: str, *, deadline: float | None = None) -> Sandbox | None:
    """`record` once this Pod of this life is gone: None when that is what was wanted, and nothing is left to record.

    A life whose Pod was taken away from outside is over, and says so, also when its job had not said yet that it had
    one. Another Pod than its own, it cannot lose.
    """
    if record.incarnation != incarnation:
        return record
    if record.status is Status.TERMINATING:
        return None
    if record.is_active and record.pod_uid in {"", uid}:
        message = "The Pod is gone: it was deleted, evicted, or went with its node."
        return failed(record, Reason.POD_LOST, message, deadline=deadline)
    return record


def _status(record: Sandbox, pod: Pod) -> Status:
    phase = _PHASES.get(pod.status.phase, Status.UNKNOWN)
    if pod.is_terminating or phase not in ALLOWED_TRANSITIONS[record.status]:
        return record.status
    return phase


def _timings(timings: Timings, pod: Pod, status: Status, *, ready: bool, now: float, first_seen: Timings) -> Timings:
    """The first time each stage is seen, by our clock: Kubernetes' own times are whole seconds."""
    return replace(
        timings,
        scheduled=timings.scheduled or first_seen.scheduled or (now if pod.spec.node_name else None),
        running=timings.running or first_seen.running or (now if status is Status.RUNNING else None),
        ready=timings.ready or first_seen.ready or (now if ready else None),
    )
