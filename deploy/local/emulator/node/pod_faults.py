"""Faults of Pods, with the statuses and Events that a real kubelet shows for them."""

import asyncio
import itertools

from deploy.local.emulator.base import images
from deploy.local.emulator.base.statuses import Object
from deploy.local.emulator.node.pod_runtime import PodRuntime
from deploy.local.emulator.node.pod_status import KILLED

BACKOFF_SECONDS = 10.0  # first back-off of a kubelet, doubled each time; the `seconds` of a rule replace it
BACKOFF_MAX = 300.0
_REPORT_SHARE = 1 / 20  # share of a back-off that passes before the kubelet reports it
_MINUTE = 60
_FLAP_SECONDS = 1.0


def _backoff_seconds(pod: PodRuntime, attempt: int) -> float:
    return min(pod.rule_seconds(BACKOFF_SECONDS) * float(2**attempt), BACKOFF_MAX)


async def wait_for_mounts(pod: PodRuntime) -> None:
    """Wait while a volume cannot be mounted. The Pod stays ContainerCreating; an Event with the cause repeats."""
    for attempt in itertools.count():
        if not pod.has_fault("no-mount"):
            return
        pod.record_event("FailedMount", _mount_failure(pod), event_type="Warning")
        await asyncio.sleep(_backoff_seconds(pod, attempt) * _REPORT_SHARE)


def _mount_failure(pod: PodRuntime) -> str:
    volumes: list[Object] = pod.spec.get("volumes", [])
    volume: Object = next((v for v in volumes if "hostPath" in v), volumes[0] if volumes else {"name": "none"})
    path = volume.get("hostPath", {}).get("path", volume["name"])
    error = f'MountVolume.SetUp failed for volume "{volume["name"]}"'
    return f"{error} : hostPath type check failed: {path} is not a directory"


async def wait_for_image(pod: PodRuntime) -> None:
    for attempt in itertools.count():
        if not pod.has_fault("image-pull"):
            return
        _report_pull_error(pod)
        await asyncio.sleep(_backoff_seconds(pod, attempt) * _REPORT_SHARE)
        _report_pull_backoff(pod)
        await asyncio.sleep(_backoff_seconds(pod, attempt))


def _report_pull_error(pod: PodRuntime) -> None:
    for spec in pod.spec["containers"]:
        message, name, image = _pull_error(spec["image"]), spec["name"], spec["image"]
        pod.record_event("Pulling", f'Pulling image "{image}"', name)
        pod.record_event("Failed", f'Failed to pull image "{image}": {message}', name, "Warning")
        pod.record_event("Failed", "Error: ErrImagePull", name, "Warning")
        pod.view.containers[name].state = {"waiting": {"reason": "ErrImagePull", "message": message}}
    pod.publish()


def _report_pull_backoff(pod: PodRuntime) -> None:
    for spec in pod.spec["containers"]:
        name, image = spec["name"], spec["image"]
        pod.record_event("BackOff", f'Back-off pulling image "{image}"', name)
        pod.record_event("Failed", "Error: ImagePullBackOff", name, "Warning")
        message = f'Back-off pulling image "{image}": ErrImagePull: {_pull_error(image)}'
        pod.view.containers[name].state = {"waiting": {"reason": "ImagePullBackOff", "message": message}}
    pod.publish()


def _pull_error(image: str) -> str:
    reference = images.full_reference(image)
    cause = f'failed to resolve reference "{reference}": {reference}: not found'
    return f'rpc error: code = NotFound desc = failed to pull and unpack image "{reference}": {cause}'


async def run_crash_loop(pod: PodRuntime) -> None:
    """Run and end the containers again and again: restart at once the first time, then after a growing back-off."""
    for attempt in itertools.count():
        if not pod.has_fault("crash-loop", "out-of-memory"):
            return
        _run_and_exit(pod)
        if pod.spec["restartPolicy"] == "Never":
            pod.view.phase = "Failed"
            pod.publish()
            await asyncio.Event().wait()
        pod.publish()
        if attempt:
            await _back_off_restart(pod, attempt)


