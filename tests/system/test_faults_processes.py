"""Workers, API processes and Valkey die under load, or Valkey is emptied. Each sandbox still exists exactly once."""

import asyncio
import itertools
import random
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any

import httpx
import pytest

from shared.queue.job import Job, JobKind
from shared.store import keys
from shared.store.store import Store
from tests.system.chaos import kill_apis, kill_workers, restart_valkey
from tests.system.conftest import Start, System
from tests.system.load import Load
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio

SLOW_CLUSTER = (
    {"kind": "delay", "seconds": 0.4, "verb": "create", "share": 0.5},
    {"kind": "delay", "seconds": 0.4, "after": True},
)
"""Delays before and after calls, so that at each moment several jobs are between two of their steps."""
THIRDS = 50
"""Size of the load: 200 creates and 100 deletes."""
RATE = 20
"""Sandboxes that start in a second."""
ACTIVE = 100
RECOVERY_SECONDS = 30
"""Time limit from the moment that Redis was emptied until all active sandboxes are back."""


async def check_under_load(system: System, chaos: AbstractAsyncContextManager[object], thirds: int = THIRDS) -> None:
    """Run load during the chaos, and check that all answers were true and that the system comes to rest."""
    async with Load(system) as load:
        async with chaos:
            await load.churn(thirds, RATE)
        await system.faults()
        await at_rest(system, load.expected)
    assert load.lies == []


async def test_sandboxes_while_workers_are_killed_are_neither_lost_nor_doubled(start: Start):
    """Another worker repeats a job from its start, and finds the objects that exist."""
    system = await start(workers=3)
    await system.faults(*SLOW_CLUSTER)
    await check_under_load(system, kill_workers(system, every=1.0))


async def test_api_killed_in_creates_leaves_no_record_without_a_job(start: Start):
    """No client repeats a request here. No worker runs, so that records and jobs can be compared."""
    system = await start(workers=1)
    await system.stack.workers[0].stop()
    choices = random.Random(1)
    accepted: set[str] = set()

    async def create_once(sandbox_id: str) -> None:
        with suppress(httpx.TransportError):
            await system.create(sandbox_id)
            accepted.add(sandbox_id)

    for burst in range(10):
        creates = [asyncio.create_task(create_once(f"burst-{burst}-{number}")) for number in range(10)]
        for create in itertools.islice(asyncio.as_completed(creates), choices.randrange(10)):
            await create
        await system.stack.apis[0].kill()
        await asyncio.gather(*creates)
        await system.stack.restart_api(0)

    records = await Store(system.redis).all()
    jobs = {Job.of(JobKind.PROVISION, record).id for record in records}
    queued = {job.decode() for job in await system.redis.zrange(keys.QUEUE, 0, -1)}
    assert jobs == {job for job in queued if job.startswith(JobKind.PROVISION)}
    assert await system.redis.exists(*(keys.JOB + job for job in jobs)) == len(jobs)
    recorded = {record.id for record in records}
    assert recorded >= accepted
    await system.stack.start_worker()
    await at_rest(system, recorded)


async def test_sandboxes_while_apis_are_killed_are_created_once(start: Start):
    """A client that gets no answer repeats its request at either API process."""
    system = await start(workers=2, apis=2)
    await check_under_load(system, kill_apis(system, every=0.5), thirds=25)


async def test_record_without_its_job_gets_another_one_from_the_sweep(start: Start):
    system = await start(workers=0)
    await system.create("jobless")
    (job,) = await system.redis.zrange(keys.QUEUE, 0, -1)
    await system.redis.delete(keys.QUEUE, keys.JOB + job.decode())
    await system.stack.start_worker()
    await at_rest(system, {"jobless"})


async def test_sandboxes_while_valkey_restarts_are_neither_lost_nor_doubled(start: Start):
    """Valkey is killed and stopped in turn. No other process exits."""
    system = await start(workers=2)
    await system.faults(*SLOW_CLUSTER)
    await check_under_load(system, restart_valkey(system, times=3))
    assert [process.exit_code for process in (*system.stack.workers, *system.stack.apis)] == [None] * 3


async def test_sandboxes_after_valkey_was_emptied_come_back_unchanged(start: Start):
    """The leader rebuilds the records from the cluster. Until then a missing record does not mean "no such sandbox"."""
    system = await start(workers=2)
    async with Load(system) as load:
        ids = [f"live-{number}" for number in range(ACTIVE)]
        await asyncio.gather(
            *(load.create(name, user_id=f"user-{number % 7}", thread_id=name[5:]) for number, name in enumerate(ids))
        )
        await at_rest(system, load.expected)
        before = await _lasting_fields(system)

        load.refusals.clear()
        await system.redis.flushall()
        # A client can request its sandbox again before the adoption.
        await asyncio.gather(*(load.create(sandbox_id, user_id="another") for sandbox_id in ids[:10]))
        await at_rest(system, load.expected, RECOVERY_SECONDS)
        assert await _lasting_fields(system) == before
    assert load.lies == []
    assert load.refusals.keys() <= {"not_synced"}


async def _lasting_fields(system: System) -> list[dict[str, Any]]:
    """Return the fields by which a client knows its sandboxes, oldest sandbox first."""
    names = ("sandbox_id", "sandbox_url", "generation", "user_id", "thread_id", "created_at")
    sandboxes = (await system.api.get("/api/sandboxes")).json()["sandboxes"]
    return [{name: sandbox[name] for name in names} for sandbox in sandboxes]
