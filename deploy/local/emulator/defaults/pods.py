"""Defaults of Pods, from `pkg/apis/core/v1/defaults.go` and from three admission plugins.

The plugins are ServiceAccount, Priority and DefaultTolerationSeconds.
"""

from collections.abc import Callable, Iterator
from typing import Any

from deploy.local.emulator.base.quantities import to_canonical
from deploy.local.emulator.base.statuses import Object

ACCOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"

_SPEC: Object = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "priority": 0,
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
}
_PROBE: Object = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_NODE_TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
_TOLERATION_SECONDS = 300
_FILE_MODE = 0o644


def fill_pod(body: Object, suffix: str) -> Object:
    """Fill in a new Pod. `suffix` ends the name of the volume `kube-api-access-`."""
    spec = fill_pod_spec(body["spec"])
    if spec.get("automountServiceAccountToken") is not False:
        spec = _mount_account_token(spec, f"kube-api-access-{suffix}")
    status = {"phase": "Pending", "qosClass": qos_class(spec)}
    return {**body, "metadata": {**body["metadata"], "generation": 1}, "spec": spec, "status": status}


def fill_pod_spec(original: Object) -> Object:
    spec = {**_SPEC, **original}
    spec["serviceAccount"] = spec["serviceAccountName"]
    spec["volumes"] = [_volume(volume) for volume in original.get("volumes", [])]
    spec["tolerations"] = _tolerations(original.get("tolerations", []))
    for name in ("initContainers", "containers"):
        spec[name] = [_container(container, spec) for container in original.get(name, [])]
    return {key: value for key, value in spec.items() if value != [] or key == "containers"}


def _mount_account_token(spec: Object, volume: str) -> Object:
    """Mount the token of the service account into each container that mounts nothing else at that path."""
    mount = {"name": volume, "readOnly": True, "mountPath": ACCOUNT_PATH}
    groups: Object = {
        name: [_with_mount(c, mount) for c in spec[name]] for name in ("initContainers", "containers") if name in spec
    }
    if groups == {name: spec[name] for name in groups}:
        return spec
    return {**spec, **groups, "volumes": [*spec.get("volumes", []), _account_volume(volume)]}


def _with_mount(container: Object, mount: Object) -> Object:
    mounts = container.get("volumeMounts", [])
    if any(other.get("mountPath") == mount["mountPath"] for other in mounts):
        return container
    return {**container, "volumeMounts": [*mounts, mount]}


def iterate_containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers", [])
    yield from spec.get("containers", [])


def _container(original: Object, spec: Object) -> Object:
    container = {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": _pull_policy(original.get("image", "")),
        **original,
    }
    container["resources"] = _resources(container["resources"])
    for name, fill in _FILLERS.items():
        if name in container:
            container[name] = fill(container[name])
    if "ports" in container and spec.get("hostNetwork"):
        container["ports"] = [{"hostPort": port.get("containerPort"), **port} for port in container["ports"]]
    return container


def _pull_policy(image: str) -> str:
    name = image.partition("@")[0]
    tag = name.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if "@" in image or tag not in {"", "latest"} else "Always"


def _resources(original: Object) -> Object:
    """Fill in canonical quantities. A missing request equals its limit."""
    limits = {name: to_canonical(value) for name, value in original.get("limits", {}).items()}
    requests = {name: to_canonical(value) for name, value in original.get("requests", {}).items()}
    resources = {**original, "limits": limits, "requests": {**limits, **requests}}
    return {name: value for name, value in resources.items() if value}


def _probe(original: Object) -> Object:
    return _handler({**_PROBE, **original})


def _lifecycle(original: Object) -> Object:
    return {name: _handler(part) if isinstance(part, dict) else part for name, part in original.items()}


def _handler(original: Object) -> Object:
    if "httpGet" not in original:
        return original
    return {**original, "httpGet": {"path": "/", "scheme": "HTTP", **original["httpGet"]}}


def _ports(original: list[Object]) -> list[Object]:
    return [{"protocol": "TCP", **port} for port in original]


def _environment(original: list[Object]) -> list[Object]:
    return [_variable(variable) for variable in original]


def _variable(original: Object) -> Object:
    source = original.get("valueFrom", {})
    if "fieldRef" not in source:
        return original
    return {**original, "valueFrom": {"fieldRef": {"apiVersion": "v1", **source["fieldRef"]}}}


_FILLERS: dict[str, Callable[[Any], Any]] = {
    "ports": _ports,
    "env": _environment,
    "livenessProbe": _probe,
    "readinessProbe": _probe,
    "startupProbe": _probe,
    "lifecycle": _lifecycle,
}


def _volume(original: Object) -> Object:
    if not set(original) - {"name"}:
        return {**original, "emptyDir": {}}
    if "hostPath" in original:
        return {**original, "hostPath": {"type": "", **original["hostPath"]}}
    for source in ("secret", "configMap", "projected", "downwardAPI"):
        if source in original:
            return {**original, source: {"defaultMode": _FILE_MODE, **original[source]}}
    if "sizeLimit" in original.get("emptyDir", {}):
        return {
            **original,
            "emptyDir": {**original["emptyDir"], "sizeLimit": to_canonical(original["emptyDir"]["sizeLimit"])},
        }
    return original


def _tolerations(original: list[Object]) -> list[Object]:
    """Add a toleration of five minutes for each taint that the Pod does not tolerate itself."""
    default_tolerations = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_SECONDS}
        for key in _NODE_TAINTS
        if not any(t.get("key", key) == key and t.get("effect", "NoExecute") == "NoExecute" for t in original)
    ]
    return [*original, *default_tolerations]


def _account_volume(name: str) -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": _FILE_MODE}}


def qos_class(spec: Object) -> str:
    """Return Guaranteed if all containers limit cpu and memory and request the same, BestEffort if none sets any."""
    resources = [container["resources"] for container in iterate_containers(spec)]
    names = ("cpu", "memory")
    amounts = [part.get(kind, {}).get(name) for part in resources for kind in ("limits", "requests") for name in names]
    if not any(amounts):
        return "BestEffort"
    is_guaranteed = all(
        part.get("limits", {}).get(name) and part.get("requests", {}).get(name) == part["limits"][name]
        for part in resources
        for name in names
    )
    return "Guaranteed" if is_guaranteed else "Burstable"
