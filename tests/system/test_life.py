"""A sandbox from request to URL and back, on real processes."""

import asyncio
import os
from collections import Counter

import httpx
import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

MANY = int(os.environ.get("TEST_SANDBOXES", "20" if os.environ.get("TEST_KUBECONFIG") else "200"))
"""A small real cluster has room for few."""
CONCURRENCY = 20


async def test_many_sandboxes_at_once_are_all_ready_and_leave_nothing_behind(start):
    """Each is Running and ready, each URL answers, and after the deletes no Pod, Service or key is left."""
    system = await start(workers=2)
    gate = asyncio.Semaphore(CONCURRENCY)
    ids = [f"many-{number}" for number in range(MANY)]

    async def live(sandbox_id: str) -> str:
        async with gate:
            await system.create(sandbox_id)
            answer = await system.until_ready(sandbox_id)
            assert answer["status"] == "Running"
            await system.fetch(answer["sandbox_url"])
            return answer["sandbox_url"]

    urls = await asyncio.gather(*map(live, ids))
    assert len(set(urls)) == MANY
    listed = (await system.api.get("/api/sandboxes")).json()
    assert listed["count"] == MANY
    assert Counter(p.metadata.labels["sandbox-id"] for p in await system.pods()) == Counter(ids)
    assert Counter(s.metadata.labels["sandbox-id"] for s in await system.services()) == Counter(ids)

    async def end(sandbox_id: str) -> None:
        async with gate:
            await system.delete(sandbox_id)

    await asyncio.gather(*map(end, ids))
    await system.until_empty()


@pytest.mark.parametrize("lives", [int(os.environ.get("TEST_LIVES", "50"))])
async def test_an_id_that_is_deleted_and_created_at_once_ends_up_alive(start, incarnations):
    """The last life is Running, and its URL reaches the living Pod, while earlier ones still terminate."""
    system = await start(workers=2, emulator=("--termination-seconds", "3"))
    await system.create("again")
    for _ in range(incarnations):
        await system.delete("again")
        await system.create("again")
    answer = await system.until_ready("again")

    async def alone() -> bool:
        pods, services = await system.pods("again"), await system.services("again")
        return len(pods) == len(services) == 1

    await system.until(alone, "one Pod and one Service", lambda: system.pods("again"))
    (pod,), (service,) = await system.pods("again"), await system.services("again")
    assert pod.metadata.deletion_timestamp is None
    assert [owner.uid for owner in service.metadata.owner_references] == [pod.metadata.uid]
    assert service.spec.selector.items() <= pod.metadata.labels.items()
    body = await system.fetch(answer["sandbox_url"])
    assert body.get("uid", pod.metadata.uid) == pod.metadata.uid
    assert (await system.read("again"))["status"] == "Running"


async def test_a_sandbox_that_runs_is_followed_by_its_next_life_while_the_old_pod_terminates(start):
    """Delete, then create at once: the new life has its own Pod, and its URL never reaches the dying one."""
    system = await start(workers=2, emulator=("--termination-seconds", "3"))
    await system.create("phoenix")
    first = await system.until_ready("phoenix")
    (old,) = await system.pods("phoenix")
    await system.delete("phoenix")
    await system.create("phoenix")
    second = await system.until_ready("phoenix")
    assert second["generation"] == first["generation"] + 1
    living = [pod for pod in await system.pods("phoenix") if pod.metadata.deletion_timestamp is None]
    assert [pod.metadata.uid == old.metadata.uid for pod in living] == [False]
    body = await system.fetch(second["sandbox_url"])
    assert body.get("uid", living[0].metadata.uid) == living[0].metadata.uid


async def test_two_identical_creates_at_one_instant_make_one_sandbox(start):
    """From two API processes: the same life in both answers, though one may know more of it; one Pod, one Service."""
    system = await start(workers=2, apis=2)
    headers = {"X-API-Key": system.stack.key}
    async with httpx.AsyncClient(base_url=system.stack.urls[1], headers=headers) as other:
        for number in range(10):
            body = {"sandbox_id": f"twin-{number}", "user_id": "u1"}
            one, two = await asyncio.gather(
                system.api.post("/api/sandboxes", json=body), other.post("/api/sandboxes", json=body)
            )
            assert one.status_code == two.status_code == 202
            assert one.headers["ETag"].rpartition(".")[0] == two.headers["ETag"].rpartition(".")[0]
    for number in range(10):
        await system.until_ready(f"twin-{number}")
    assert len(await system.pods()) == len(await system.services()) == 10


async def test_a_delete_that_follows_the_create_at_once_leaves_nothing(start):
    """Whether the worker had begun, was in the middle, or had made everything."""
    system = await start(workers=2)
    for number in range(20):
        await system.create(f"brief-{number}")
        await system.delete(f"brief-{number}")
    await system.until_empty()
