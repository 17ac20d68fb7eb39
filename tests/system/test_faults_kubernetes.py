"""A Kubernetes API that fails, stalls or is unavailable, watches that break, and a leader that is frozen.

No client gets a false answer, and in the end each sandbox is as requested.
"""

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
from tests.system.chaos import repeat
from tests.system.conftest import Start, System
from tests.system.load import Load
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio

FAILING = (
    {"kind": "error", "status": 500, "share": 0.3},
    {"kind": "error", "status": 429, "retry_after": 1, "share": 0.1 / 0.7},
    {"kind": "reset", "share": 0.05 / 0.6},
    {"kind": "delay", "seconds": 2.0, "share": 0.1},
    {"kind": "error", "status": 500, "after": True, "share": 0.1},
    {"kind": "reset", "after": True, "share": 0.05},
)
"""Faults of most calls: 30% fail, 10% get a 429, 5% are cut off, and some are slow or fail after they had their effect.
Each share is a share of the calls that the earlier rules leave."""
SLOW = {"kind": "delay", "seconds": 0.5, "after": True, "verb": "create"}
"""A delay of creates, so that at each moment some jobs are in the middle of a call."""
CLOSED = ({"kind": "watch-close", "seconds": 1.0},)
EXPIRED = ({"kind": "watch-close", "seconds": 0}, {"kind": "watch-expired"})
"""Open watches end, and each new watch gets a 410."""
OUTAGE_SECONDS = float(os.environ.get("TEST_OUTAGE_SECONDS", "4"))
"""Time for which Kubernetes is unavailable. Longer than the first retries of a job, which back off to two seconds."""
PAUSE_SECONDS = 0.02


async def test_sandboxes_on_a_cluster_that_fails_half_of_its_calls_are_only_delayed(start: Start):
    """No sandbox is lost, doubled or Failed, and each sandbox that is reported as ready answers at its URL."""
    system = await start(workers=2)
    async with Load(system) as load, visit_urls(system, load):
        await system.faults(*FAILING)
        await load.churn(20, rate=10)
        assert all(await strikes(system))
        await system.faults()
        await at_rest(system, load.expected)
    assert load.lies == []


async def test_api_without_kubernetes_accepts_creates_and_keeps_its_answers(start: Start):
    """New sandboxes are Pending with a reason. No other sandbox changes."""
    system = await start(workers=2)
    old = [f"old-{number}" for number in range(5)]
    async with Load(system) as load, visit_urls(system, load):
        await asyncio.gather(*map(load.create, old))
        await asyncio.gather(*map(system.until_ready, old))
        await at_rest(system, old)
        before = await read_all(system, old)
        await system.faults({"kind": "unavailable"})
        await load.churn(8, rate=24 / OUTAGE_SECONDS)
        await system.until(lambda: all_wait(system, load.expected - set(old)), "new sandboxes wait for the cluster")
        assert await read_all(system, old) == before
        await system.faults()
        await at_rest(system, load.expected)
    assert load.lies == []


@pytest.mark.parametrize("rules", [CLOSED, EXPIRED], ids=["closed every second", "410 every time"])
async def test_leader_whose_watches_break_misses_no_change(start: Start, rules: tuple[dict[str, object], ...]):
    """A watch that was closed is resumed, or follows a new list. A Pod that was deleted meanwhile is reported."""
    system = await start(workers=2)
    await system.faults(*rules)
    async with Load(system) as load:
        await load.churn(15, rate=10)
        await at_rest(system, load.expected)
    assert load.lies == []
    await delete_pod(system, "load-0")
    await system.until(lambda: is_pod_lost(system, "load-0"), "load-0 reports PodLost", lambda: system.read("load-0"))
    await system.create("load-0")
    await at_rest(system, load.expected)
    assert (await strikes(system))[-1] > 1


async def test_leader_whose_watches_fall_silent_misses_no_change(start: Start):
    """The connections stay open without any event. The leader restarts such watches."""
    system = await start(workers=2)
    old = [f"old-{number}" for number in range(4)]
    async with Load(system) as load:
        await asyncio.gather(*map(load.create, old))
        await asyncio.gather(*map(system.until_ready, old))
        await system.faults({"kind": "watch-stall"})
        await asyncio.gather(*(load.create(f"during-{number}") for number in range(4)))
        await asyncio.gather(*map(load.delete, old[:2]))
        await at_rest(system, load.expected)
    assert load.lies == []


