"""Validation errors, worded as in `pkg/apis/core/validation/validation.go`."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]


def replaced(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy with the value at a dotted path. A number is an index of a list; `-` appends to a list."""
    name, _, rest = path.partition(".")
    copy: Any = list(body) if isinstance(body, list) else dict(body)
    key: Any = len(copy) if name == "-" else int(name) if isinstance(copy, list) else name
    if name == "-":
        copy.append(None)
    inner = copy[key] if isinstance(copy, list) else copy.get(key)
    copy[key] = replaced(inner if inner is not None else {}, rest, value) if rest else value
    return copy


C = "spec.containers.0"
CASES = [
    ("metadata.name", "", "metadata.name: Required value: name or generateName is required"),
    ("metadata.name", "a" * 254, "must be no more than 253 bytes"),
    ("metadata.labels", {"a/b/c": "x"}, "a valid label key must consist of"),
    ("metadata.labels", {"x": "a" * 64}, "metadata.labels: Invalid value"),
    ("metadata.annotations", {"a": "b" * 262144}, "metadata.annotations: Too long: may not be more than 262144 bytes"),
    ("metadata.ownerReferences", [{"kind": "Pod"}], "metadata.ownerReferences.uid: Invalid value"),
    ("metadata.finalizers", ["mine"], "name is neither a standard finalizer name nor is it fully qualified"),
    ("spec.containers", [], "spec.containers: Required value"),
    (f"{C}.name", "Sandbox", "spec.containers[0].name: Invalid value"),
    (f"{C}.image", "", "spec.containers[0].image: Required value"),
    (f"{C}.image", " a", "must not have leading or trailing whitespace"),
    (f"{C}.imagePullPolicy", "Soon", 'supported values: "Always", "IfNotPresent", "Never"'),
    (f"{C}.ports.0.containerPort", 70000, "must be between 1 and 65535, inclusive"),
    (f"{C}.ports.0.containerPort", 0, "spec.containers[0].ports[0].containerPort: Required value"),
    (f"{C}.ports.0.name", "much-too-long-name", "must be no more than 15 characters"),
    (f"{C}.readinessProbe.periodSeconds", -1, "must be greater than or equal to 0"),
    (f"{C}.readinessProbe", {}, "must specify a handler type"),
    (f"{C}.readinessProbe.exec", {"command": ["x"]}, "httpGet: Forbidden: may not specify more than 1 handler type"),
    (f"{C}.livenessProbe", {"tcpSocket": {"port": 80}, "successThreshold": 2}, "successThreshold: Invalid value: 2"),
    (f"{C}.env", [{"name": "A=B", "value": "1"}], "must consist only of printable ASCII characters other than '='"),
    (f"{C}.env", [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}}], "Unsupported value"),
    (f"{C}.volumeMounts", [{"name": "absent", "mountPath": "/x"}], 'volumeMounts[0].name: Not found: "absent"'),
    (f"{C}.resources", {"limits": {"cpu": "-1"}}, "must be greater than or equal to 0"),
    (f"{C}.resources", {"limits": {"gpu": "1"}}, "must be a standard resource type or fully qualified"),
    (f"{C}.securityContext", {"privileged": True, "allowPrivilegeEscalation": False}, "cannot set"),
    (f"{C}.securityContext", {"runAsUser": -1}, "must be between 0 and 2147483647, inclusive"),
    (f"{C}.securityContext", {"seccompProfile": {"type": "None"}}, "seccompProfile.type: Unsupported value"),
    (f"{C}.restartPolicy", "Always", "may not be set for non-init containers"),
    ("spec.containers.-", {"name": "sandbox", "image": "x"}, 'containers[1].name: Duplicate value: "sandbox"'),
    ("spec.initContainers", [{"name": "sandbox", "image": "x"}], "initContainers[0].name: Duplicate value"),
    (
        "spec.initContainers",
        [{"name": "i", "image": "x", "readinessProbe": {"tcpSocket": {"port": 1}}}],
        "may not be set for init containers without restartPolicy=Always",
    ),
    ("spec.volumes", [{"name": "V"}], "spec.volumes[0].name: Invalid value"),
    ("spec.volumes", [{"name": "v", "hostPath": {"path": ""}}], "spec.volumes[0].hostPath.path: Required value"),
    ("spec.volumes", [{"name": "v", "hostPath": {"path": "/x", "type": "Dir"}}], "hostPath.type: Unsupported value"),
    ("spec.volumes", [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}], "more than 1 volume type"),
    ("spec.volumes", [{"name": "v", "persistentVolumeClaim": {}}], "persistentVolumeClaim.claimName: Required value"),
    ("spec.restartPolicy", "Maybe", 'supported values: "Always", "OnFailure", "Never"'),
    ("spec.dnsPolicy", "None", "must provide `dnsConfig` when `dnsPolicy` is None"),
    ("spec.activeDeadlineSeconds", 0, "must be between 1 and 2147483647, inclusive"),
    ("spec.nodeSelector", {"a": "b c"}, "spec.nodeSelector: Invalid value"),
    ("spec.tolerations", [{"operator": "Equal"}], "operator must be Exists when `key` is empty"),
    ("spec.hostname", "a.b", "spec.hostname: Invalid value"),
]


@pytest.mark.parametrize(("path", "value", "message"), CASES)
async def test_invalid_pod_field_is_refused(client: Client, pod: Make, path: str, value: Any, message: str):
    response = await client.create("pods", replaced(pod(), path, value))
    assert (response.status, response.body["reason"]) == (422, "Invalid")
    assert message in response.body["message"]


SUB_PATHS = [
    ("/a", "spec.containers[0].volumeMounts.subPath", "must be a relative path"),
    ("a/../b", "spec.containers[0].volumeMounts.subPath", "must not contain '..'"),
]


