"""Workers, the API and Valkey die under load, or Valkey forgets everything: nothing is lost, doubled or untrue."""

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
from tests.system.chaos import killing_apis, killing_workers, restarting_valkey
from tests.system.conftest import System
from tests.system.load import Load
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio

SLOW_CLUSTER = (
    {"kind": "delay", "seconds": 0.4, "verb": "create", "share": 0.5},
    {"kind": "delay", "seconds": 0.4, "after": True},
)
"""So that at each moment several jobs are between two of their steps, with the call done or not."""
DURABLE = ("--appendfsync", "always")
"""By default Valkey answers before it writes when its disk is busy, and loses what it answered if it is killed then."""
THIRDS = 50
"""Of the load: 200 creates and 100 deletes."""
RATE = 20
"""Sandboxes that begin in a second."""
LIVE = 100
BACK_SECONDS = 30
"""From the moment that Redis was emptied until all live sandboxes are there again."""


async def comes_right(system: System, trouble: AbstractAsyncContextManager[object], thirds: int = THIRDS) -> None:
    """Under load while there is trouble, the system is whole when that has ended, and has told no lie."""
    async with Load(system) as load:
        async with trouble:
            await load.churn(thirds, RATE)
        await system.faults()
        await at_rest(system, load.wanted)
    assert load.lies == []


async def test_a_worker_dies_every_second_and_nothing_is_lost_or_doubled(start):
    """Whatever was between two steps is begun again by another worker, and finds what was made."""
    system = await start(workers=3)
    await system.faults(*SLOW_CLUSTER)
    await comes_right(system, killing_workers(system, every=1.0))


async def test_an_api_that_is_killed_leaves_no_record_without_its_job(start):
    """Killed with creates half answered, which nobody repeats. No worker runs, so that what is left can be seen."""
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
        for answered in itertools.islice(asyncio.as_completed(creates), choices.randrange(10)):
            await answered
        await system.stack.apis[0].kill()
        await asyncio.gather(*creates)
        await system.stack.restart_api(0)

    records = await Store(system.redis).all()
    jobs = {Job.of(JobKind.PROVISION, record).id for record in records}
    queued = {job.decode() for job in await system.redis.zrange(keys.QUEUE, 0, -1)}
    assert jobs == {job for job in queued if job.startswith(JobKind.PROVISION)}
    assert await system.redis.exists(*(keys.JOB + job for job in jobs)) == len(jobs)
    wanted = {record.id for record in records}
    assert wanted >= accepted
    await system.stack.start_worker()
    await at_rest(system, wanted)


async def test_an_api_that_is_killed_again_and_again_answers_in_the_end_and_makes_nothing_twice(start):
    """Clients that do not know what became of a request send it again, here or to the other process."""
    system = await start(workers=2, apis=2)
    await comes_right(system, killing_apis(system, every=0.5), thirds=25)


async def test_a_record_whose_job_was_lost_is_found_by_the_sweep(start):
    """Whatever lost it: such a record gets another job."""
    system = await start(workers=0)
    await system.create("jobless")
    (job,) = await system.redis.zrange(keys.QUEUE, 0, -1)
    await system.redis.delete(keys.QUEUE, keys.JOB + job.decode())
    await system.stack.start_worker()
    await at_rest(system, {"jobless"})


async def test_valkey_is_restarted_under_load_and_nothing_is_lost_or_doubled(start):
    """Killed and stopped in turn; no process exits for it."""
    system = await start(workers=2, valkey=DURABLE)
    await system.faults(*SLOW_CLUSTER)
    await comes_right(system, restarting_valkey(system, times=3))
    assert [process.exit_code for process in (*system.stack.workers, *system.stack.apis)] == [None] * 3


async def test_valkey_is_emptied_and_all_live_sandboxes_come_back_as_they_were(start):
    """From what is in the cluster. Until then it is not known what there is, which is not the same as nothing."""
    system = await start(workers=2)
    async with Load(system) as load:
        ids = [f"live-{number}" for number in range(LIVE)]
        await asyncio.gather(
            *(load.create(name, user_id=f"user-{number % 7}", thread_id=name[5:]) for number, name in enumerate(ids))
        )
        await at_rest(system, load.wanted)
        before = await _what_lasts(system)

        load.refusals.clear()
        await system.redis.flushall()
        # A client that hears of trouble may ask for its sandbox anew.
        await asyncio.gather(*(load.create(sandbox_id, user_id="another") for sandbox_id in ids[:10]))
        await at_rest(system, load.wanted, BACK_SECONDS)
        assert await _what_lasts(system) == before
    assert load.lies == []
    assert load.refusals.keys() <= {"not_synced"}


async def _what_lasts(system: System) -> list[dict[str, Any]]:
    """What a client knows its sandboxes by, oldest first."""
    names = ("sandbox_id", "sandbox_url", "generation", "user_id", "thread_id", "created_at")
    listed = (await system.api.get("/api/sandboxes")).json()["sandboxes"]
    return [{name: entry[name] for name in names} for entry in listed]
