"""What can go wrong with a Pod on its node: each fault as the statuses and Events a real kubelet shows for it."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from deploy.local.emulator.base import images

if TYPE_CHECKING:
    from deploy.local.emulator.base.statuses import Object
    from deploy.local.emulator.node.pod_life import PodLife

BACKOFF_SECONDS = 10.0  # a kubelet's first back-off, doubled each time; a rule's `seconds` replaces it
BACKOFF_MAX = 300.0
_NOTICED = 1 / 20  # of a back-off, until the kubelet tells of it
_MINUTE = 60
KILLED = 137  # 128 + SIGKILL
_FLAP_SECONDS = 1.0


def _pause(life: PodLife, attempt: int) -> float:
    return min(life.rule_seconds(BACKOFF_SECONDS) * float(2**attempt), BACKOFF_MAX)


async def wait_for_mounts(life: PodLife) -> None:
    """A volume that cannot be mounted: the Pod stays ContainerCreating, and an Event says why, again and again."""
    for attempt in itertools.count():
        if not life.troubled("no-mount"):
            return
        life.tell("FailedMount", _mount_failure(life), kind="Warning")
        await asyncio.sleep(_pause(life, attempt) * _NOTICED)


def _mount_failure(life: PodLife) -> str:
    volumes: list[Object] = life.spec.get("volumes", [])
    volume: Object = next((v for v in volumes if "hostPath" in v), volumes[0] if volumes else {"name": "none"})
    path = volume.get("hostPath", {}).get("path", volume["name"])
    failed = f'MountVolume.SetUp failed for volume "{volume["name"]}"'
    return f"{failed} : hostPath type check failed: {path} is not a directory"


async def wait_for_image(life: PodLife) -> None:
    for attempt in itertools.count():
        if not life.troubled("image-pull"):
            return
        _fail_pull(life)
        await asyncio.sleep(_pause(life, attempt) * _NOTICED)
        _back_off_pull(life)
        await asyncio.sleep(_pause(life, attempt))


def _fail_pull(life: PodLife) -> None:
    for spec in life.spec["containers"]:
        why, name, image = _pull_error(spec["image"]), spec["name"], spec["image"]
        life.tell("Pulling", f'Pulling image "{image}"', name)
        life.tell("Failed", f'Failed to pull image "{image}": {why}', name, "Warning")
        life.tell("Failed", "Error: ErrImagePull", name, "Warning")
        life.view.containers[name].state = {"waiting": {"reason": "ErrImagePull", "message": why}}
    life.publish()


def _back_off_pull(life: PodLife) -> None:
    for spec in life.spec["containers"]:
        name, image = spec["name"], spec["image"]
        life.tell("BackOff", f'Back-off pulling image "{image}"', name)
        life.tell("Failed", "Error: ImagePullBackOff", name, "Warning")
        why = f'Back-off pulling image "{image}": ErrImagePull: {_pull_error(image)}'
        life.view.containers[name].state = {"waiting": {"reason": "ImagePullBackOff", "message": why}}
    life.publish()


def _pull_error(image: str) -> str:
    full = images.full_reference(image)
    failed = f'failed to pull and unpack image "{full}": failed to resolve reference "{full}": {full}: not found'
    return f"rpc error: code = NotFound desc = {failed}"


async def crash(life: PodLife) -> None:
    """Runs and ends, again and again: restarted at once the first time, then after a growing back-off."""
    for attempt in itertools.count():
        if not life.troubled("crash-loop", "out-of-memory"):
            return
        _run_and_end(life)
        if life.spec["restartPolicy"] == "Never":
            life.view.phase = "Failed"
            life.publish()
            await asyncio.Event().wait()
        life.publish()
        if attempt:
            await _back_off(life, attempt)


def _run_and_end(life: PodLife) -> None:
    code, why = (KILLED, "OOMKilled") if life.troubled("out-of-memory") else (life.exit_code, "Error")
    life.view.phase = "Running"
    for spec in life.spec["containers"]:
        life.start(spec, life.view.containers[spec["name"]])
    life.publish()
    for spec in life.spec["containers"]:
        _tell_refused(life, spec)
    life.halt(code, why)


def _tell_refused(life: PodLife, spec: Object) -> None:
    probe = spec.get("readinessProbe", {}).get("httpGet")
    if probe is not None:
        place = f"{life.view.ip}:{probe['port']}"
        why = f'Get "http://{place}{probe["path"]}": dial tcp {place}: connect: connection refused'
        life.tell("Unhealthy", f"Readiness probe failed: {why}", spec["name"], "Warning")


async def _back_off(life: PodLife, attempt: int) -> None:
    """The words name the nominal back-off, however short a rule makes it."""
    nominal = int(min(BACKOFF_SECONDS * 2 ** (attempt - 1), BACKOFF_MAX))
    told = f"{nominal // _MINUTE}m{nominal % _MINUTE}s" if nominal >= _MINUTE else f"{nominal}s"
    await asyncio.sleep(_pause(life, attempt - 1) * _NOTICED)
    where = f"{life.key[1]}_{life.key[0]}({life.uid})"
    for name, view in life.view.containers.items():
        life.tell("BackOff", f"Back-off restarting failed container {name} in pod {where}", name, "Warning")
        why = f"back-off {told} restarting failed container={name} pod={where}"
        view.last_state = view.state
        view.state = {"waiting": {"reason": "CrashLoopBackOff", "message": why}}
    life.publish()
    await asyncio.sleep(_pause(life, attempt - 1))


async def stay_unready(life: PodLife) -> None:
    while life.troubled("never-ready"):
        _tell_unhealthy(life)
        await asyncio.sleep(life.rule_seconds(_FLAP_SECONDS))


async def after_start(life: PodLife) -> None:
    """Faults of a Pod that was well."""
    if life.troubled("evicted"):
        await asyncio.sleep(life.rule_seconds(0))
        _evict(life)
    while life.troubled("readiness-flaps"):
        await asyncio.sleep(life.rule_seconds(_FLAP_SECONDS))
        _flap(life)


def _flap(life: PodLife) -> None:
    for view in life.view.containers.values():
        view.ready = not view.ready or not life.troubled("readiness-flaps")
    if not all(view.ready for view in life.view.containers.values()):
        _tell_unhealthy(life)
    life.publish()


def _tell_unhealthy(life: PodLife) -> None:
    for name in life.view.containers:
        life.tell("Unhealthy", "Readiness probe failed: HTTP probe failed with statuscode: 503", name, "Warning")


def _evict(life: PodLife) -> None:
    why = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 54Mi. "
    life.tell("Evicted", why, kind="Warning")
    for name in life.view.containers:
        life.tell("Killing", f"Stopping container {name}", name)
    life.halt(KILLED)
    life.view.disruption = {"reason": "TerminationByKubelet", "message": why}
    _fail(life, "Evicted", why)


def exceed_deadline(life: PodLife) -> None:
    why = "Pod was active on the node longer than the specified deadline"
    life.tell("DeadlineExceeded", why)
    life.halt(KILLED)
    _fail(life, "DeadlineExceeded", why)


def _fail(life: PodLife, reason: str, message: str) -> None:
    life.view.phase, life.view.reason, life.view.message = "Failed", reason, message
    life.publish()


def unknown_end() -> dict[str, object]:
    """How a container ends that never began."""
    why = "The container could not be located when the pod was terminated"
    ended = {"exitCode": KILLED, "reason": "ContainerStatusUnknown", "message": why}
    return {"terminated": {**ended, "startedAt": None, "finishedAt": None}}
