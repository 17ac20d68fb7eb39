"""Admission: namespaces, Pod security, quotas, service accounts, and defaults of Pods."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]


async def namespace(client: Client, **labels: str) -> None:
    await client.create("namespaces", {"metadata": {"name": "ns", "labels": labels}})
    client.namespace = "ns"


async def namespace_enforcing(client: Client, level: str) -> None:
    await namespace(client, **{"pod-security.kubernetes.io/enforce": level})


CONTAINER = {"name": "c", "image": "x"}
BASELINE = [
    ({"hostNetwork": True, "hostPID": True}, "host namespaces (hostNetwork=true, hostPID=true)"),
    (
        {"volumes": [{"name": n, "hostPath": {"path": "/x"}} for n in "ab"]},
        'hostPath volumes (volumes "a", "b")',
    ),
    (
        {"containers": [{**CONTAINER, "securityContext": {"privileged": True}}]},
        'privileged (container "c" must not set securityContext.privileged=true)',
    ),
    (
        {"containers": [{**CONTAINER, "ports": [{"containerPort": 80, "hostPort": 80}]}]},
        'hostPort (container "c" uses hostPort 80)',
    ),
    (
        {"containers": [{**CONTAINER, "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}}}]},
        'non-default capabilities (container "c" must not include "NET_ADMIN" in securityContext.capabilities.add)',
    ),
    (
        {"containers": [{**CONTAINER, "readinessProbe": {"httpGet": {"port": 80, "host": "h"}}}]},
        'probe or lifecycle host (container "c" uses probe or lifecycle host "h")',
    ),
    (
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
        'seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined")',
    ),
]


@pytest.mark.parametrize(("spec", "message"), BASELINE)
async def test_pod_violating_baseline_is_forbidden(client: Client, pod: Make, spec: dict[str, Any], message: str):
    await namespace_enforcing(client, "baseline")
    response = await client.create("pods", pod("p", **spec))
    assert (response.status, response.body["reason"]) == (403, "Forbidden")
    assert response.body["message"].startswith(
        f'pods "p" is forbidden: violates PodSecurity "baseline:latest": {message}'
    )


async def test_pod_violating_restricted_gets_all_violations(client: Client, pod: Make):
    await namespace_enforcing(client, "restricted")
    response = await client.create("pods", pod("p", volumes=[{"name": "h", "hostPath": {"path": "/x"}}]))
    assert response.body["message"] == (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": '
        'allowPrivilegeEscalation != false (container "sandbox" must set '
        "securityContext.allowPrivilegeEscalation=false), "
        'unrestricted capabilities (container "sandbox" must set securityContext.capabilities.drop=["ALL"]), '
        'restricted volume types (volume "h" uses restricted volume type "hostPath"), '
        'runAsNonRoot != true (pod or container "sandbox" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "sandbox" must set securityContext.seccompProfile.type to "RuntimeDefault" '
        'or "Localhost")'
    )


async def test_pod_meeting_restricted_is_created(client: Client, pod: Make):
    await namespace_enforcing(client, "restricted")
    container_context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    pod_context = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    restricted_pod = pod(
        "p", containers=[{**CONTAINER, "securityContext": container_context}], securityContext=pod_context
    )
    assert (await client.create("pods", restricted_pod)).status == 201


async def quota(client: Client, **hard: str) -> None:
    spec = {"hard": {name.replace("_", "."): amount for name, amount in hard.items()}}
    await client.create("resourcequotas", {"metadata": {"name": "few"}, "spec": spec})


async def test_pod_exceeding_quota_or_without_its_resources_is_forbidden(client: Client, pod: Make):
    await namespace(client)
    await quota(client, requests_cpu="1", limits_memory="1Gi")
    container = {**CONTAINER, "resources": {"requests": {"cpu": "600m"}, "limits": {"memory": "600Mi"}}}
    assert (await client.create("pods", pod("a", containers=[container]))).status == 201
    exceeding = await client.create("pods", pod("b", containers=[container]))
    assert exceeding.body["message"] == (
        'pods "b" is forbidden: exceeded quota: few, requested: limits.memory=600Mi,requests.cpu=600m, '
        "used: limits.memory=600Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1"
    )
    unset = await client.create("pods", pod("c"))
    assert unset.body["message"] == (
        'pods "c" is forbidden: failed quota: few: must specify limits.memory for: sandbox; requests.cpu for: sandbox'
    )


async def test_quota_after_deletion_has_room_again(client: Client, pod: Make):
    await namespace(client)
    await quota(client, pods="1")
    await client.create("pods", pod("a"))
    assert (await client.get("resourcequotas", "few")).body["status"] == {"hard": {"pods": "1"}, "used": {"pods": "1"}}
    assert (await client.create("pods", pod("b"))).status == 403
    await client.delete("pods", "a", {"gracePeriodSeconds": 0})
    assert (await client.create("pods", pod("b"))).status == 201


MISSING = [
    ({"serviceAccountName": "absent"}, 'error looking up service account default/absent: serviceaccount "absent" not'),
    ({"priorityClassName": "high"}, "no PriorityClass with name high was found"),
    ({"runtimeClassName": "gvisor"}, 'pod rejected: RuntimeClass "gvisor" not found'),
]


@pytest.mark.parametrize(("spec", "message"), MISSING)
async def test_pod_naming_missing_object_is_forbidden(client: Client, pod: Make, spec: dict[str, Any], message: str):
    response = await client.create("pods", pod("p", **spec))
    assert (response.status, response.body["reason"]) == (403, "Forbidden")
    assert message in response.body["message"]


async def test_pod_with_existing_service_account_is_created(client: Client, pod: Make):
    await client.create("serviceaccounts", {"metadata": {"name": "sandbox"}})
    response = await client.create("pods", pod("p", serviceAccountName="sandbox", automountServiceAccountToken=False))
    assert response.status == 201
    assert "volumes" not in response.body["spec"]


async def test_deleted_namespace_is_emptied_before_removal(client: Client, pod: Make, service: Make):
    await namespace(client)
    await client.create("pods", pod())
    await client.create("services", service())
    await client.ready("p")
    response = await client.delete("namespaces", "ns")
    assert response.body["status"]["phase"] == "Terminating"
    refusal = await client.create("pods", pod("late"))
    assert (refusal.status, refusal.body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")

    async def gone() -> bool:
        return (await client.get("namespaces", "ns")).status == 404

    await client.until(gone)
    assert (await client.list("pods")).body["items"] == []


async def test_default_namespace_cannot_be_deleted(client: Client):
    assert (await client.delete("namespaces", "default")).status == 403


async def test_generate_name_creates_distinct_names(client: Client, pod: Make):
    body = pod()
    body["metadata"] = {"generateName": "made-"}
    names = {(await client.create("pods", body)).body["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("made-") and len(name) == 10 for name in names)


QOS = [
    ({}, "BestEffort"),
    ({"requests": {"cpu": "1"}}, "Burstable"),
    ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
    ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
]


@pytest.mark.parametrize(("resources", "qos_class"), QOS)
async def test_qos_class_follows_resources(client: Client, pod: Make, resources: dict[str, Any], qos_class: str):
    response = await client.create("pods", pod("p", containers=[{**CONTAINER, "resources": resources}]))
    assert response.body["status"]["qosClass"] == qos_class


PULLS = [
    ("a", "Always"),
    ("a:latest", "Always"),
    ("a:1", "IfNotPresent"),
    ("r:5000/a", "Always"),
    ("a@sha256:0", "IfNotPresent"),
]


@pytest.mark.parametrize(("image", "policy"), PULLS)
async def test_pull_policy_follows_image_tag(client: Client, pod: Make, image: str, policy: str):
    response = await client.create("pods", pod("p", containers=[{"name": "c", "image": image}]))
    assert response.body["spec"]["containers"][0]["imagePullPolicy"] == policy
