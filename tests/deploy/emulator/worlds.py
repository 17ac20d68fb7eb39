"""The objects and faults that each recording presupposes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from deploy.local.emulator.client import Client
from tests.support.transcripts import exchanges

Object = dict[str, Any]
SetUp = Callable[[Client], Awaitable[dict[str, str] | None]]
"""Prepares a cluster. Returns uids to replace: the recorded one to the current one."""

POD = exchanges("pod-create")[0]["request"]["body"]
SERVICE = exchanges("service-create-nodeport")[0]["request"]["body"]


async def empty_cluster(_client: Client) -> None:
    pass


async def namespace(client: Client, name: str = "transcripts", labels: dict[str, str] | None = None) -> None:
    client.namespace = name
    await client.create("namespaces", {"metadata": {"name": name, "labels": labels or {}}})


async def second_namespace(client: Client) -> None:
    await namespace(client, "transcripts-more")


async def secured_namespace(client: Client) -> None:
    await namespace(client, "transcripts-psa", {"pod-security.kubernetes.io/enforce": "baseline"})


async def namespace_with_quota(client: Client) -> None:
    await namespace(client, "transcripts-quota")
    hard = {"pods": "1", "services.nodeports": "1"}
    await client.create("resourcequotas", {"metadata": {"name": "few"}, "spec": {"hard": hard}})


async def service(client: Client) -> None:
    await namespace(client)
    await client.create("services", SERVICE)


async def service_in_second_namespace(client: Client) -> None:
    await second_namespace(client)
    await client.create("services", exchanges("service-node-port-asked")[1]["request"]["body"])


async def ready_pod(client: Client, name: str = "life") -> Object:
    await namespace(client)
    labels = {"app": "deer-flow-sandbox", "sandbox-id": name}
    await client.create("pods", {**POD, "metadata": {"name": name, "labels": labels}})
    return await client.ready(name)


async def pod(client: Client) -> None:
    await ready_pod(client)


async def owner(client: Client) -> dict[str, str]:
    owner_pod = await ready_pod(client, "owner")
    body = exchanges("owner-reference")[0]["request"]["body"]
    return {body["metadata"]["ownerReferences"][0]["uid"]: owner_pod["metadata"]["uid"]}


def stuck_pod(name: str) -> Object:
    """Return the Pod as it was sent: the recorded one without the fields of the server."""
    recorded = exchanges(f"pod-stuck-{name}")[0]["response"]["body"]
    spec = recorded["spec"]
    [container] = spec["containers"]
    mounts = [mount for mount in container["volumeMounts"] if not mount["name"].startswith("kube-api-access")]
    volumes = [volume for volume in spec.get("volumes", []) if not volume["name"].startswith("kube-api-access")]
    sent = {"containers": [{**container, "volumeMounts": mounts}], "volumes": volumes}
    return {"metadata": {"name": name, "labels": recorded["metadata"]["labels"]}, "spec": sent}


STUCK = ("badimage", "crash", "nomount", "nopvc", "oom", "toobig")
FAULTS: tuple[Object, ...] = (
    {"kind": "image-pull", "name": "^badimage$", "seconds": 20},
    {"kind": "crash-loop", "name": "^crash$", "exit_code": 3, "seconds": 0.3},
    {"kind": "out-of-memory", "name": "^oom$", "seconds": 4},
    {"kind": "no-mount", "name": "^nomount$", "seconds": 1},
)
SHORT_BACKOFFS = {"badimage": 1.0, "crash": 0.3, "oom": 0.6, "nomount": 1.0}


async def stuck_pods(client: Client, faults: tuple[Object, ...] = FAULTS) -> None:
    await namespace(client)
    await client.faults(*faults)
    for name in STUCK:
        assert (await client.create("pods", stuck_pod(name))).status == 201


async def stuck_pods_backing_off(client: Client) -> None:
    """Create the stuck Pods with short back-offs. The out-of-memory Pod rests after its third end."""
    await stuck_pods(client, tuple({**rule, "seconds": SHORT_BACKOFFS[rule["name"].strip("^$")]} for rule in FAULTS))


WORLDS: Mapping[str, SetUp] = {
    "namespace-create": empty_cluster,
    "namespace-missing": empty_cluster,
    "version": empty_cluster,
    "pod-get-running": pod,
    "pods-list": pod,
    "pod-delete-wrong-uid": pod,
    "pod-delete-terminating": pod,
    "service-delete": service,
    "pod-security-forbidden": secured_namespace,
    "quota-exceeded": namespace_with_quota,
    "owner-reference": owner,
    "pod-late-mounts": second_namespace,
    "pod-priority-class-missing": second_namespace,
    "pod-runtime-class-missing": second_namespace,
    "pod-shaped-wrong": second_namespace,
    "pods-by-node": second_namespace,
    "service-patch-labels": service_in_second_namespace,
} | {f"pod-stuck-{name}": stuck_pods_backing_off for name in STUCK}
"""By name of the recording. A recording that is not listed needs an empty namespace."""
