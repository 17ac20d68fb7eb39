"""What a namespace allows: whether it is there, its Pod security, its quotas, and the accounts Pods run as."""

from collections.abc import Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]


async def namespace(client: Client, **labels: str) -> None:
    await client.create("namespaces", {"metadata": {"name": "ns", "labels": labels}})
    client.namespace = "ns"


async def enforcing(client: Client, level: str) -> None:
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


@pytest.mark.parametrize(("spec", "words"), BASELINE)
async def test_baseline(client: Client, pod: Make, spec: dict[str, Any], words: str):
    await enforcing(client, "baseline")
    answer = await client.create("pods", pod("p", **spec))
    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")
    assert answer.body["message"].startswith(f'pods "p" is forbidden: violates PodSecurity "baseline:latest": {words}')


async def test_restricted_names_all_that_is_missing(client: Client, pod: Make):
    await enforcing(client, "restricted")
    answer = await client.create("pods", pod("p", volumes=[{"name": "h", "hostPath": {"path": "/x"}}]))
    assert answer.body["message"] == (
        'pods "p" is forbidden: violates PodSecurity "restricted:latest": '
        'allowPrivilegeEscalation != false (container "sandbox" must set '
        "securityContext.allowPrivilegeEscalation=false), "
        'unrestricted capabilities (container "sandbox" must set securityContext.capabilities.drop=["ALL"]), '
        'restricted volume types (volume "h" uses restricted volume type "hostPath"), '
        'runAsNonRoot != true (pod or container "sandbox" must set securityContext.runAsNonRoot=true), '
        'seccompProfile (pod or container "sandbox" must set securityContext.seccompProfile.type to "RuntimeDefault" '
        'or "Localhost")'
    )


async def test_restricted_lets_a_careful_pod_in(client: Client, pod: Make):
    await enforcing(client, "restricted")
    own = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    shared = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    careful = pod("p", containers=[{**CONTAINER, "securityContext": own}], securityContext=shared)
    assert (await client.create("pods", careful)).status == 201


async def quota(client: Client, **hard: str) -> None:
    spec = {"hard": {name.replace("_", "."): amount for name, amount in hard.items()}}
    await client.create("resourcequotas", {"metadata": {"name": "few"}, "spec": spec})


async def test_a_quota_of_cpu(client: Client, pod: Make):
    await namespace(client)
    await quota(client, requests_cpu="1", limits_memory="1Gi")
    container = {**CONTAINER, "resources": {"requests": {"cpu": "600m"}, "limits": {"memory": "600Mi"}}}
    assert (await client.create("pods", pod("a", containers=[container]))).status == 201
    over = await client.create("pods", pod("b", containers=[container]))
    assert over.body["message"] == (
        'pods "b" is forbidden: exceeded quota: few, requested: limits.memory=600Mi,requests.cpu=600m, '
        "used: limits.memory=600Mi,requests.cpu=600m, limited: limits.memory=1Gi,requests.cpu=1"
    )
    silent = await client.create("pods", pod("c"))
    assert silent.body["message"] == (
        'pods "c" is forbidden: failed quota: few: must specify limits.memory for: sandbox; requests.cpu for: sandbox'
    )


async def test_a_quota_is_given_back(client: Client, pod: Make):
    await namespace(client)
    await quota(client, pods="1")
    await client.create("pods", pod("a"))
    assert (await client.get("resourcequotas", "few")).body["status"] == {"hard": {"pods": "1"}, "used": {"pods": "1"}}
    assert (await client.create("pods", pod("b"))).status == 403
    await client.delete("pods", "a", {"gracePeriodSeconds": 0})
    assert (await client.create("pods", pod("b"))).status == 201


NAMED = [
    ({"serviceAccountName": "absent"}, 'error looking up service account default/absent: serviceaccount "absent" not'),
    ({"priorityClassName": "high"}, "no PriorityClass with name high was found"),
    ({"runtimeClassName": "gvisor"}, 'pod rejected: RuntimeClass "gvisor" not found'),
]


@pytest.mark.parametrize(("spec", "words"), NAMED)
async def test_what_a_pod_names_must_be_there(client: Client, pod: Make, spec: dict[str, Any], words: str):
    answer = await client.create("pods", pod("p", **spec))
    assert (answer.status, answer.body["reason"]) == (403, "Forbidden")
    assert words in answer.body["message"]


async def test_an_account_that_was_made(client: Client, pod: Make):
    await client.create("serviceaccounts", {"metadata": {"name": "sandbox"}})
    answer = await client.create("pods", pod("p", serviceAccountName="sandbox", automountServiceAccountToken=False))
    assert answer.status == 201
    assert "volumes" not in answer.body["spec"]


async def test_a_namespace_empties_before_it_goes(client: Client, pod: Make, service: Make):
    await namespace(client)
    await client.create("pods", pod())
    await client.create("services", service())
    await client.ready("p")
    answer = await client.delete("namespaces", "ns")
    assert answer.body["status"]["phase"] == "Terminating"
    refused = await client.create("pods", pod("late"))
    assert (refused.status, refused.body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")

    async def gone() -> bool:
        return (await client.get("namespaces", "ns")).status == 404

    await client.until(gone)
    assert (await client.list("pods")).body["items"] == []


async def test_the_default_namespace_stays(client: Client):
    assert (await client.delete("namespaces", "default")).status == 403


async def test_a_generated_name(client: Client, pod: Make):
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


@pytest.mark.parametrize(("resources", "wanted"), QOS)
async def test_quality_of_service(client: Client, pod: Make, resources: dict[str, Any], wanted: str):
    answer = await client.create("pods", pod("p", containers=[{**CONTAINER, "resources": resources}]))
    assert answer.body["status"]["qosClass"] == wanted


PULLS = [
    ("a", "Always"),
    ("a:latest", "Always"),
    ("a:1", "IfNotPresent"),
    ("r:5000/a", "Always"),
    ("a@sha256:0", "IfNotPresent"),
]


@pytest.mark.parametrize(("image", "policy"), PULLS)
async def test_when_images_are_pulled(client: Client, pod: Make, image: str, policy: str):
    answer = await client.create("pods", pod("p", containers=[{"name": "c", "image": image}]))
    assert answer.body["spec"]["containers"][0]["imagePullPolicy"] == policy