async def test_leader_that_was_frozen_and_replaced_writes_nothing(start: Start, capsys: pytest.CaptureFixture[str]):
    """Another worker leads meanwhile. When the old leader runs again, old events wait for it."""
    system = await start(workers=1)
    await system.until(lambda: system.redis.get(keys.leader("default")), "the first worker leads")
    (first,) = system.stack.workers
    await system.stack.start_worker()
    async with Load(system, may_fail=True) as load:
        await asyncio.gather(*map(load.create, ("unchanged", "lost", "deleted", "again")))
        await asyncio.gather(*map(system.until_ready, load.expected))
        with freeze(first):
            await delete_pod(system, "lost")
            await asyncio.gather(*map(load.delete, ("deleted", "again")))
            await asyncio.gather(*map(load.create, ("again", "new")))
            await asyncio.gather(*map(system.until_ready, ("again", "new")))
            await system.until(lambda: is_pod_lost(system, "lost"), "lost reports PodLost", lambda: system.read("lost"))
            await load.create("lost")
            await at_rest(system, load.expected)
            before = await records_and_histories(system)
        await system.until(lambda: has_logged(capsys, first, "term ended"), "the first worker leads no more")
        assert await records_and_histories(system) == before
    assert load.lies == []


async def test_worker_that_was_frozen_in_its_jobs_does_no_harm_when_it_continues(start: Start):
    """Another worker has created, deleted or replaced the sandboxes of those jobs meanwhile."""
    system = await start(workers=1)
    await system.faults(SLOW)
    (first,) = system.stack.workers
    async with Load(system) as load, asyncio.TaskGroup() as group:
        churning = group.create_task(load.churn(20, rate=20))
        await system.until(lambda: is_busy(system), "jobs are in the middle")
        with freeze(first):
            await system.stack.start_worker()
            await churning
            await at_rest(system, load.expected)
        await system.until(lambda: is_idle(system), "the jobs are over")
        await at_rest(system, load.expected)
    assert load.lies == []


@contextmanager
def freeze(process: Process) -> Iterator[None]:
    """Stop the process without ending it. Its connections stay open."""
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


@asynccontextmanager
async def visit_urls(system: System, load: Load) -> AsyncIterator[None]:
    """Request the URLs of ready sandboxes in turn while the block runs. A URL without an answer is a lie."""
    async with httpx.AsyncClient(timeout=10) as outside:

        async def visit_all() -> None:
            for sandbox_id in load.expected:
                await _visit(system, load, outside, sandbox_id)
                await asyncio.sleep(PAUSE_SECONDS)

        async with repeat(visit_all, PAUSE_SECONDS):
            yield


async def _visit(system: System, load: Load, outside: httpx.AsyncClient, sandbox_id: str) -> None:
    before = await system.read(sandbox_id)
    if not before.get("ready") or not before["sandbox_url"]:
        return
    try:
        response = await outside.get(f"{before['sandbox_url']}/v1/sandbox")
        if response.is_success:
            return
        result = f"{response.status_code} {response.text}"
    except httpx.HTTPError as error:
        result = repr(error)
    after = await system.read(sandbox_id)
    is_same_incarnation = after.get("created_at") == before["created_at"]
    if sandbox_id in load.expected and is_same_incarnation:
        load.lies.append(f"{sandbox_id}: ready at {before['sandbox_url']}, which answers: {result}")


async def read_all(system: System, ids: list[str]) -> list[dict[str, Any]]:
    return await asyncio.gather(*map(system.read, ids))


async def all_wait(system: System, ids: set[str]) -> bool:
    sandboxes = await read_all(system, sorted(ids))
    return {(sandbox["status"], sandbox["reason"]) for sandbox in sandboxes} == {("Pending", "ClusterUnavailable")}


async def delete_pod(system: System, sandbox_id: str) -> None:
    """Delete the Pod at once, as `kubectl delete pod --grace-period 0` does."""
    (pod,) = await system.pods(sandbox_id)
    await system.core.delete_namespaced_pod(pod.metadata.name, system.namespace, grace_period_seconds=0)


async def is_pod_lost(system: System, sandbox_id: str) -> bool:
    sandbox = await system.read(sandbox_id)
    return (sandbox["status"], sandbox["reason"]) == ("Failed", "PodLost")


async def is_busy(system: System) -> bool:
    return len(await system.redis.keys(f"{keys.IN_PROGRESS}{JobKind.PROVISION}:*")) >= 5


async def is_idle(system: System) -> bool:
    """Return True if no worker runs a job. Sweeps do not count."""
    return not any([await system.redis.keys(f"{keys.IN_PROGRESS}{kind}:*") for kind in JobKind])


async def records_and_histories(system: System) -> dict[bytes, Any]:
    """Return all records and histories as Redis holds them."""
    return {name: await _value(system, name) for name in await system.redis.keys(keys.record("*"))}


async def _value(system: System, name: bytes) -> Any:
    if name.endswith(b":history"):
        return await cast(Awaitable[Any], system.redis.lrange(name.decode(), 0, -1))
    return await system.redis.get(name)


async def has_logged(capsys: pytest.CaptureFixture[str], process: Process, event: str) -> bool:
    """Return True if the process has logged the event. The output is printed again, for a failure of the test."""
    output = capsys.readouterr().out
    print(output, end="")  # noqa: T201 - see the docstring
    return any(event in line for line in output.splitlines() if line.strip().startswith(f"{process.name} |"))


async def strikes(system: System) -> list[int]:
    """Return for each fault rule how often it applied."""
    async with system.emulator() as emulator:
        return [rule["struck"] for rule in (await emulator.get("/emulator/faults")).json()]
