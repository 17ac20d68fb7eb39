"""Processes that stop, die, or lose Redis, in the middle of things."""

import asyncio
import signal

import pytest

pytestmark = pytest.mark.anyio

SLOW = {"kind": "delay", "seconds": 1.0, "verb": "create"}


async def test_a_worker_finishes_what_it_has_on_sigterm(start):
    """It picks no more jobs, makes the sandbox it was making, and exits with 0."""
    system = await start(workers=1)
    await system.faults(SLOW)
    await system.create("last")

    async def begun() -> bool:
        return any(
            key.startswith(b"arq:in-progress:provision:last") for key in await system.redis.keys("arq:in-progress:*")
        )

    await system.until(begun, "the job has begun")
    (worker,) = system.stack.workers
    worker.signal(signal.SIGTERM)
    await system.create("after")
    assert await worker.wait() == 0
    assert (await system.read("last"))["sandbox_url"]
    assert (await system.read("after"))["sandbox_url"] is None


async def test_a_killed_worker_loses_no_sandbox_and_doubles_none(start):
    """What it had begun is begun again by another, and finds what was made."""
    system = await start(workers=1)
    await system.faults(SLOW | {"after": True})
    await system.create("orphan")

    async def made() -> bool:
        return bool(await system.pods("orphan"))

    await system.until(made, "the Pod is made, and the worker does not know yet")
    await system.stack.workers[0].kill()
    await system.faults()
    await system.stack.start_worker()
    answer = await system.until_ready("orphan")
    await system.fetch(answer["sandbox_url"])
    assert len(await system.pods()) == len(await system.services()) == 1


async def test_the_api_says_503_while_redis_is_away_and_works_again_by_itself(start):
    """No restart, no wrong status; a sandbox made before is still there, and its worker still works."""
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
    await system.create("after")
    await system.until_ready("after")
    assert system.stack.workers[0].exit_code is None


async def test_a_cluster_in_trouble_delays_a_sandbox_and_fails_none(start):
    """Half of the calls fail, some after they had their effect: in the end one Pod and one Service each."""
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
