"""A Kubernetes API that fails, stalls and goes away, watches that break, an observer that is frozen: clients are told
nothing that is not true, and all comes right."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import httpx
import pytest

from deploy.local.processes import Process
from shared.queue.job import JobKind
from shared.store import keys
from tests.system.chaos import repeated
from tests.system.conftest import System
from tests.system.load import Load
from tests.system.rest import at_rest
from worker.leader.leader import lease_name

pytestmark = pytest.mark.anyio

TROUBLE = (
    {"kind": "error", "status": 500, "share": 0.3},
    {"kind": "error", "status": 429, "retry_after": 1, "share": 0.1 / 0.7},
    {"kind": "reset", "share": 0.05 / 0.6},
    {"kind": "delay", "seconds": 2.0, "share": 0.1},
    {"kind": "error", "status": 500, "after": True, "share": 0.1},
    {"kind": "reset", "after": True, "share": 0.05},
)
"""Of all calls 30 % fail, 10 % are told to come again, 5 % are cut off: a share is one of what the rules before leave.
The last two fail when the work is done."""
SLOW = {"kind": "delay", "seconds": 0.5, "after": True, "verb": "create"}
"""So that at each moment some jobs are in the middle of a call."""
CLOSED = ({"kind": "watch-close", "seconds": 1.0},)
EXPIRED = ({"kind": "watch-close", "seconds": 0}, {"kind": "watch-expired"})
"""Those that are open end; and each that is begun is told 410."""
AWAY_SECONDS = float(os.environ.get("TEST_AWAY_SECONDS", "8"))
"""How long Kubernetes is away, about."""
LEASE = lease_name("default")
LOOK_SECONDS = 0.02


async def test_a_cluster_that_fails_every_other_call_delays_sandboxes_and_nothing_else(start):
    """Creates and deletes under load: none is lost, doubled or Failed, and what is called ready answers at its URL."""
    system = await start(workers=2)
    async with Load(system) as load, visited(system, load):
        await system.faults(*TROUBLE)
        await load.churn(20, rate=10)
        assert all(await struck(system))
        await system.faults()
        await at_rest(system, load.wanted)
    assert load.lies == []


async def test_while_the_cluster_is_away_all_is_accepted_and_what_was_known_stays_said(start):
    """What is new waits as Pending and says for what. Nothing is Failed, not found or otherwise changed for it."""
    system = await start(workers=2)
    before = [f"before-{number}" for number in range(5)]
    async with Load(system) as load, visited(system, load):
        await asyncio.gather(*map(load.create, before))
        await asyncio.gather(*map(system.until_ready, before))
        await at_rest(system, before)
        known = await answers(system, before)
        await system.faults({"kind": "unavailable"})
        await load.churn(8, rate=24 / AWAY_SECONDS)
        await system.until(lambda: all_wait(system, load.wanted - set(before)), "what is new waits for the cluster")
        assert await answers(system, before) == known
        await system.faults()
        await at_rest(system, load.wanted)
    assert load.lies == []


@pytest.mark.parametrize("rules", [CLOSED, EXPIRED], ids=["closed every second", "410 every time"])
async def test_nothing_depends_on_a_watch_that_holds(start, rules):
    """It is taken up again, or begun anew with a list; a Pod that goes meanwhile is missed."""
    system = await start(workers=2)
    await system.faults(*rules)
    async with Load(system) as load:
        await load.churn(15, rate=10)
        await at_rest(system, load.wanted)
    assert load.lies == []
    await lose_pod(system, "load-0")
    await system.until(lambda: is_lost(system, "load-0"), "the Pod is missed", lambda: system.read("load-0"))
    await system.create("load-0")
    await at_rest(system, load.wanted)
    assert (await struck(system))[-1] > 1


async def test_a_watch_that_falls_silent_is_begun_anew(start):
    """Its connection stays, and nothing comes: what is made and deleted in that time is seen all the same."""
    system = await start(workers=2)
    before = [f"before-{number}" for number in range(4)]
    async with Load(system) as load:
        await asyncio.gather(*map(load.create, before))
        await asyncio.gather(*map(system.until_ready, before))
        await system.faults({"kind": "watch-stall"})
        await asyncio.gather(*(load.create(f"during-{number}") for number in range(4)))
        await asyncio.gather(*map(load.delete, before[:2]))
        await at_rest(system, load.wanted)
    assert load.lies == []


async def test_an_observer_that_was_frozen_is_replaced_and_writes_nothing_more(start, capsys):
    """Another one sees what happens meanwhile. The frozen one then finds old news waiting, and records none of it."""
    system = await start(workers=1)
    await system.until(lambda: system.redis.get(LEASE), "the first worker observes")
    (first,) = system.stack.workers
    await system.stack.start_worker()
    async with Load(system, may_fail=True) as load:
        await asyncio.gather(*map(load.create, ("kept", "lost", "deleted", "again")))
        await asyncio.gather(*map(system.until_ready, load.wanted))
        with frozen(first):
            await lose_pod(system, "lost")
            await asyncio.gather(*map(load.delete, ("deleted", "again")))
            await asyncio.gather(*map(load.create, ("again", "new")))
            await asyncio.gather(*map(system.until_ready, ("again", "new")))
            await system.until(lambda: is_lost(system, "lost"), "the Pod is missed", lambda: system.read("lost"))
            await load.create("lost")
            await at_rest(system, load.wanted)
            known = await kept(system)
        await system.until(lambda: has_said(capsys, first, "observing ended"), "the first worker observes no more")
        assert await kept(system) == known
    assert load.lies == []


async def test_a_worker_frozen_in_the_middle_of_its_jobs_does_no_harm_when_it_goes_on(start):
    """It goes on with sandboxes that another one has made, deleted or begun again since."""
    system = await start(workers=1)
    await system.faults(SLOW)
    (first,) = system.stack.workers
    async with Load(system) as load, asyncio.TaskGroup() as group:
        churning = group.create_task(load.churn(20, rate=20))
        await system.until(lambda: is_busy(system), "jobs are in the middle")
        with frozen(first):
            await system.stack.start_worker()
            await churning
            await at_rest(system, load.wanted)
        await system.until(lambda: is_idle(system), "its jobs are over")
        await at_rest(system, load.wanted)
    assert load.lies == []


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """It neither runs nor ends, and its connections stay; then it goes on as if nothing had been."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@asynccontextmanager
async def visited(system: System, load: Load) -> AsyncIterator[None]:
    """Whatever is said to be ready is called at its URL meanwhile, in turn: if nobody answers, that was a lie."""

    async with httpx.AsyncClient(timeout=10) as outside:

        async def go_round() -> None:
            for sandbox_id in load.wanted:
                await _visit(system, load, outside, sandbox_id)
                await asyncio.sleep(LOOK_SECONDS)

        async with repeated(go_round, LOOK_SECONDS):
            yield


