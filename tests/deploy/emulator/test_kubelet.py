"""Pods on their node: start, faults, and their statuses and Events."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


def condition(pod: dict[str, Any], name: str) -> dict[str, Any]:
    return next((c for c in pod["status"].get("conditions", []) if c["type"] == name), {})


def state(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["status"].get("containerStatuses", [{}])[0].get("state", {})


def waits_for(reason: str) -> Callable[[dict[str, Any]], bool]:
    return lambda pod: state(pod).get("waiting", {}).get("reason") == reason


async def reasons(client: Client) -> list[str]:
    return [event["reason"] for event in (await client.list("events")).body["items"]]


async def test_pod_without_probe_is_ready_once_running(client: Client, pod: Make):
    version = (await client.list("pods")).body["metadata"]["resourceVersion"]
    await client.create("pods", pod(containers=[{"name": "c", "image": "x"}]))
    async with asyncio.timeout(5):
        async for event in client.watch("pods", f"resourceVersion={version}"):
            if event["object"]["status"]["phase"] == "Running":
                break
    assert condition(event["object"], "Ready")["status"] == "True"


async def test_pod_from_start_to_deletion_gets_events(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.ready("p")
    await client.delete("pods", "p")
    await client.until(lambda: missing(client))
    assert await reasons(client) == ["Scheduled", "Pulled", "Created", "Started", "Killing"]


async def test_node_status_lists_each_started_image_once(client: Client, pod: Make):
    """Image names are completed with registry and tag."""
    assert "images" not in await node_status(client)
    for name, image in (("p", "a"), ("q", "a:latest"), ("r", "there:5000/b@sha256:00")):
        await client.create("pods", pod(name, containers=[{"name": "c", "image": image}]))
        await client.ready(name)
    names = [image["names"] for image in (await node_status(client))["images"]]
    assert [listed[-1] for listed in names] == ["docker.io/library/a:latest", "there:5000/b@sha256:00"]
    assert names[0][0].startswith("docker.io/library/a@sha256:")


async def node_status(client: Client) -> dict[str, Any]:
    status: dict[str, Any] = (await client.list("nodes")).body["items"][0]["status"]
    return status


async def missing(client: Client) -> bool:
    return (await client.get("pods", "p")).status == 404


async def test_init_container_runs_before_containers(start: Start, pod: Make):
    client = await start(start_seconds=0.1)
    await client.create("pods", pod(initContainers=[{"name": "i", "image": "x"}]))
    initializing = await client.pod_where("p", lambda pod: "running" in first_init(pod).get("state", {}))
    assert condition(initializing, "Initialized")["reason"] == "ContainersNotInitialized"
    assert condition(initializing, "Initialized")["message"] == "containers with incomplete status: [i]"
    assert state(initializing) == {"waiting": {"reason": "PodInitializing"}}
    ready = await client.ready("p")
    assert condition(ready, "Initialized")["status"] == "True"
    assert first_init(ready)["state"]["terminated"]["reason"] == "Completed"


def first_init(pod: dict[str, Any]) -> dict[str, Any]:
    return pod["status"].get("initContainerStatuses", [{}])[0]


async def test_pod_past_active_deadline_fails(client: Client, pod: Make):
    await client.create("pods", pod(activeDeadlineSeconds=1))
    await client.ready("p")
    failed = await client.pod_where("p", lambda pod: pod["status"]["phase"] == "Failed")
    assert failed["status"]["reason"] == "DeadlineExceeded"
    assert failed["status"]["message"] == "Pod was active on the node longer than the specified deadline"
    assert condition(failed, "Ready")["reason"] == "PodFailed"


async def test_pod_waits_for_missing_volume_claim(client: Client, pod: Make):
    await client.create("pods", pod(volumes=[{"name": "v", "persistentVolumeClaim": {"claimName": "late"}}]))
    stuck = await client.pod_where("p", lambda pod: condition(pod, "PodScheduled"))
    assert condition(stuck, "PodScheduled")["reason"] == "Unschedulable"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    assert (await client.create("persistentvolumeclaims", {"metadata": {"name": "late"}})).status == 422
    assert (await client.create("persistentvolumeclaims", {"metadata": {"name": "late"}, "spec": spec})).status == 201
    assert await client.ready("p")


async def test_pod_with_unmatched_node_selector_is_unschedulable(client: Client, pod: Make):
    await client.create("pods", pod(nodeSelector={"disk": "ssd"}))
    stuck = await client.pod_where("p", lambda pod: condition(pod, "PodScheduled"))
    assert "didn't match Pod's node affinity/selector" in condition(stuck, "PodScheduled")["message"]


STUCK: list[tuple[dict[str, Any], Callable[[dict[str, Any]], Any]]] = [
    ({"kind": "image-pull", "seconds": 0.1}, waits_for("ImagePullBackOff")),
    ({"kind": "unschedulable"}, lambda pod: condition(pod, "PodScheduled").get("reason") == "Unschedulable"),
    ({"kind": "crash-loop", "seconds": 0.05}, waits_for("CrashLoopBackOff")),
    ({"kind": "out-of-memory", "seconds": 0.05}, waits_for("CrashLoopBackOff")),
    ({"kind": "no-mount", "seconds": 0.05}, waits_for("ContainerCreating")),
    ({"kind": "never-ready", "seconds": 0.05}, lambda pod: pod["status"]["phase"] == "Running"),
    ({"kind": "slow-start", "seconds": 0.2}, waits_for("ContainerCreating")),
]


@pytest.mark.parametrize(("rule", "shows"), STUCK, ids=[rule["kind"] for rule, _ in STUCK])
async def test_pod_with_fault_becomes_ready_after_fault_is_cleared(client: Client, pod: Make, rule: Any, shows: Any):
    await client.faults({**rule, "name": "^p$"})
    await client.create("pods", pod())
    await client.create("pods", pod("well"))
    await client.pod_where("p", shows)
    assert condition((await client.get("pods", "p")).body, "Ready").get("status") != "True"
    await client.ready("well")
    await client.faults()
    assert await client.ready("p")


async def test_out_of_memory_fault_shows_in_last_state(client: Client, pod: Make):
    await client.faults({"kind": "out-of-memory", "label": "app=sandbox", "seconds": 0.1})
    await client.create("pods", pod())
    crashing = await client.pod_where("p", waits_for("CrashLoopBackOff"))
    termination = crashing["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (termination["exitCode"], termination["reason"]) == (137, "OOMKilled")


async def test_crash_loop_fault_with_restart_policy_never_fails_pod(client: Client, pod: Make):
    await client.faults({"kind": "crash-loop", "exit_code": 9})
    await client.create("pods", pod(restartPolicy="Never"))
    failed = await client.pod_where("p", lambda pod: pod["status"]["phase"] == "Failed")
    assert state(failed)["terminated"]["exitCode"] == 9


async def test_evicted_fault_fails_pod_with_disruption_target(client: Client, pod: Make):
    await client.faults({"kind": "evicted"})
    await client.create("pods", pod())
    evicted = await client.pod_where("p", lambda pod: pod["status"].get("reason") == "Evicted")
    assert evicted["status"]["phase"] == "Failed"
    assert condition(evicted, "DisruptionTarget")["reason"] == "TerminationByKubelet"
    assert evicted["status"]["message"].startswith("The node was low on resource: memory.")
    assert (await client.delete("pods", "p")).body["metadata"]["deletionGracePeriodSeconds"] == 0


async def test_readiness_flaps_fault_toggles_ready_of_running_pod(client: Client, pod: Make):
    await client.faults({"kind": "readiness-flaps", "seconds": 0.02})
    await client.create("pods", pod())
    statuses: list[str | None] = []
    async with asyncio.timeout(5):
        async for event in client.watch("pods"):
            status = condition(event["object"], "Ready").get("status")
            if not statuses or statuses[-1] != status:
                statuses.append(status)
            if statuses[-3:] == ["True", "False", "True"]:
                break
    assert event["object"]["status"]["phase"] == "Running"
    assert "Unhealthy" in await reasons(client)


async def test_repeated_event_increases_count(client: Client, pod: Make):
    await client.faults({"kind": "no-mount", "seconds": 0.02})
    await client.create("pods", pod(volumes=[{"name": "v", "hostPath": {"path": "/gone"}}]))

    async def repeated() -> Any:
        events = (await client.list("events", "fieldSelector=reason%3DFailedMount")).body["items"]
        return events if events and events[0]["count"] > 1 else None

    [event] = await client.until(repeated)
    assert (
        event["message"]
        == 'MountVolume.SetUp failed for volume "v" : hostPath type check failed: /gone is not a directory'
    )


async def test_rule_set_again_keeps_fault_of_its_pods(client: Client, pod: Make):
    """Adding a rule does not clear the faults of the other rules."""
    rule = {"kind": "image-pull", "name": "^p$", "seconds": 0.05}
    await client.faults(rule)
    await client.create("pods", pod())
    await client.pod_where("p", waits_for("ImagePullBackOff"))
    await client.faults(rule, {"kind": "delay"})
    version = (await client.get("pods", "p")).body["metadata"]["resourceVersion"]
    updated = await client.pod_where("p", lambda pod: pod["metadata"]["resourceVersion"] != version)
    assert state(updated)["waiting"]["reason"] in {"ErrImagePull", "ImagePullBackOff"}
