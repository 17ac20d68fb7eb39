"""Timeouts of seconds, and limits, on real processes: what ends, ends once; what is used, stays; the count is right."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest

from shared.sandbox.record import ExpiryCause, Sandbox, Status
from shared.store import keys
from tests.system.chaos import killing_workers, repeated
from tests.system.conftest import System
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio

IDLE, LIFETIME = ExpiryCause.IDLE, ExpiryCause.LIFETIME
SWEEP_SECONDS = 10.0
LOOK_SECONDS = 0.02
USE_SECONDS = 0.5
CLIENTS = 64
MOST = 10

Ends = dict[str, set[tuple[int, float, str]]]
"""By id: life, when, and by which time."""


@asynccontextmanager
async def watched(system: System, ids: Collection[str]) -> AsyncIterator[Ends]:
    """Each end that a record tells of while the block runs. Looks in Redis, for to ask the API is a use."""
    ends: Ends = defaultdict(set)

    async def look() -> None:
        for raw in await system.redis.mget([f"sandbox:{sandbox_id}" for sandbox_id in ids]):
            record = msgspec.json.decode(raw, type=Sandbox) if raw else None
            if record and record.expired_at is not None:
                ends[record.id].add((record.generation, record.expired_at, record.expired_by))

    async with repeated(look, LOOK_SECONDS):
        yield ends


@asynccontextmanager
async def used(system: System, *paths: str, method: str = "GET", **content: object) -> AsyncIterator[list[int]]:
    """Each of these is asked for again and again while the block runs; what it was answered."""
    statuses: list[int] = []

    async def use() -> None:
        for path in paths:
            answer = await system.api.request(method, f"/api/sandboxes/{path}", **content)
            statuses.append(answer.status_code)

    async with repeated(use, USE_SECONDS):
        yield statuses


async def until_over(system: System, ids: Collection[str]) -> None:
    """Their records have gone."""

    async def left() -> list[str]:
        raws = await system.redis.mget([f"sandbox:{sandbox_id}" for sandbox_id in ids])
        return [sandbox_id for sandbox_id, raw in zip(ids, raws, strict=True) if raw]

    async def over() -> bool:
        return not await left()

    await system.until(over, f"{len(ids)} are over", left)


async def test_idle_ones_go_used_ones_stay_and_the_lifetime_wins(start):
    """Each within one sweep after its time, and whoever asks is told which that was."""
    system = await start(workers=2, SANDBOX_IDLE_TIMEOUT_SECONDS="3")
    idle, used_ones, kept = ([f"{name}-{n}" for n in range(4)] for name in ("idle", "used", "kept"))
    for sandbox_id in (*idle, *used_ones):
        await system.create(sandbox_id)
    for sandbox_id in kept:
        await system.create(sandbox_id, lifetime_seconds=6)
    created = {r.id: r.created_at for r in await records(system)}
    keeping = used(system, *(f"{sandbox_id}/keepalive" for sandbox_id in kept), method="POST", json={"seconds": 600})
    async with watched(system, [*idle, *kept]) as ends, used(system, *used_ones) as answers, keeping:
        await until_over(system, [*idle, *kept])
        await at_rest(system, used_ones)
    assert set(answers) == {200}
    for ids, seconds, by in ((idle, 3, IDLE), (kept, 6, LIFETIME)):
        for sandbox_id in ids:
            ((incarnation, at, why),) = ends[sandbox_id]
            assert (incarnation, why) == (1, by)
            assert 0 <= at - (created[sandbox_id] + seconds) < 2 * SWEEP_SECONDS
            problem = (await system.api.get(f"/api/sandboxes/{sandbox_id}")).json()
            assert (problem["code"], problem["expired_by"]) == ("sandbox_expired", by)


async def records(system: System) -> list[Sandbox]:
    names = [key async for key in system.redis.scan_iter("sandbox:*") if key.count(b":") == 1]
    return [msgspec.json.decode(raw, type=Sandbox) for raw in await system.redis.mget(names) if raw]


async def test_each_ends_once_while_workers_are_killed(start):
    """Whoever sweeps, and whoever removes, may die in the midst of it."""
    system = await start(workers=2, SANDBOX_IDLE_TIMEOUT_SECONDS="2")
    ids = [f"idle-{number}" for number in range(60)]
    await asyncio.gather(*(system.create(sandbox_id) for sandbox_id in (*ids, "used")))
    async with used(system, "used") as answers, watched(system, ids) as ends:
        async with killing_workers(system, every=1.5) as strikes:
            await until_over(system, ids)
        await at_rest(system, ["used"])
    assert strikes.count > 0
    assert {sandbox_id: [(incarnation, by) for incarnation, _, by in ends[sandbox_id]] for sandbox_id in ids} == {
        sandbox_id: [(1, IDLE)] for sandbox_id in ids
    }
    assert set(answers) == {200}


async def accepted(system: System, name: str) -> set[str]:
    """Of so many clients at once, each of which wants one more; all others are told that there is no room."""
    limits = httpx.Limits(max_connections=CLIENTS)
    async with httpx.AsyncClient(headers={"X-API-Key": system.stack.key}, timeout=30, limits=limits) as clients:

        async def create(number: int) -> httpx.Response:
            url = system.stack.urls[number % len(system.stack.urls)]
            return await clients.post(f"{url}/api/sandboxes", json={"sandbox_id": f"{name}-{number}"})

        answers = await asyncio.gather(*map(create, range(CLIENTS)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(answer.json()["limit"] == "MAX_SANDBOXES" for answer in refused)
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)
    ids = {answer.json()["sandbox_id"] for answer in answers if answer.status_code == 202}
    assert len(ids) + len(refused) == CLIENTS
    return ids


async def lose(system: System, sandbox_id: str) -> None:
    """Its Pod goes behind everyone's back; the sandbox then says so."""
    (pod,) = await system.pods(sandbox_id)
    body = {"resource": "pods", "namespace": system.namespace, "name": pod.metadata.name}
    async with system.emulator() as emulator:
        (await emulator.post("/emulator/lose", json=body)).raise_for_status()

    async def failed() -> bool:
        return (await system.read(sandbox_id)).get("status") == Status.FAILED

    await system.until(failed, f"{sandbox_id} says that it has lost its Pod", lambda: system.read(sandbox_id))


async def test_never_more_than_the_limit_and_the_count_is_right_again(start):
    """64 clients at once, again after deletes, after failures, and while workers are killed."""
    system = await start(workers=2, apis=2, MAX_SANDBOXES=str(MOST))
    live = await accepted(system, "first")
    assert len(live) == MOST
    await at_rest(system, live)

    async with killing_workers(system, every=1.0):
        gone = sorted(live)[:4]
        await asyncio.gather(*map(system.delete, gone))
        more = await accepted(system, "second")
    live = live - set(gone) | more
    assert (len(more), len(live)) == (4, MOST)
    await at_rest(system, live)

    lost = sorted(live)[:2]
    for sandbox_id in lost:
        await lose(system, sandbox_id)
    more = await accepted(system, "third")
    assert len(more) == 2
    await asyncio.gather(*map(system.delete, lost))
    live = live - set(lost) | more
    await at_rest(system, live)
    assert await accepted(system, "fourth") == set()
    assert sum([await system.redis.zcard(keys.STATUS + status) for status in Status]) == MOST