async def _visit(system: System, load: Load, outside: httpx.AsyncClient, sandbox_id: str) -> None:
    told = await system.read(sandbox_id)
    if not told.get("ready") or not told["sandbox_url"]:
        return
    try:
        response = await outside.get(f"{told['sandbox_url']}/v1/sandbox")
        if response.is_success:
            return
        seen = f"{response.status_code} {response.text}"
    except httpx.HTTPError as error:
        seen = repr(error)
    now = await system.read(sandbox_id)
    if sandbox_id in load.wanted and now.get("created_at") == told["created_at"]:  # the same life, no delete begun
        load.lies.append(f"{sandbox_id}: ready at {told['sandbox_url']}, where: {seen}")


async def answers(system: System, ids: list[str]) -> list[dict[str, Any]]:
    return await asyncio.gather(*map(system.read, ids))


async def all_wait(system: System, ids: set[str]) -> bool:
    return {(a["status"], a["reason"]) for a in await answers(system, sorted(ids))} == {
        ("Pending", "ClusterUnavailable")
    }


async def lose_pod(system: System, sandbox_id: str) -> None:
    """At once, as after `kubectl delete pod --grace-period 0`."""
    (pod,) = await system.pods(sandbox_id)
    await system.core.delete_namespaced_pod(pod.metadata.name, system.namespace, grace_period_seconds=0)


async def is_lost(system: System, sandbox_id: str) -> bool:
    answer = await system.read(sandbox_id)
    return (answer["status"], answer["reason"]) == ("Failed", "PodLost")


async def is_busy(system: System) -> bool:
    return len(await system.redis.keys(f"{keys.IN_PROGRESS}{JobKind.PROVISION}:*")) >= 5


async def is_idle(system: System) -> bool:
    """No job is begun and not ended. (A sweep may be.)"""
    return not any([await system.redis.keys(f"{keys.IN_PROGRESS}{work}:*") for work in JobKind])


async def kept(system: System) -> dict[bytes, Any]:
    """Every record and every history, as they are in Redis."""
    return {name: await _value(system, name) for name in await system.redis.keys("sandbox:*")}


async def _value(system: System, name: bytes) -> Any:
    if name.endswith(b":history"):
        return await cast(Awaitable[Any], system.redis.lrange(name.decode(), 0, -1))
    return await system.redis.get(name)


async def has_said(capsys: pytest.CaptureFixture[str], process: Process, words: str) -> bool:
    """In its log; which stays there, to be shown should the test fail."""
    said = capsys.readouterr().out
    print(said, end="")  # noqa: T201
    return any(words in line for line in said.splitlines() if line.strip().startswith(f"{process.name} |"))


async def struck(system: System) -> list[int]:
    """How often each rule of misbehaviour has struck."""
    async with system.emulator() as emulator:
        return [rule["struck"] for rule in (await emulator.get("/emulator/faults")).json()]
