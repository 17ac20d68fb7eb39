"""Diagnoses a Pod: why it does not run, as a reason of the closed list and a message for people. Pure.

Kubernetes' texts were recorded from release 1.36 (the transcripts `pod-stuck-…` in the tests). A cause is permanent if
waiting does not help: the image does not exist, or the container crashes again and again. Any other cause can end, so
the sandbox stays Pending until its provisioning deadline.
"""

from typing import NamedTuple

from shared.sandbox.record import Reason
from worker.kubernetes.objects import ContainerStatus, Event, Pod

MAX_CRASHES = 3
"""Restarts after which a crash counts as permanent: about a minute of the kubelet's back-off."""
MIN_PROBE_FAILURES = 10
"""Failed probes before the record shows them. The startup probe runs every second while a sandbox starts."""

_IMAGE_ERRORS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
)
_PERMANENT_IMAGE_ERRORS = (
    "not found",
    "NotFound",
    "manifest unknown",
    "does not exist",
    "denied",
    "unauthorized",
    "couldn't parse",
)
"""Parts of messages of registries and container runtimes."""
_CREATE_ERRORS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


class Cause(NamedTuple):
    reason: Reason
    message: str
    is_permanent: bool = False


def diagnose(pod: Pod) -> Cause | None:
    """Return the cause that explains most; None if the Pod shows no problem."""
    return _diagnose_phase(pod) or _diagnose_scheduling(pod) or _diagnose_containers(pod)


def is_rejected(pod: Pod) -> bool:
    """Return True if the Pod ended before any container ran, for a cause of its node: another Pod may run.

    The kubelet rejects a Pod that no longer fits its node (`OutOfcpu`, `NodeAffinity`), and a node under pressure or a
    preempting scheduler may end one that has not started.
    """
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    has_run = any(s.restart_count or s.state.running or s.state.terminated or s.last_state.terminated for s in statuses)
    return pod.status.phase == "Failed" and bool(pod.status.reason) and not has_run


def diagnose_event(event: Event) -> Cause | None:
    """Return a cause that the Pod itself does not show. No such cause is permanent: a volume can become available."""
    if event.reason in {"FailedMount", "FailedAttachVolume"}:
        return Cause(Reason.MOUNT_FAILED, event.message)
    if event.reason == "Unhealthy" and event.times >= MIN_PROBE_FAILURES:
        return Cause(Reason.PROBE_FAILED, event.message)
    return None


def _diagnose_phase(pod: Pod) -> Cause | None:
    if pod.status.phase != "Failed":
        return None
    message = pod.status.message or pod.status.reason or "The Pod failed. Kubernetes gives no cause."
    reason = Reason.EVICTED if pod.status.reason == "Evicted" else Reason.POD_FAILED
    return Cause(reason, message, is_permanent=True)


def _diagnose_scheduling(pod: Pod) -> Cause | None:
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            is_pvc_missing = "persistentvolumeclaim" in condition.message and "not found" in condition.message
            return Cause(Reason.CLAIM_MISSING if is_pvc_missing else Reason.UNSCHEDULABLE, condition.message)
    return None


def _diagnose_containers(pod: Pod) -> Cause | None:
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return next((cause for cause in map(_diagnose_container, statuses) if cause), None)


def _diagnose_container(status: ContainerStatus) -> Cause | None:
    waiting = status.state.waiting
    if waiting and waiting.reason in _IMAGE_ERRORS:
        is_permanent = waiting.reason == "InvalidImageName" or any(
            text in waiting.message for text in _PERMANENT_IMAGE_ERRORS
        )
        return Cause(Reason.IMAGE_PULL_FAILED, waiting.message or waiting.reason, is_permanent)
    if waiting and waiting.reason in _CREATE_ERRORS:
        return Cause(Reason.MOUNT_FAILED if "mount" in waiting.message else Reason.INVALID, waiting.message)
    return _diagnose_crash(status)


def _diagnose_crash(status: ContainerStatus) -> Cause | None:
    """Return a cause if the container terminated and is not running. A running container has recovered."""
    last = status.state.terminated or status.last_state.terminated
    if status.state.running is not None or last is None or not status.restart_count:
        return None
    is_permanent = status.restart_count >= MAX_CRASHES
    if last.reason == "OOMKilled":
        message = f"Container {status.name} exceeded its memory limit. Restarts: {status.restart_count}."
        return Cause(Reason.OUT_OF_MEMORY, message, is_permanent)
    message = f"Container {status.name} terminated with exit code {last.exit_code}. Restarts: {status.restart_count}."
    return Cause(Reason.CRASH_LOOP, message, is_permanent)
