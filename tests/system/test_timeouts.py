"""Expiry after a few seconds, and limits, on real processes: each sandbox expires once, and the count stays right."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from shared.sandbox.record import ExpiryCause, Sandbox, Status
from shared.store import keys
from tests.system.chaos import kill_workers, repeat
from tests.system.conftest import Start, System
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio

IDLE_SECONDS = 2
USED_IDLE_SECONDS = 5
"""Idle timeout of sandboxes in use. Ten times the time between two uses, because a busy machine delays uses."""
USE_SECONDS = 0.5
LIFETIME_SECONDS = 7
LATE_SECONDS = 10.0
"""Upper bound of the time from an expiry to its record: a sweep, on a busy machine."""
LOOK_SECONDS = 0.02
CLIENTS = 64
MAXIMUM = 10

Expiries = dict[str, set[tuple[int, float, str]]]
"""Generation, time and cause of each expiry, by sandbox id."""


@asynccontextmanager
async def watch_expiries(system: System, ids: Collection[str]) -> AsyncIterator[Expiries]:
    """Collect the expiries that records show while the block runs. Read Redis, because a read by the API is a use."""
    expiries: Expiries = defaultdict(set)

    async def look() -> None:
        for record in await records(system, ids):
            if record.expired_at is not None:
                expiries[record.id].add((record.generation, record.expired_at, record.expired_by))

    async with repeat(look, LOOK_SECONDS):
        yield expiries


@asynccontextmanager
async def keep_using(
    system: System, *paths: str, method: str = "GET", json: dict[str, Any] | None = None
) -> AsyncIterator[list[int]]:
    """Request each path again and again while the block runs, and collect the HTTP statuses."""
    statuses: list[int] = []

    async def use() -> None:
        for path in paths:
            response = await system.api.request(method, f"/api/sandboxes/{path}", json=json)
            statuses.append(response.status_code)

    async with repeat(use, USE_SECONDS):
        yield statuses


async def records(system: System, ids: Collection[str]) -> list[Sandbox]:
    raws = await system.redis.mget([keys.record(sandbox_id) for sandbox_id in ids])
    return [msgspec.json.decode(raw, type=Sandbox) for raw in raws if raw]


async def until_deleted(system: System, ids: Collection[str]) -> None:
    """Wait until the records are deleted."""

    async def remaining() -> list[str]:
        return [record.id for record in await records(system, ids)]

    async def deleted() -> bool:
        return not await remaining()

    await system.until(deleted, f"{len(ids)} records are deleted", remaining)


async def test_sandboxes_expire_if_idle_or_too_old_and_stay_if_used(start: Start):
    """A lifetime wins over any use. For some time a read answers why the sandbox expired."""
    system = await start(workers=2, SANDBOX_IDLE_TIMEOUT_SECONDS=str(IDLE_SECONDS))
    idle, in_use, old = ([f"{name}-{number}" for number in range(4)] for name in ("idle", "used", "old"))
    for sandbox_id in in_use:
        await system.create(sandbox_id, idle_timeout_seconds=USED_IDLE_SECONDS)
    for sandbox_id in old:
        await system.create(sandbox_id, lifetime_seconds=LIFETIME_SECONDS, idle_timeout_seconds=USED_IDLE_SECONDS)
    for sandbox_id in idle:
        await system.create(sandbox_id)
    expiring = [*idle, *old]
    created_at = {record.id: record.created_at for record in await records(system, expiring)}
    keep_alive = keep_using(system, *(f"{name}/keepalive" for name in old), method="POST", json={"seconds": 600})
    async with watch_expiries(system, expiring) as expiries, keep_using(system, *in_use) as statuses, keep_alive:
        await until_deleted(system, expiring)
        await at_rest(system, in_use)
    assert set(statuses) == {200}
    for ids, seconds, expected_cause in (
        (idle, IDLE_SECONDS, ExpiryCause.IDLE),
        (old, LIFETIME_SECONDS, ExpiryCause.LIFETIME),
    ):
        for sandbox_id in ids:
            ((generation, expired_at, cause),) = expiries[sandbox_id]
            assert (generation, cause) == (1, expected_cause)
            assert 0 <= expired_at - (created_at[sandbox_id] + seconds) < LATE_SECONDS
            problem = (await system.api.get(f"/api/sandboxes/{sandbox_id}")).json()
            assert (problem["code"], problem["expired_by"]) == ("sandbox_expired", expected_cause)


async def test_sandboxes_while_workers_are_killed_expire_once(start: Start):
    """A worker can die in a sweep, or while it deletes a sandbox."""
    system = await start(workers=2, SANDBOX_IDLE_TIMEOUT_SECONDS=str(IDLE_SECONDS))
    ids = [f"idle-{number}" for number in range(60)]
    await system.create("used", idle_timeout_seconds=USED_IDLE_SECONDS)
    async with keep_using(system, "used") as statuses, watch_expiries(system, ids) as expiries:
        await asyncio.gather(*map(system.create, ids))
        async with kill_workers(system, every=1.5) as kills:
            await until_deleted(system, ids)
        await at_rest(system, ["used"])
    assert kills.count > 0
    assert {
        sandbox_id: [(generation, cause) for generation, _, cause in expiries[sandbox_id]] for sandbox_id in ids
    } == {sandbox_id: [(1, ExpiryCause.IDLE)] for sandbox_id in ids}
    assert set(statuses) == {200}


async def create_at_once(system: System, name: str) -> set[str]:
    """Send a create from each of CLIENTS clients at once, and return the ids that were accepted."""
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(headers={"X-API-Key": system.stack.key}, timeout=30, limits=limits) as clients:

        async def create(number: int) -> httpx.Response:
            url = system.stack.urls[number % len(system.stack.urls)]
            return await clients.post(f"{url}/api/sandboxes", json={"sandbox_id": f"{name}-{number}"})

        responses = await asyncio.gather(*map(create, range(CLIENTS)))
    refusals = [response for response in responses if response.status_code == 429]
    assert all(refusal.json()["limit"] == "MAX_SANDBOXES" for refusal in refusals)
    assert all(1 <= int(refusal.headers["Retry-After"]) <= 60 for refusal in refusals)
    ids = {response.json()["sandbox_id"] for response in responses if response.status_code == 202}
    assert len(ids) + len(refusals) == CLIENTS
    return ids


async def lose_pod(system: System, sandbox_id: str) -> None:
    """Remove the Pod at once, as a lost node does, and wait until the sandbox is Failed."""
    (pod,) = await system.pods(sandbox_id)
    body = {"resource": "pods", "namespace": system.namespace, "name": pod.metadata.name}
    async with system.emulator() as emulator:
        (await emulator.post("/emulator/lose", json=body)).raise_for_status()

    async def failed() -> bool:
        return (await system.read(sandbox_id)).get("status") == Status.FAILED

    await system.until(failed, f"{sandbox_id} is Failed", lambda: system.read(sandbox_id))


async def test_limit_with_many_creates_at_once_is_never_exceeded_and_counts_right(start: Start):
    """64 clients create at once: at first, after deletes, while workers are killed, and after failures."""
    system = await start(workers=2, apis=2, MAX_SANDBOXES=str(MAXIMUM))
    active = await create_at_once(system, "first")
    assert len(active) == MAXIMUM
    await at_rest(system, active)

    async with kill_workers(system, every=1.0):
        deleted = sorted(active)[:4]
        await asyncio.gather(*map(system.delete, deleted))
        accepted = await create_at_once(system, "second")
    active = active - set(deleted) | accepted
    assert (len(accepted), len(active)) == (4, MAXIMUM)
    await at_rest(system, active)

    failed = sorted(active)[:2]
    for sandbox_id in failed:
        await lose_pod(system, sandbox_id)
    accepted = await create_at_once(system, "third")
    assert len(accepted) == 2
    await asyncio.gather(*map(system.delete, failed))
    active = active - set(failed) | accepted
    await at_rest(system, active)
    assert await create_at_once(system, "fourth") == set()
    assert sum([await system.redis.zcard(keys.STATUS + status) for status in Status]) == MAXIMUM
