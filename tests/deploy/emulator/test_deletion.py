import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


async def wait_until_gone(client: Client, resource: str, name: str) -> None:
    async def missing() -> bool:
        return (await client.get(resource, name)).status == 404

    await client.until(missing)


async def test_unscheduled_pod_is_removed_at_once(start: Start, pod: Make):
    client = await start(schedule_seconds=30)
    await client.create("pods", pod())
    response = await client.delete("pods", "p")
    assert (response.status, response.body["metadata"]["deletionGracePeriodSeconds"]) == (200, 0)
    assert (await client.get("pods", "p")).status == 404


async def test_pod_deleted_with_grace_zero_is_removed_at_once(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.ready("p")
    await client.call("DELETE", client.path("pods", "p") + "?gracePeriodSeconds=0")
    assert (await client.get("pods", "p")).status == 404
    assert (await client.create("pods", pod())).status == 201


async def test_shorter_grace_ends_termination_early(start: Start, pod: Make):
    """The container needs 30 s to stop, but is killed after its grace."""
    client = await start(termination_seconds=30, schedule_seconds=0)
    await client.create("pods", pod(terminationGracePeriodSeconds=1))
    await client.ready("p")
    await client.delete("pods", "p", {"gracePeriodSeconds": 20})
    shortened = await client.delete("pods", "p", {"gracePeriodSeconds": 0})
    assert shortened.body["metadata"]["deletionGracePeriodSeconds"] == 0
    await wait_until_gone(client, "pods", "p")


async def test_second_delete_with_longer_grace_changes_nothing(start: Start, pod: Make):
    client = await start(termination_seconds=30)
    await client.create("pods", pod())
    await client.ready("p")
    first = await client.delete("pods", "p", {"gracePeriodSeconds": 10})
    second = await client.delete("pods", "p", {"gracePeriodSeconds": 20})
    assert second.body["metadata"]["deletionGracePeriodSeconds"] == 10
    assert second.body["metadata"]["deletionTimestamp"] == first.body["metadata"]["deletionTimestamp"]


async def test_negative_grace_becomes_one_second(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.ready("p")
    response = await client.delete("pods", "p", {"gracePeriodSeconds": -5})
    assert response.body["metadata"]["deletionGracePeriodSeconds"] == 1


async def test_deleted_pod_ends_failed_with_exit_code(start: Start, pod: Make):
    """A Pod that is deleted ends in phase Failed, as recorded from a real cluster."""
    client = await start()
    version = (await client.list("pods")).body["metadata"]["resourceVersion"]
    await client.create("pods", pod())
    await client.ready("p")
    await client.delete("pods", "p")
    async with asyncio.timeout(5):
        async for event in client.watch("pods", f"resourceVersion={version}"):
            if event["type"] == "DELETED":
                break
    status = event["object"]["status"]
    assert status["phase"] == "Failed"
    assert status["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 1


async def test_container_that_never_started_ends_with_status_unknown(client: Client, pod: Make):
    await client.faults({"kind": "no-mount"})
    await client.create("pods", pod())
    await client.pod_where("p", lambda pod: "nodeName" in pod["spec"])
    version = (await client.list("pods")).body["metadata"]["resourceVersion"]
    await client.delete("pods", "p")
    events = []
    async with asyncio.timeout(5):
        async for event in client.watch("pods", f"resourceVersion={version}"):
            events.append(event)
            if event["type"] == "DELETED":
                break
    termination = events[-1]["object"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (termination["exitCode"], termination["reason"]) == (137, "ContainerStatusUnknown")


PRECONDITIONS = [
    ({"resourceVersion": "1"}, "the ResourceVersion in the precondition (1) does not match"),
    ({"uid": "x"}, "the UID in the precondition (x) does not match the UID in record"),
]


@pytest.mark.parametrize(("preconditions", "message"), PRECONDITIONS)
async def test_delete_with_failed_precondition_gets_conflict(
    client: Client, service: Make, preconditions: Any, message: str
):
    await client.create("services", service())
    response = await client.delete("services", "p", {"preconditions": preconditions})
    assert (response.status, response.body["reason"]) == (409, "Conflict")
    assert message in response.body["message"]


async def test_delete_with_met_preconditions_succeeds(client: Client, service: Make):
    owner = (await client.create("services", service())).body["metadata"]
    preconditions = {"uid": owner["uid"], "resourceVersion": owner["resourceVersion"]}
    assert (await client.delete("services", "p", {"preconditions": preconditions})).status == 200


async def test_delete_collection_with_selector_deletes_matching_pods(client: Client, pod: Make):
    for name in ("a", "b"):
        await client.create("pods", pod(name))
    await client.create("pods", pod("c", {"app": "other"}))
    response = await client.call("DELETE", client.path("pods") + "?labelSelector=app%3Dsandbox")
    assert response.body["kind"] == "PodList"
    assert [item["metadata"]["name"] for item in response.body["items"]] == ["a", "b"]
    await wait_until_gone(client, "pods", "a")
    assert (await client.get("pods", "c")).status == 200


async def test_service_with_finalizer_stays_until_the_finalizer_is_removed(client: Client, service: Make):
    body = service()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await client.create("services", body)
    terminating = await client.delete("services", "p")
    assert "deletionTimestamp" in terminating.body["metadata"]
    patch: dict[str, Any] = {"metadata": {"finalizers": []}}
    await client.call("PATCH", client.path("services", "p"), patch, "application/merge-patch+json")
    assert (await client.get("services", "p")).status == 404


async def test_pod_with_finalizer_stays_until_the_finalizer_is_removed(client: Client, pod: Make):
    """The kubelet ends the containers; the finalizer keeps the object."""
    body = pod()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await client.create("pods", body)
    await client.ready("p")
    await client.delete("pods", "p")
    termination = await client.pod_where("p", lambda pod: pod["metadata"]["deletionGracePeriodSeconds"] == 0)
    assert termination["status"]["phase"] == "Failed"
    patch: dict[str, Any] = {"metadata": {"finalizers": []}}
    await client.call("PATCH", client.path("pods", "p"), patch, "application/merge-patch+json")
    assert (await client.get("pods", "p")).status == 404


async def test_delete_with_unknown_propagation_policy_is_invalid(client: Client, service: Make):
    await client.create("services", service())
    response = await client.delete("services", "p", {"propagationPolicy": "Sometimes"})
    assert response.status == 422


async def test_lost_pod_gets_deleted_event_at_once(client: Client, pod: Make):
    """No MODIFIED event comes before DELETED."""
    await client.create("pods", pod())
    version = (await client.ready("p"))["metadata"]["resourceVersion"]
    await client.call("POST", "/emulator/lose", {"resource": "pods", "namespace": "default", "name": "p"})
    async with asyncio.timeout(5):
        async for event in client.watch("pods", f"resourceVersion={version}"):
            assert event["type"] == "DELETED"
            break
    second = await client.call("POST", "/emulator/lose", {"resource": "pods", "namespace": "default", "name": "p"})
    assert second.status == 404


class TestGarbageCollection:
    """Deletion of dependents after the deletion of their owner."""

    @staticmethod
    def owned(service: Make, *owners: dict[str, Any]) -> dict[str, Any]:
        body = service("owned")
        references = [{"apiVersion": "v1", "kind": "Pod", "name": o["name"], "uid": o["uid"]} for o in owners]
        body["metadata"]["ownerReferences"] = references
        return body

    async def test_dependent_is_deleted_after_its_owner(self, client: Client, pod: Make, service: Make):
        owner = (await client.create("pods", pod())).body["metadata"]
        await client.create("services", self.owned(service, owner))
        await client.ready("p")
        await client.delete("pods", "p")
        await wait_until_gone(client, "services", "owned")

    @pytest.mark.parametrize("change", [{"uid": "another"}, {"name": "another"}])
    async def test_dependent_of_missing_owner_is_deleted(
        self, client: Client, pod: Make, service: Make, change: dict[str, str]
    ):
        """An owner must match by name and by uid."""
        owner = (await client.create("pods", pod())).body["metadata"]
        assert (await client.create("services", self.owned(service, {**owner, **change}))).status == 201
        await wait_until_gone(client, "services", "owned")

    async def test_dependent_with_one_remaining_owner_stays(self, client: Client, pod: Make, service: Make):
        owners = [(await client.create("pods", pod(name))).body["metadata"] for name in ("a", "b")]
        await client.create("services", self.owned(service, *owners))
        await client.delete("pods", "a", {"gracePeriodSeconds": 0})

        async def one_left() -> bool:
            return len((await client.get("services", "owned")).body["metadata"]["ownerReferences"]) == 1

        await client.until(one_left)

    async def test_dependent_of_owner_deleted_with_orphan_policy_stays(self, client: Client, pod: Make, service: Make):
        owner = (await client.create("pods", pod())).body["metadata"]
        await client.create("services", self.owned(service, owner))
        await client.delete("pods", "p", {"gracePeriodSeconds": 0, "propagationPolicy": "Orphan"})
        assert "ownerReferences" not in (await client.get("services", "owned")).body["metadata"]