@pytest.mark.parametrize(("path", "field", "message"), SUB_PATHS)
async def test_sub_path_outside_its_volume_is_refused(client: Client, pod: Make, path: str, field: str, message: str):
    body = replaced(pod(), "spec.volumes", [{"name": "v", "emptyDir": {}}])
    mounted = replaced(body, f"{C}.volumeMounts", [{"name": "v", "mountPath": "/m", "subPath": path}])
    response = await client.create("pods", mounted)
    assert response.body["message"] == f'Pod "p" is invalid: {field}: Invalid value: "{path}": {message}'


async def test_mount_of_invalid_volume_gets_second_error(client: Client, pod: Make):
    body = replaced(pod(), "spec.volumes", [{"name": "v", "hostPath": {"path": "/a/.."}}])
    response = await client.create("pods", replaced(body, f"{C}.volumeMounts", [{"name": "v", "mountPath": "/m"}]))
    assert [cause["field"] for cause in response.body["details"]["causes"]] == [
        "spec.volumes[0].hostPath.path",
        "spec.containers[0].volumeMounts[0].name",
    ]


async def test_pod_with_several_errors_gets_all(client: Client, pod: Make):
    body = replaced(replaced(pod("Bad"), f"{C}.image", ""), "spec.activeDeadlineSeconds", 0)
    response = await client.create("pods", body)
    assert response.body["message"].startswith('Pod "Bad" is invalid: [metadata.name: ')
    assert len(response.body["details"]["causes"]) == 3


UNREADABLE = [
    ("spec.containers.0.image", 5),
    ("metadata.labels", {"a": 1}),
    ("spec.containers", "none"),
    ("spec.activeDeadlineSeconds", "5"),
    ("spec.containers.0.securityContext", {"runAsUser": "root"}),
]


@pytest.mark.parametrize(("path", "value"), UNREADABLE)
async def test_value_of_wrong_type_gets_bad_request(client: Client, pod: Make, path: str, value: Any):
    response = await client.create("pods", replaced(pod(), path, value))
    assert (response.status, response.body["reason"]) == (400, "BadRequest")
    assert response.body["message"].startswith('Pod in version "v1" cannot be handled as a Pod: ')


SERVICES = [
    ("metadata.name", "a.b", "a lowercase RFC 1123 label must consist of"),
    ("spec.ports", [], "spec.ports: Required value"),
    ("spec.ports.0.port", 0, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
    ("spec.ports.0.targetPort", "no_name", "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"),
    ("spec.ports.0.protocol", "ICMP", 'supported values: "SCTP", "TCP", "UDP"'),
    ("spec.ports.-", {"name": "http", "port": 81}, 'spec.ports[1].name: Duplicate value: "http"'),
    ("spec.ports.-", {"port": 81}, "spec.ports[1].name: Required value"),
    ("spec.type", "Both", 'supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'),
    ("spec.clusterIP", "None", "may not be set to 'None' for NodePort services"),
    ("spec.clusterIP", "1.2.3.4", "the provided network does not match the current range"),
    ("spec.externalTrafficPolicy", "Near", "spec.externalTrafficPolicy: Unsupported value"),
]


@pytest.mark.parametrize(("path", "value", "message"), SERVICES)
async def test_invalid_service_field_is_refused(client: Client, service: Make, path: str, value: Any, message: str):
    response = await client.create("services", replaced(service(), path, value))
    assert (response.status, response.body["reason"]) == (422, "Invalid")
    assert message in response.body["message"]


async def test_unknown_field_is_dropped(client: Client, pod: Make):
    response = await client.create("pods", replaced(pod(), "spec.volumez", [{"name": "v"}]))
    assert response.status == 201
    assert "volumez" not in response.body["spec"]


REFUSED_BODIES = [
    (b"{", "application/json", 400, "couldn't get version/kind; json parse error"),
    (b"[]", "application/json", 400, "couldn't get version/kind; json parse error"),
    (b'{"kind":"Service"}', "application/json", 400, "unknown conversion"),
    (b"a: b", "application/yaml", 415, "the body of the request was in an unknown format"),
    (b'{"metadata":{"name":"a","namespace":"other"}}', "application/json", 400, "does not match the namespace sent"),
    (b'{"metadata":{"name":"a","resourceVersion":"1"}}', "application/json", 400, "resourceVersion should not be set"),
    (b'{"metadata":{"name":"' + b"a" * 4_000_000 + b'"}}', "application/json", 413, "limit is 3145728"),
]


@pytest.mark.parametrize(("body", "kind", "status", "message"), REFUSED_BODIES, ids=lambda value: str(value)[:20])
async def test_invalid_body_is_refused(client: Client, body: bytes, kind: str, status: int, message: str):
    response = await client.http.post(client.path("pods"), content=body, headers={"Content-Type": kind})
    assert response.status_code == status
    assert message in response.json()["message"]


NAMELESS = [("pods", "Pod"), ("services", "Service"), ("namespaces", "Namespace")]


@pytest.mark.parametrize(("resource", "kind"), NAMELESS)
async def test_object_without_name_is_refused(client: Client, pod: Make, service: Make, resource: str, kind: str):
    bodies = {"pods": pod(), "services": replaced(service(), "spec.ports.0.nodePort", 80), "namespaces": {}}
    response = await client.create(resource, {**bodies[resource], "metadata": {}})
    assert (response.status, response.body["details"]["kind"]) == (422, kind)


async def test_causes_have_order_of_fields(client: Client, service: Make):
    body = replaced(replaced(service(), "spec.selector", {"a": "b c"}), "metadata.labels", {"a": "b c"})
    response = await client.create("services", body)
    assert [cause["field"] for cause in response.body["details"]["causes"]] == ["metadata.labels", "spec.selector"]
