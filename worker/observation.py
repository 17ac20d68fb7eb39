"""Pure: what a Pod looks like → what its record says. Only differences become writes.

A Pod with a `deletionTimestamp` ends as phase `Failed`: that is not a failure, so the phase of a dying
Pod is not taken over.
"""

from msgspec.structs import replace

from shared.sandbox import ALLOWED, Reason, Sandbox, Status, Timings, failed
from worker.seen import Pod

_PHASES = {status.value: status for status in Status if status is not Status.TERMINATING}


def observed(record: Sandbox, pod: Pod, *, now: float) -> Sandbox:
    """`record` as its own Pod shows it now; the same record when there is nothing new."""
    if not record.wants_pod:
        return record
    status = _status(record, pod)
    ready = status is Status.RUNNING and pod.has("Ready") and not pod.is_dying
    return replace(
        record,
        status=status,
        ready=ready,
        pod_name=pod.metadata.name,
        pod_uid=pod.metadata.uid,
        timings=_timings(record.timings, pod, status, ready=ready, now=now),
        **_cause(record, pod, status),
    )


def vanished(record: Sandbox, life: str, uid: str) -> Sandbox | None:
    """`record` once this Pod of this life is gone: None when that is what was wanted, and nothing is left to record.

    A life whose Pod was taken away from outside is over, and says so. What it never had, it cannot lose.
    """
    if record.life != life:
        return record
    if record.status is Status.TERMINATING:
        return None
    if record.wants_pod and record.pod_uid == uid:
        return failed(record, Reason.POD_LOST, "The Pod is gone: it was deleted, evicted, or went with its node.")
    return record


def _status(record: Sandbox, pod: Pod) -> Status:
    phase = _PHASES.get(pod.status.phase, Status.UNKNOWN)
    if pod.is_dying or phase not in ALLOWED[record.status]:
        return record.status
    return phase


def _cause(record: Sandbox, pod: Pod, status: Status) -> dict[str, object]:
    if status is Status.FAILED:
        message = pod.status.message or pod.status.reason or "The Pod ended as failed; Kubernetes gives no cause."
        return {"reason": Reason.POD_FAILED, "message": message}
    if status is record.status:
        return {}
    return {"reason": Reason.NONE, "message": ""}


def _timings(timings: Timings, pod: Pod, status: Status, *, ready: bool, now: float) -> Timings:
    """The first time each stage is seen, by our clock: Kubernetes' own times are whole seconds."""
    return replace(
        timings,
        scheduled=timings.scheduled or (now if pod.spec.node_name else None),
        running=timings.running or (now if status is Status.RUNNING else None),
        ready=timings.ready or (now if ready else None),
    )
