"""Outages while sandboxes are being created: stopped workers, killed workers, no Redis, and Kubernetes errors."""

import asyncio
import signal

import pytest

from shared.queue.job import JobKind
from shared.store import keys
from tests.system.conftest import Start

pytestmark = pytest.mark.anyio

SLOW = {"kind": "delay", "seconds": 1.0, "verb": "create"}


async def test_worker_on_sigterm_finishes_its_jobs_and_fetches_no_more(start: Start):
    system = await start(workers=1)
    await system.faults(SLOW)
    await system.create("last")

    async def job_runs() -> bool:
        return bool(await system.redis.keys(f"{keys.IN_PROGRESS}{JobKind.PROVISION}:last:*"))

    await system.until(job_runs, "the job runs")
    (worker,) = system.stack.workers
    worker.signal(signal.SIGTERM)
    await system.create("after")
    assert await worker.wait() == 0
    assert (await system.read("last"))["sandbox_url"]
    assert (await system.read("after"))["sandbox_url"] is None


async def test_worker_killed_in_a_job_neither_loses_nor_doubles_the_sandbox(start: Start):
    """Another worker runs the job again, and finds the Pod."""
    system = await start(workers=1)
    await system.faults(SLOW | {"after": True})
    await system.create("orphan")

    async def pod_exists() -> bool:
        return bool(await system.pods("orphan"))

    await system.until(pod_exists, "the Pod exists, and the worker does not know that yet")
    await system.stack.workers[0].kill()
    await system.faults()
    await system.stack.start_worker()
    sandbox = await system.until_ready("orphan")
    await system.fetch(sandbox["sandbox_url"])
    assert len(await system.pods()) == len(await system.services()) == 1


async def test_api_without_redis_answers_503_and_recovers_without_a_restart(start: Start):
    """A sandbox that was created before can be read at once. Creates wait until the leader has synced the cluster."""
    system = await start(workers=1)
    await system.create("before")
    await system.until_ready("before")
    await system.stack.valkey.kill()
    for response in (
        await system.api.get("/api/sandboxes/before"),
        await system.api.get("/api/sandboxes"),
        await system.api.post("/api/sandboxes", json={"sandbox_id": "during"}),
        await system.api.delete("/api/sandboxes/before"),
    ):
        assert response.status_code == 503
        assert response.json()["code"] == "redis_unavailable"
        assert "Retry-After" in response.headers
    assert (await system.api.get("/health")).status_code == 200

    await system.stack.start_valkey()
    assert (await system.api.get("/api/sandboxes/before")).json()["status"] == "Running"
    await system.until_synced()
    await system.create("after")
    await system.until_ready("after")
    assert system.stack.workers[0].exit_code is None


async def test_sandboxes_with_kubernetes_errors_are_delayed_and_none_fails(start: Start):
    """Half of the calls fail, some of them after they had their effect. In the end each has one Pod and one Service."""
    system = await start(workers=2)
    await system.faults(
        {"kind": "error", "share": 0.3, "status": 500},
        {"kind": "error", "share": 0.1, "status": 500, "after": True, "verb": "create"},
        {"kind": "reset", "share": 0.1},
    )
    ids = [f"rough-{number}" for number in range(20)]
    await asyncio.gather(*map(system.create, ids))
    await asyncio.gather(*map(system.until_ready, ids))
    await system.faults()
    assert len(await system.pods()) == len(await system.services()) == len(ids)
    await asyncio.gather(*map(system.delete, ids))
    await system.until_empty()
