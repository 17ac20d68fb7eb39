"""Pure: why a Pod is not well, in a word of the closed list and in words fit for a person.

What Kubernetes writes was read off a real 1.36 (the `pod-stuck-…` transcripts in the tests). `is_hopeless` marks what
does not mend itself: the image is not there, the container dies again and again. All else may yet come right, and is
given until the provisioning deadline.
"""

from typing import NamedTuple

from shared.sandbox.record import Reason
from worker.kubernetes.objects import ContainerStatus, Event, Pod

MAX_CRASHES = 3
"""Restarts after which a crash is no accident: about a minute of Kubernetes' own back-off."""
_IMAGE = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_NO_IMAGE = ("not found", "NotFound", "manifest unknown", "does not exist", "denied", "unauthorized", "couldn't parse")
_MADE_WRONG = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


MIN_PROBE_FAILURES = 10
"""Probes that fail before it is said: the startup probe asks every second, and a sandbox may take some to start."""


class Cause(NamedTuple):
    reason: Reason
    message: str
    is_permanent: bool = False


def diagnose(pod: Pod) -> Cause | None:
    """The first that is found, the most telling first; None: nothing is known to be wrong."""
    return _ended(pod) or _unscheduled(pod) or _of_containers(pod)


def diagnose_event(happening: Event) -> Cause | None:
    """What an event says that the Pod itself does not show. None of it is hopeless: a volume may yet come."""
    if happening.reason in {"FailedMount", "FailedAttachVolume"}:
        return Cause(Reason.MOUNT_FAILED, happening.message)
    if happening.reason == "Unhealthy" and happening.times >= MIN_PROBE_FAILURES:
        return Cause(Reason.PROBE_FAILED, happening.message)
    return None


def _ended(pod: Pod) -> Cause | None:
    if pod.status.phase != "Failed":
        return None
    message = pod.status.message or pod.status.reason or "The Pod ended as failed; Kubernetes gives no cause."
    reason = Reason.EVICTED if pod.status.reason == "Evicted" else Reason.POD_FAILED
    return Cause(reason, message, is_permanent=True)


def _unscheduled(pod: Pod) -> Cause | None:
    for condition in pod.status.conditions:
        if condition.type == "PodScheduled" and condition.status == "False":
            is_claim = "persistentvolumeclaim" in condition.message and "not found" in condition.message
            return Cause(Reason.CLAIM_MISSING if is_claim else Reason.UNSCHEDULABLE, condition.message)
    return None


def _of_containers(pod: Pod) -> Cause | None:
    statuses = (*pod.status.init_container_statuses, *pod.status.container_statuses)
    return next((found for found in map(_of_container, statuses) if found), None)


def _of_container(status: ContainerStatus) -> Cause | None:
    waiting = status.state.waiting
    if waiting and waiting.reason in _IMAGE:
        hopeless = waiting.reason == "InvalidImageName" or any(word in waiting.message for word in _NO_IMAGE)
        return Cause(Reason.IMAGE_PULL_FAILED, waiting.message or waiting.reason, hopeless)
    if waiting and waiting.reason in _MADE_WRONG:
        return Cause(Reason.MOUNT_FAILED if "mount" in waiting.message else Reason.INVALID, waiting.message)
    return _crash(status)


def _crash(status: ContainerStatus) -> Cause | None:
    """A container that ended and is not running again; while it runs, its past is forgiven."""
    last = status.state.terminated or status.last_state.terminated
    if status.state.running is not None or last is None or not status.restart_count:
        return None
    hopeless = status.restart_count >= MAX_CRASHES
    if last.reason == "OOMKilled":
        message = f"Container {status.name} outgrew its memory limit, and was restarted {status.restart_count} times."
        return Cause(Reason.OUT_OF_MEMORY, message, hopeless)
    message = f"Container {status.name} ended with exit code {last.exit_code}, {status.restart_count} times in a row."
    return Cause(Reason.CRASH_LOOP, message, hopeless)
