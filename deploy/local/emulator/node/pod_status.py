"""The status that a kubelet reports of a Pod. Pure functions from the view of the node to a `status`.

The order of conditions, their reasons, and the fields of a container's status are those of a 1.36 kubelet.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from deploy.local.emulator.base.quantities import parse_quantity, to_canonical
from deploy.local.emulator.base.statuses import Object

CREATING: Object = {"waiting": {"reason": "ContainerCreating"}}
INITIALIZING: Object = {"waiting": {"reason": "PodInitializing"}}
KILLED = 137  # 128 + SIGKILL


@dataclass(slots=True)
class ContainerView:
    """A container, as the container runtime sees it now."""

    state: Object
    last_state: Object = field(default_factory=dict)
    ready: bool = False
    started: bool = False
    restarts: int = 0
    container_id: str = ""

    @property
    def is_running(self) -> bool:
        return "running" in self.state


@dataclass(slots=True)
class PodView:
    """A Pod, as its node sees it now."""

    host_ip: str
    start_time: str
    containers: dict[str, ContainerView]
    init: dict[str, ContainerView] = field(default_factory=dict)
    network: bool = False  # the Pod sandbox is up, image pulls begin
    ip: str = ""
    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    disruption: Object | None = None  # reason and message of a DisruptionTarget condition

    def all_containers(self) -> list[ContainerView]:
        return [*self.init.values(), *self.containers.values()]


def initial_view(spec: Object, host_ip: str, now: str) -> PodView:
    init = {container["name"]: ContainerView(INITIALIZING) for container in spec.get("initContainers", [])}
    waiting = INITIALIZING if init else CREATING
    return PodView(host_ip, now, {c["name"]: ContainerView(waiting) for c in spec["containers"]}, init)


def bind(pod: Object, node: str, now: str) -> Object:
    """Bind the Pod to a node. The condition has no observedGeneration, as on a real cluster."""
    condition = {"type": "PodScheduled", "status": "True", "lastProbeTime": None, "lastTransitionTime": now}
    return _with_conditions({**pod, "spec": {**pod["spec"], "nodeName": node}}, [condition])


def mark_unschedulable(pod: Object, message: str, now: str) -> Object:
    condition = {
        "type": "PodScheduled",
        "observedGeneration": pod["metadata"]["generation"],
        "status": "False",
        "lastProbeTime": None,
        "lastTransitionTime": now,
        "reason": "Unschedulable",
        "message": message,
    }
    return _with_conditions(pod, [condition])


def _with_conditions(pod: Object, conditions: list[Object]) -> Object:
    return {**pod, "status": {**pod["status"], "conditions": conditions}}


def render(pod: Object, view: PodView, now: str) -> Object:
    """Return the Pod with the status that its kubelet writes at this time."""
    spec, old = pod["spec"], pod["status"]
    status: Object = {"observedGeneration": pod["metadata"]["generation"], "phase": view.phase}
    status["conditions"] = _conditions(pod, view, now)
    status |= {name: value for name, value in (("message", view.message), ("reason", view.reason)) if value}
    status |= {"hostIP": view.host_ip, "hostIPs": [{"ip": view.host_ip}]}
    if view.ip:
        status |= {"podIP": view.ip, "podIPs": [{"ip": view.ip}]}
    status["startTime"] = view.start_time
    if view.init:
        status["initContainerStatuses"] = _containers(spec["initContainers"], view.init)
    status["containerStatuses"] = _containers(spec["containers"], view.containers)
    status |= {"qosClass": old["qosClass"], **_total_resources(spec)}
    return {**pod, "status": status}


def _conditions(pod: Object, view: PodView, now: str) -> list[Object]:
    conditions: list[tuple[str, bool, Object]] = [
        ("PodReadyToStartContainers", view.network, {}),
        ("Initialized", *_initialized(view)),
        ("Ready", *_ready(view)),
        ("ContainersReady", *_ready(view)),
        ("PodScheduled", True, {}),
    ]
    if view.disruption is not None:
        conditions.insert(0, ("DisruptionTarget", True, view.disruption))
    old = {condition["type"]: condition for condition in pod["status"].get("conditions", [])}
    return [
        _condition(name, is_true, explanation, old.get(name), pod, now) for name, is_true, explanation in conditions
    ]


def _condition(name: str, is_true: bool, explanation: Object, old: Object | None, pod: Object, now: str) -> Object:
    status = "True" if is_true else "False"
    is_unchanged = old is not None and old["status"] == status
    return {
        "type": name,
        "observedGeneration": pod["metadata"]["generation"],
        "status": status,
        "lastProbeTime": None,
        "lastTransitionTime": old["lastTransitionTime"] if old is not None and is_unchanged else now,
        **explanation,
    }


def _initialized(view: PodView) -> tuple[bool, Object]:
    uninitialized = [name for name, container in view.init.items() if not container.ready]
    if not uninitialized or view.phase == "Running":
        return True, {"reason": "PodCompleted"} if view.phase == "Succeeded" else {}
    return False, {
        "reason": "ContainersNotInitialized",
        "message": f"containers with incomplete status: [{' '.join(uninitialized)}]",
    }


def _ready(view: PodView) -> tuple[bool, Object]:
    if view.phase in {"Failed", "Succeeded"}:
        return False, {"reason": "PodFailed" if view.phase == "Failed" else "PodCompleted"}
    unready = [name for name, container in view.containers.items() if not container.ready]
    if not unready:
        return True, {}
    return False, {
        "reason": "ContainersNotReady",
        "message": f"containers with unready status: [{' '.join(unready)}]",
    }


def _containers(specs: list[Object], views: dict[str, ContainerView]) -> list[Object]:
    return [_container(spec, views[spec["name"]]) for spec in specs]


def _container(spec: Object, view: ContainerView) -> Object:
    status: Object = {"name": spec["name"], "state": view.state, "lastState": view.last_state, "ready": view.ready}
    status |= {"restartCount": view.restarts, "image": spec["image"], "imageID": "", "started": view.started}
    if view.container_id:
        status |= {"imageID": image_id(spec["image"]), "containerID": view.container_id}
        status |= _container_resources(spec["resources"])
    mounts = [_mount(mount) for mount in spec.get("volumeMounts", [])]
    return {**status, **({"volumeMounts": mounts} if mounts else {})}


def _container_resources(resources: Object) -> Object:
    requests = {"allocatedResources": resources["requests"]} if "requests" in resources else {}
    return {**requests, "resources": resources}


def _mount(mount: Object) -> Object:
    status = {"name": mount["name"], "mountPath": mount["mountPath"]}
    return {**status, "readOnly": True, "recursiveReadOnly": "Disabled"} if mount.get("readOnly") else status


def image_id(image: str) -> str:
    return "sha256:" + hashlib.sha256(image.encode()).hexdigest()


def _total_resources(spec: Object) -> Object:
    """Return the resources of the whole Pod, part of the status since 1.36. Empty if no container sets any."""
    total = {kind: _sum_resources(spec["containers"], kind) for kind in ("limits", "requests")}
    total = {kind: amounts for kind, amounts in total.items() if amounts}
    if not total:
        return {}
    allocated = {"allocatedResources": total["requests"]} if "requests" in total else {}
    return {**allocated, "resources": total}


def _sum_resources(containers: list[Object], kind: str) -> Object:
    parts = [container["resources"].get(kind, {}) for container in containers]
    if len(parts) == 1:
        return dict(parts[0])
    names = {name for part in parts for name in part if kind == "requests" or all(name in other for other in parts)}
    return {name: _add_quantities([part[name] for part in parts if name in part]) for name in sorted(names)}


def _add_quantities(texts: list[Any]) -> str:
    total = sum(parse_quantity(text) for text in texts)
    is_binary = any(str(text).endswith("i") for text in texts)
    return to_canonical(f"{int(total) // 1024}Ki" if is_binary and int(total) % 1024 == 0 else f"{total:f}")


def unknown_termination() -> Object:
    """Return the state of a container that never started when its Pod ended."""
    message = "The container could not be located when the pod was terminated"
    termination = {"exitCode": KILLED, "reason": "ContainerStatusUnknown", "message": message}
    return {"terminated": {**termination, "startedAt": None, "finishedAt": None}}