def _run_and_exit(pod: PodRuntime) -> None:
    code, reason = (KILLED, "OOMKilled") if pod.has_fault("out-of-memory") else (pod.exit_code, "Error")
    pod.view.phase = "Running"
    for spec in pod.spec["containers"]:
        pod.start_container(spec, pod.view.containers[spec["name"]])
    pod.publish()
    for spec in pod.spec["containers"]:
        _report_probe_refused(pod, spec)
    pod.stop_containers(code, reason)


def _report_probe_refused(pod: PodRuntime, spec: Object) -> None:
    probe = spec.get("readinessProbe", {}).get("httpGet")
    if probe is not None:
        address = f"{pod.view.ip}:{probe['port']}"
        message = f'Get "http://{address}{probe["path"]}": dial tcp {address}: connect: connection refused'
        pod.record_event("Unhealthy", f"Readiness probe failed: {message}", spec["name"], "Warning")


async def _back_off_restart(pod: PodRuntime, attempt: int) -> None:
    """Wait before a restart. The message names the nominal back-off, even if a rule makes it shorter."""
    nominal = int(min(BACKOFF_SECONDS * 2 ** (attempt - 1), BACKOFF_MAX))
    formatted = f"{nominal // _MINUTE}m{nominal % _MINUTE}s" if nominal >= _MINUTE else f"{nominal}s"
    await asyncio.sleep(_backoff_seconds(pod, attempt - 1) * _REPORT_SHARE)
    pod_name = f"{pod.key[1]}_{pod.key[0]}({pod.uid})"
    for name, view in pod.view.containers.items():
        pod.record_event("BackOff", f"Back-off restarting failed container {name} in pod {pod_name}", name, "Warning")
        message = f"back-off {formatted} restarting failed container={name} pod={pod_name}"
        view.last_state = view.state
        view.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    pod.publish()
    await asyncio.sleep(_backoff_seconds(pod, attempt - 1))


async def stay_unready(pod: PodRuntime) -> None:
    while pod.has_fault("never-ready"):
        _report_unhealthy(pod)
        await asyncio.sleep(pod.rule_seconds(_FLAP_SECONDS))


async def run_later_faults(pod: PodRuntime) -> None:
    """Run the faults of a Pod that was ready before."""
    if pod.has_fault("evicted"):
        await asyncio.sleep(pod.rule_seconds(0))
        _evict(pod)
    while pod.has_fault("readiness-flaps"):
        await asyncio.sleep(pod.rule_seconds(_FLAP_SECONDS))
        _toggle_readiness(pod)


def _toggle_readiness(pod: PodRuntime) -> None:
    for view in pod.view.containers.values():
        view.ready = not view.ready or not pod.has_fault("readiness-flaps")
    if not all(view.ready for view in pod.view.containers.values()):
        _report_unhealthy(pod)
    pod.publish()


def _report_unhealthy(pod: PodRuntime) -> None:
    for name in pod.view.containers:
        pod.record_event("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503", name, "Warning")


def _evict(pod: PodRuntime) -> None:
    message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 54Mi. "
    pod.record_event("Evicted", message, event_type="Warning")
    for name in pod.view.containers:
        pod.record_event("Killing", f"Stopping container {name}", name)
    pod.stop_containers(KILLED)
    pod.view.disruption = {"reason": "TerminationByKubelet", "message": message}
    _fail(pod, "Evicted", message)


def exceed_deadline(pod: PodRuntime) -> None:
    message = "Pod was active on the node longer than the specified deadline"
    pod.record_event("DeadlineExceeded", message)
    pod.stop_containers(KILLED)
    _fail(pod, "DeadlineExceeded", message)


def _fail(pod: PodRuntime, reason: str, message: str) -> None:
    pod.view.phase, pod.view.reason, pod.view.message = "Failed", reason, message
    pod.publish()
