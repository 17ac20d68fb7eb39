"""Whole incarnations of sandboxes, from the create to the URL and until they are gone, on real processes."""

import asyncio
import os
from collections import Counter

import httpx
import pytest

from tests.system.conftest import Start
from worker.kubernetes.labels import SANDBOX_ID

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

SANDBOXES = int(os.environ.get("TEST_SANDBOXES", "20" if os.environ.get("TEST_KUBECONFIG") else "100"))
"""Number of sandboxes of one test. A small real cluster has room for few."""
INCARNATIONS = int(os.environ.get("TEST_INCARNATIONS", "50"))
CONCURRENCY = 20
TERMINATION = ("--termination-seconds", "3")
"""Grace period of Pods. Long enough for a new incarnation beside a terminating Pod."""


async def test_sandboxes_created_at_once_are_all_ready_and_deleted_without_leftovers(start: Start):
    system = await start(workers=2)
    gate = asyncio.Semaphore(CONCURRENCY)
    ids = [f"many-{number}" for number in range(SANDBOXES)]

    async def create(sandbox_id: str) -> str:
        async with gate:
            await system.create(sandbox_id)
            sandbox = await system.until_ready(sandbox_id)
            assert sandbox["status"] == "Running"
            await system.fetch(sandbox["sandbox_url"])
            return str(sandbox["sandbox_url"])

    urls = await asyncio.gather(*map(create, ids))
    assert len(set(urls)) == SANDBOXES
    assert (await system.api.get("/api/sandboxes")).json()["count"] == SANDBOXES
    assert Counter(pod.metadata.labels[SANDBOX_ID] for pod in await system.pods()) == Counter(ids)
    assert Counter(service.metadata.labels[SANDBOX_ID] for service in await system.services()) == Counter(ids)

    async def delete(sandbox_id: str) -> None:
        async with gate:
            await system.delete(sandbox_id)

    await asyncio.gather(*map(delete, ids))
    await system.until_empty()


async def test_id_deleted_and_created_many_times_ends_as_one_running_incarnation(start: Start):
    """Earlier Pods still terminate meanwhile. The URL reaches the last Pod."""
    system = await start(workers=2, emulator=TERMINATION)
    await system.create("again")
    for _ in range(INCARNATIONS):
        await system.delete("again")
        await system.create("again")
    sandbox = await system.until_ready("again")

    async def alone() -> bool:
        pods, services = await system.pods("again"), await system.services("again")
        return len(pods) == len(services) == 1

    await system.until(alone, "one Pod and one Service", lambda: system.pods("again"))
    (pod,), (service,) = await system.pods("again"), await system.services("again")
    assert pod.metadata.deletion_timestamp is None
    assert [owner.uid for owner in service.metadata.owner_references] == [pod.metadata.uid]
    assert service.spec.selector.items() <= pod.metadata.labels.items()
    body = await system.fetch(sandbox["sandbox_url"])
    assert body.get("uid", pod.metadata.uid) == pod.metadata.uid
    assert (await system.read("again"))["status"] == "Running"


async def test_create_after_delete_of_a_running_sandbox_gets_its_own_pod(start: Start):
    """The new URL never reaches the Pod that terminates."""
    system = await start(workers=2, emulator=TERMINATION)
    await system.create("phoenix")
    first = await system.until_ready("phoenix")
    (first_pod,) = await system.pods("phoenix")
    await system.delete("phoenix")
    await system.create("phoenix")
    second = await system.until_ready("phoenix")
    assert second["generation"] == first["generation"] + 1
    pods = [pod for pod in await system.pods("phoenix") if pod.metadata.deletion_timestamp is None]
    assert [pod.metadata.uid == first_pod.metadata.uid for pod in pods] == [False]
    body = await system.fetch(second["sandbox_url"])
    assert body.get("uid", pods[0].metadata.uid) == pods[0].metadata.uid


async def test_two_identical_creates_at_once_make_one_sandbox(start: Start):
    """Two API processes answer with the same incarnation, even if one of them knows a later revision."""
    system = await start(workers=2, apis=2)
    headers = {"X-API-Key": system.stack.key}
    async with httpx.AsyncClient(base_url=system.stack.urls[1], headers=headers) as other_api:
        for number in range(10):
            body = {"sandbox_id": f"twin-{number}", "user_id": "u1"}
            responses = await asyncio.gather(
                system.api.post("/api/sandboxes", json=body), other_api.post("/api/sandboxes", json=body)
            )
            assert [response.status_code for response in responses] == [202, 202]
            assert len({response.headers["ETag"].rpartition(".")[0] for response in responses}) == 1
    for number in range(10):
        await system.until_ready(f"twin-{number}")
    assert len(await system.pods()) == len(await system.services()) == 10


async def test_delete_right_after_the_create_leaves_nothing(start: Start):
    """The worker has not started, is in the middle, or has created everything."""
    system = await start(workers=2)
    for number in range(20):
        await system.create(f"brief-{number}")
        await system.delete(f"brief-{number}")
    await system.until_empty()
