import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]
Start = Callable[..., Awaitable[Client]]


async def gone(client: Client, resource: str, name: str) -> None:
    async def missing() -> bool:
        return (await client.get(resource, name)).status == 404

    await client.until(missing)


async def test_an_unscheduled_pod_goes_at_once(start: Start, pod: Make):
    client = await start(schedule_seconds=30)
    await client.create("pods", pod())
    answer = await client.delete("pods", "p")
    assert (answer.status, answer.body["metadata"]["deletionGracePeriodSeconds"]) == (200, 0)
    assert (await client.get("pods", "p")).status == 404


async def test_no_grace_is_at_once(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.ready("p")
    await client.call("DELETE", client.path("pods", "p") + "?gracePeriodSeconds=0")
    assert (await client.get("pods", "p")).status == 404
    assert (await client.create("pods", pod())).status == 201


async def test_grace_caps_the_time_a_container_takes(start: Start, pod: Make):
    """A container that needs 30 s to stop is killed after the one second it is given."""
    client = await start(termination_seconds=30, schedule_seconds=0)
    await client.create("pods", pod(terminationGracePeriodSeconds=1))
    await client.ready("p")
    await client.delete("pods", "p", {"gracePeriodSeconds": 20})
    shortened = await client.delete("pods", "p", {"gracePeriodSeconds": 0})
    assert shortened.body["metadata"]["deletionGracePeriodSeconds"] == 0
    await gone(client, "pods", "p")


async def test_a_longer_grace_is_not_given(start: Start, pod: Make):
    client = await start(termination_seconds=30)
    await client.create("pods", pod())
    await client.ready("p")
    first = await client.delete("pods", "p", {"gracePeriodSeconds": 10})
    second = await client.delete("pods", "p", {"gracePeriodSeconds": 20})
    assert second.body["metadata"]["deletionGracePeriodSeconds"] == 10
    assert second.body["metadata"]["deletionTimestamp"] == first.body["metadata"]["deletionTimestamp"]


async def test_a_negative_grace_is_one_second(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.ready("p")
    answer = await client.delete("pods", "p", {"gracePeriodSeconds": -5})
    assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 1


async def test_how_a_container_ends(start: Start, pod: Make):
    """Terminated with an exit code, the Pod Failed: not a failure, only how a Pod ends."""
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


async def test_a_container_that_never_began(client: Client, pod: Make):
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
    ended = events[-1]["object"]["status"]["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "ContainerStatusUnknown")


PRECONDITIONS = [
    ({"resourceVersion": "1"}, "the ResourceVersion in the precondition (1) does not match"),
    ({"uid": "x"}, "the UID in the precondition (x) does not match the UID in record"),
]


@pytest.mark.parametrize(("preconditions", "words"), PRECONDITIONS)
async def test_a_precondition_that_does_not_hold(client: Client, service: Make, preconditions: Any, words: str):
    await client.create("services", service())
    answer = await client.delete("services", "p", {"preconditions": preconditions})
    assert (answer.status, answer.body["reason"]) == (409, "Conflict")
    assert words in answer.body["message"]


async def test_preconditions_that_hold(client: Client, service: Make):
    made = (await client.create("services", service())).body["metadata"]
    wanted = {"uid": made["uid"], "resourceVersion": made["resourceVersion"]}
    assert (await client.delete("services", "p", {"preconditions": wanted})).status == 200


async def test_all_that_match(client: Client, pod: Make):
    for name in ("a", "b"):
        await client.create("pods", pod(name))
    await client.create("pods", pod("c", {"app": "other"}))
    answer = await client.call("DELETE", client.path("pods") + "?labelSelector=app%3Dsandbox")
    assert answer.body["kind"] == "PodList"
    assert [item["metadata"]["name"] for item in answer.body["items"]] == ["a", "b"]
    await gone(client, "pods", "a")
    assert (await client.get("pods", "c")).status == 200


async def test_a_finalizer_holds_the_object_back(client: Client, service: Make):
    body = service()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await client.create("services", body)
    held = await client.delete("services", "p")
    assert "deletionTimestamp" in held.body["metadata"]
    patch = {"metadata": {"finalizers": []}}
    await client.call("PATCH", client.path("services", "p"), patch, "application/merge-patch+json")
    assert (await client.get("services", "p")).status == 404


async def test_pod_with_finalizer_stays_until_the_finalizer_is_removed(client: Client, pod: Make):
    """The kubelet ends the containers; the finalizer keeps the object."""
    body = pod()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await client.create("pods", body)
    await client.ready("p")
    await client.delete("pods", "p")
    ended = await client.pod_where("p", lambda pod: pod["metadata"]["deletionGracePeriodSeconds"] == 0)
    assert ended["status"]["phase"] == "Failed"
    patch = {"metadata": {"finalizers": []}}
    await client.call("PATCH", client.path("pods", "p"), patch, "application/merge-patch+json")
    assert (await client.get("pods", "p")).status == 404


async def test_an_unknown_policy(client: Client, service: Make):
    await client.create("services", service())
    answer = await client.delete("services", "p", {"propagationPolicy": "Sometimes"})
    assert answer.status == 422


async def test_lost_behind_everyones_back(client: Client, pod: Make):
    """A watch shows a DELETED out of nothing."""
    await client.create("pods", pod())
    version = (await client.ready("p"))["metadata"]["resourceVersion"]
    await client.call("POST", "/emulator/lose", {"resource": "pods", "namespace": "default", "name": "p"})
    async with asyncio.timeout(5):
        async for event in client.watch("pods", f"resourceVersion={version}"):
            assert event["type"] == "DELETED"
            break
    again = await client.call("POST", "/emulator/lose", {"resource": "pods", "namespace": "default", "name": "p"})
    assert again.status == 404


class TestGarbage:
    """What belongs to an owner goes when the owner is gone."""

    @staticmethod
    def owned(service: Make, *owners: dict[str, Any]) -> dict[str, Any]:
        body = service("owned")
        references = [{"apiVersion": "v1", "kind": "Pod", "name": o["name"], "uid": o["uid"]} for o in owners]
        body["metadata"]["ownerReferences"] = references
        return body

    async def test_goes_with_its_owner(self, client: Client, pod: Make, service: Make):
        made = (await client.create("pods", pod())).body["metadata"]
        await client.create("services", self.owned(service, made))
        await client.ready("p")
        await client.delete("pods", "p")
        await gone(client, "services", "owned")

    @pytest.mark.parametrize("change", [{"uid": "another"}, {"name": "another"}])
    async def test_an_owner_that_never_was(self, client: Client, pod: Make, service: Make, change: dict[str, str]):
        """A name without its uid, or a uid without its name, is no owner."""
        made = (await client.create("pods", pod())).body["metadata"]
        assert (await client.create("services", self.owned(service, {**made, **change}))).status == 201
        await gone(client, "services", "owned")

    async def test_one_living_owner_is_enough(self, client: Client, pod: Make, service: Make):
        owners = [(await client.create("pods", pod(name))).body["metadata"] for name in ("a", "b")]
        await client.create("services", self.owned(service, *owners))
        await client.delete("pods", "a", {"gracePeriodSeconds": 0})

        async def one_left() -> bool:
            return len((await client.get("services", "owned")).body["metadata"]["ownerReferences"]) == 1

        await client.until(one_left)

    async def test_an_orphan_stays(self, client: Client, pod: Make, service: Make):
        made = (await client.create("pods", pod())).body["metadata"]
        await client.create("services", self.owned(service, made))
        await client.delete("pods", "p", {"gracePeriodSeconds": 0, "propagationPolicy": "Orphan"})
        assert "ownerReferences" not in (await client.get("services", "owned")).body["metadata"]
