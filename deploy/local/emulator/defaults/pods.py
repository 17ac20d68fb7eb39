"""A Pod's defaults: `pkg/apis/core/v1/defaults.go`, and those of the plugins that admit Pods.

These are ServiceAccount, Priority and DefaultTolerationSeconds.
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
    """A new Pod. `suffix` ends the name of the service account's volume, `kube-api-access-`."""
    spec = fill_pod_spec(body["spec"])
    if spec.get("automountServiceAccountToken") is not False:
        spec = _mount_account_token(spec, f"kube-api-access-{suffix}")
    status = {"phase": "Pending", "qosClass": qos_class(spec)}
    return {**body, "metadata": {**body["metadata"], "generation": 1}, "spec": spec, "status": status}


def fill_pod_spec(given: Object) -> Object:
    spec = {**_SPEC, **given}
    spec["serviceAccount"] = spec["serviceAccountName"]
    spec["volumes"] = [_volume(volume) for volume in given.get("volumes", [])]
    spec["tolerations"] = _tolerations(given.get("tolerations", []))
    for name in ("initContainers", "containers"):
        spec[name] = [_container(container, spec) for container in given.get(name, [])]
    return {key: value for key, value in spec.items() if value != [] or key == "containers"}


def _mount_account_token(spec: Object, volume: str) -> Object:
    """Mounted wherever a container has nothing else at that path."""
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


def _container(given: Object, spec: Object) -> Object:
    container = {
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": _pull_policy(given.get("image", "")),
        **given,
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


def _resources(given: Object) -> Object:
    """Canonical quantities; a request that is not given is its limit."""
    limits = {name: to_canonical(value) for name, value in given.get("limits", {}).items()}
    requests = {name: to_canonical(value) for name, value in given.get("requests", {}).items()}
    filled = {**given, "limits": limits, "requests": {**limits, **requests}}
    return {name: value for name, value in filled.items() if value}


def _probe(given: Object) -> Object:
    return _handler({**_PROBE, **given})


def _lifecycle(given: Object) -> Object:
    return {name: _handler(part) if isinstance(part, dict) else part for name, part in given.items()}


def _handler(given: Object) -> Object:
    if "httpGet" not in given:
        return given
    return {**given, "httpGet": {"path": "/", "scheme": "HTTP", **given["httpGet"]}}


def _ports(given: list[Object]) -> list[Object]:
    return [{"protocol": "TCP", **port} for port in given]


def _environment(given: list[Object]) -> list[Object]:
    return [_variable(variable) for variable in given]


def _variable(given: Object) -> Object:
    source = given.get("valueFrom", {})
    if "fieldRef" not in source:
        return given
    return {**given, "valueFrom": {"fieldRef": {"apiVersion": "v1", **source["fieldRef"]}}}


_FILLERS: dict[str, Callable[[Any], Any]] = {
    "ports": _ports,
    "env": _environment,
    "livenessProbe": _probe,
    "readinessProbe": _probe,
    "startupProbe": _probe,
    "lifecycle": _lifecycle,
}


def _volume(given: Object) -> Object:
    if not set(given) - {"name"}:
        return {**given, "emptyDir": {}}
    if "hostPath" in given:
        return {**given, "hostPath": {"type": "", **given["hostPath"]}}
    for source in ("secret", "configMap", "projected", "downwardAPI"):
        if source in given:
            return {**given, source: {"defaultMode": _FILE_MODE, **given[source]}}
    if "sizeLimit" in given.get("emptyDir", {}):
        return {**given, "emptyDir": {**given["emptyDir"], "sizeLimit": to_canonical(given["emptyDir"]["sizeLimit"])}}
    return given


def _tolerations(given: list[Object]) -> list[Object]:
    """Five minutes for each trouble of the node that the Pod does not name itself."""
    added = [
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _TOLERATION_SECONDS}
        for key in _NODE_TAINTS
        if not any(t.get("key", key) == key and t.get("effect", "NoExecute") == "NoExecute" for t in given)
    ]
    return [*given, *added]


def _account_volume(name: str) -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    sources = [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": name, "projected": {"sources": sources, "defaultMode": _FILE_MODE}}


def qos_class(spec: Object) -> str:
    """Guaranteed: every container limits cpu and memory and requests as much; BestEffort: none says anything."""
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
