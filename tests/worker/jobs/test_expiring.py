"""What the sweep does with sandboxes whose time is over: few or many of them, and what that costs Redis."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace
from structlog.testing import capture_logs

from shared.queue.job import Job, JobKind
from shared.sandbox.record import STALLED_SECONDS, ExpiryCause, Reason, Sandbox, Status
from shared.sandbox.transitions import (
    ProvisionedObjects,
    expired,
    failed,
    new_record,
    next_attempt,
    probing,
    provisioned,
    terminating,
    touched,
    without_service,
)
from shared.settings import Settings
from shared.store import indexes, keys
from shared.store.reader import RECORD_CHUNK
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import Clock
from tests.support.records import record_of, settings_of
from tests.worker.conftest import put, queued, read
from worker.jobs import sweep as sweeping
from worker.jobs.activity_probe import TRIES, TRY_SECONDS
from worker.jobs.cleanup_throttle import CLEANUPS_PER_SECOND, CleanupThrottle
from worker.jobs.functions import ARQ_TIMEOUT_SECONDS
from worker.jobs.sweep import ASK_SECONDS, BATCH, sweep

pytestmark = pytest.mark.anyio

ID = "abc"
SETTINGS = settings_of()
ASKING = settings_of(SANDBOX_ACTIVITY_PATH="/v1/activity")
IDLE, LIFETIME = ExpiryCause.IDLE, ExpiryCause.LIFETIME


def running(sandbox_id: str = ID, **fields: Any) -> Sandbox:
    record = record_of(sandbox_id, **fields)
    made = ProvisionedObjects(f"sandbox-{sandbox_id}", "u", "service", "http://node:30001")
    return replace(provisioned(record, made, now=record.created_at), status=Status.RUNNING, ready=True)


@pytest.fixture
def throttle(store: Store) -> CleanupThrottle:
    return CleanupThrottle(store.redis, store.now)


async def scores(redis: ArqRedis) -> dict[str, float]:
    """When each job may begin, seconds since the epoch."""
    return {job.decode(): score / 1000 for job, score in await redis.zrange(keys.QUEUE, 0, -1, withscores=True)}


@pytest.mark.parametrize(
    ("record", "by"),
    [
        (running(idle_timeout=100), IDLE),
        (running(lifetime=100), LIFETIME),
        (running(idle_timeout=1000, lifetime=100), LIFETIME),
        (running(idle_timeout=100, lifetime=1000), IDLE),
        (replace(running(idle_timeout=100), status=Status.UNKNOWN), IDLE),
        (touched(running(idle_timeout=1, lifetime=100), 2e9), LIFETIME),
    ],
)
async def test_over_its_time(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, record: Sandbox, by: ExpiryCause
):
    """Not a moment before; then it is marked with when and why, and has one job, which is due at once."""
    await put(store, record)
    clock.advance(99.9)
    assert await sweep(store, throttle, SETTINGS) == 0
    clock.advance(0.1)
    assert [await sweep(store, throttle, SETTINGS), await sweep(store, throttle, SETTINGS)] == [1, 0]
    after = await read(store, ID)
    assert (after.status, after.expired_by, after.expired_at) == (Status.TERMINATING, by, clock.now)
    assert await scores(valkey) == {f"terminate:abc:{record.incarnation}:2": pytest.approx(clock.now, abs=0.01)}
    assert "time is over" in (await store.history(ID))[-1].message


async def test_one_that_is_still_pending(store: Store, throttle: CleanupThrottle, clock: Clock):
    """What was never made expires as well."""
    await put(store, record_of(ID, lifetime=5.0))
    clock.advance(5)
    assert await sweep(store, throttle, SETTINGS) == 1
    assert (await read(store, ID)).expired_by == LIFETIME


@pytest.mark.parametrize(
    "over",
    [failed(running(idle_timeout=1, lifetime=1), Reason.POD_LOST, "gone", deadline=2e9), running()],
    ids=["failed", "for ever"],
)
async def test_what_does_not_expire(store: Store, throttle: CleanupThrottle, clock: Clock, over: Sandbox):
    await put(store, over)
    clock.advance(10**6)
    assert await sweep(store, throttle, SETTINGS) == 0


async def test_being_deleted_when_its_time_is_over(store: Store, throttle: CleanupThrottle, clock: Clock):
    """Who deleted it is told nothing of a timeout."""
    await put(store, terminating(running(idle_timeout=1, lifetime=1)))
    clock.advance(STALLED_SECONDS)
    await sweep(store, throttle, SETTINGS)
    assert (await read(store, ID)).expired_at is None


class Touching(Store):
    """Somebody uses each sandbox after the sweep has read which are due, and before it marks them."""

    async def due(self, limit: int, skip: int = 0) -> list[Sandbox | None]:
        found = await super().due(limit, skip)
        for record in found:
            if record is not None:
                await self.create_or_update(
                    record.id, lambda r: Update(touched(r, self.now()), silent=True) if r else None
                )
        return found


async def test_touched_in_the_meantime(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """It survives: the step that marks it looks again."""
    await put(store, running(idle_timeout=100))
    clock.advance(100)
    assert await sweep(Touching(valkey, clock), throttle, SETTINGS) == 0
    assert (await read(store, ID)).status is Status.RUNNING
    assert await queued(valkey) == []
    clock.advance(99)
    assert await sweep(store, throttle, SETTINGS) == 0
    clock.advance(1)
    assert await sweep(store, throttle, SETTINGS) == 1


async def test_two_sweeps_and_a_touch_at_once(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """Whichever comes first: it stays, without a job, or it goes, with one."""
    for number in range(40):
        await put(store, running(f"s{number}", idle_timeout=100))
    clock.advance(100)

    def touch(record: Sandbox | None) -> Update | None:
        return Update(touched(record, clock.now), silent=True) if record and record.is_active else None

    await asyncio.gather(
        sweep(store, throttle, SETTINGS),
        sweep(Store(valkey, clock), throttle, SETTINGS),
        *(store.create_or_update(f"s{number}", touch) for number in range(40)),
    )
    ended = [record for record in await store.all() if not record.is_active]
    assert sorted(await queued(valkey)) == sorted(f"terminate:{r.id}:{r.incarnation}:2" for r in ended)


@pytest.mark.parametrize("jump", [-5000.0, -60.0, 60.0, 5000.0])
async def test_a_clock_that_jumps(store: Store, throttle: CleanupThrottle, clock: Clock, jump: float):
    """What has so many seconds left when it jumps is ended after those, less or more by the jump and no more."""
    await put(store, running(idle_timeout=1000, lifetime=9000))
    clock.advance(600)
    clock.advance(jump)
    clock.advance(max(0.0, 400 - jump) - 0.5)
    is_early = await sweep(store, throttle, SETTINGS) == 1
    assert is_early is (jump > 400)
    clock.advance(0.5)
    assert (await sweep(store, throttle, SETTINGS) == 1) is not is_early
    assert (await read(store, ID)).expired_by == IDLE


# Asking first


async def test_asked_first(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """An idle one gets a job that asks, and nobody else looks till there was time for that; then another one asks."""
    await put(store, running(idle_timeout=100))
    clock.advance(100)
    assert [await sweep(store, throttle, ASKING), await sweep(store, throttle, ASKING)] == [1, 0]
    after = await read(store, ID)
    assert (after.status, after.expired_at) == (Status.RUNNING, None)
    assert await queued(valkey) == ["probe_activity:abc:1-0a1b2c3d:2"]
    clock.advance(ASK_SECONDS)
    assert await sweep(store, throttle, ASKING) == 1
    assert await queued(valkey) == ["probe_activity:abc:1-0a1b2c3d:2", "probe_activity:abc:1-0a1b2c3d:3"]


async def test_never_ready_while_it_is_asked(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """One that is idle, and past its time to be ready, is asked once; it is given up when somebody has looked since."""
    await put(store, replace(running(idle_timeout=100, deadline=clock.now + 50), status=Status.PENDING, ready=False))
    clock.advance(100)
    assert [await sweep(store, throttle, ASKING), await sweep(store, throttle, ASKING)] == [1, 0]
    assert await queued(valkey) == ["probe_activity:abc:1-0a1b2c3d:2"]
    await valkey.set("synced:default", f"{clock.now} epoch")
    assert await sweep(store, throttle, ASKING) == 1
    assert (await read(store, ID)).reason == Reason.PROVISIONING_TIMED_OUT
    assert sorted(await queued(valkey)) == ["probe_activity:abc:1-0a1b2c3d:2", "terminate:abc:1-0a1b2c3d:3"]


async def test_asked_in_vain_before(store: Store, throttle: CleanupThrottle, clock: Clock):
    """What becomes of it later is logged as that: it was asked long ago, nobody answered, and it is in use."""
    lost_its_service = without_service(probing(running(idle_timeout=1000), clock.now - 10))
    await put(store, lost_its_service)
    clock.advance(STALLED_SECONDS)
    with capture_logs() as said:
        assert await sweep(store, throttle, ASKING) == 1
    assert [entry["event"] for entry in said] == ["due, another job"]


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        (running(idle_timeout=100), SETTINGS),
        (running(lifetime=100), ASKING),
        (record_of(ID, idle_timeout=100.0, url="http://of-the-dns"), ASKING),
    ],
    ids=["nothing is configured", "its lifetime is over", "there is nobody to ask yet"],
)
async def test_not_asked(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, record: Sandbox, settings: Settings
):
    await put(store, record)
    clock.advance(100)
    assert await sweep(store, throttle, settings) == 1
    assert await queued(valkey) == [f"terminate:abc:{record.incarnation}:2"]


def test_the_time_to_ask():
    """A job that asks has ended before another one is made."""
    assert TRIES * TRY_SECONDS < ARQ_TIMEOUT_SECONDS < ASK_SECONDS


# Many at once

MANY = 10_000
LIVE = 100_000


async def put_all(redis: ArqRedis, records: Iterable[Sandbox]) -> None:
    """Many, quickly: what their steps would have written, without the jobs and histories."""
    rest = iter(records)
    while some := list(islice(rest, 5000)):
        scores: dict[str, dict[str, float]] = defaultdict(dict)
        for record in some:
            for index, score in indexes.entries(record).items():
                scores[index][record.id] = score
        await redis.mset({f"sandbox:{record.id}": msgspec.json.encode(record) for record in some})
        for index, members in scores.items():
            await redis.zadd(index, members)


async def calls(redis: ArqRedis) -> dict[str, int]:
    """How often each command was called since the counts were set to zero."""
    stats = await redis.info("commandstats")
    ours = {name.removeprefix("cmdstat_"): of["calls"] for name, of in stats.items()}
    return {name: count for name, count in ours.items() if not name.startswith(("config", "client", "hello"))}


async def slow(redis: ArqRedis) -> dict[str, float]:
    """Commands that took Redis over 10 ms, by its own measure, in milliseconds. One call in a thousand may: for a
    machine that is busy may take Redis' turn away in the midst of any."""
    percentiles = {name: of["p99.9"] / 1000 for name, of in (await redis.info("latencystats")).items()}
    return {name: took for name, took in percentiles.items() if took > 10}


async def test_many_at_once(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """Ten thousand after an outage: each is marked once, in one sweep, at about the cost of a step; no command takes
    Redis 10 ms; their jobs are spread out, and a create does not wait behind them."""
    await put_all(valkey, (running(f"s{number:05}", idle_timeout=100.0) for number in range(MANY)))
    clock.advance(100)
    await valkey.config_resetstat()
    begun = time.perf_counter()
    assert await sweep(store, throttle, SETTINGS) == MANY
    took = time.perf_counter() - begun
    assert await slow(valkey) == {}
    called = await calls(valkey)
    steps = called["evalsha"]
    assert steps <= MANY + 2 * (MANY / BATCH) + 2, "a step a record, and a reservation a batch"
    assert called["zrangebyscore"] <= MANY / BATCH + 1
    assert called["mget"] <= MANY / RECORD_CHUNK + 1
    alone = await seconds_of_steps(store, MANY // 10)
    print(f"swept {MANY / took:.0f} records a second; such steps alone: {MANY / 10 / alone:.0f} a second")  # noqa: T201
    assert took / MANY < 3 * alone / (MANY / 10), "beside the step itself a record costs little"
    await drained_at_a_rate(valkey, store, clock)


async def seconds_of_steps(store: Store, count: int) -> float:
    """The same step for each of so many others, as many at a time, and nothing else."""
    await put_all(store.redis, (running(f"plain-{number}") for number in range(count)))
    numbers = iter(range(count))

    def ended(record: Sandbox | None) -> Update:
        assert record is not None
        over = next_attempt(expired(record, IDLE, store.now()))
        return Update(over, (Job.of(JobKind.TERMINATE, over, store.now() + MANY),))

    async def some() -> None:
        for number in numbers:
            await store.create_or_update(f"plain-{number}", ended)

    begun = time.perf_counter()
    await asyncio.gather(*(some() for _ in range(sweeping.AT_ONCE)))
    took = time.perf_counter() - begun
    await store.redis.zremrangebyscore(keys.QUEUE, (store.now() + MANY) * 1000, "+inf")
    return took


async def drained_at_a_rate(valkey: ArqRedis, store: Store, clock: Clock) -> None:
    times = sorted((await scores(valkey)).values())
    assert len(times) == MANY
    assert times[0] >= clock.now - 0.01
    for second in range(0, int(MANY / CLEANUPS_PER_SECOND), 7):
        begin = clock.now + second
        assert sum(begin <= at < begin + 1 for at in times) <= CLEANUPS_PER_SECOND + 2
    assert times[-1] - times[0] == pytest.approx((MANY - 1) / CLEANUPS_PER_SECOND, abs=1)
    record = new_record("new", record_of().spec, cluster="default", now=clock.now)
    await store.create_or_update("new", lambda _: Update(record, (Job.of(JobKind.PROVISION, record),)))
    first, *_ = await queued(valkey)
    assert first.startswith("provision:new:")


async def test_those_whose_job_is_planned_wait_for_it(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    """A clean-up that is to begin in minutes gets no other job before."""
    await put_all(valkey, (running(f"s{number:03}", idle_timeout=100.0) for number in range(1000)))
    clock.advance(100)
    assert await sweep(store, throttle, SETTINGS) == 1000
    planned = (await scores(valkey)).values()
    clock.advance(STALLED_SECONDS + 5)
    late = [at for at in planned if at < clock.now - STALLED_SECONDS]
    assert 0 < len(late) < 1000
    assert await sweep(store, throttle, SETTINGS) == pytest.approx(len(late), abs=1)


async def test_those_whose_job_was_lost_are_planned_anew(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    """Clean-ups that nobody got to: each has one more job, at the rate, and none a third before that is late too."""
    await put_all(valkey, (running(f"s{number:03}", idle_timeout=100.0) for number in range(600)))
    clock.advance(100)
    assert await sweep(store, throttle, SETTINGS) == 600
    clock.advance(600 / CLEANUPS_PER_SECOND + STALLED_SECONDS)
    await valkey.delete(keys.QUEUE)
    assert [await sweep(store, throttle, SETTINGS), await sweep(store, throttle, SETTINGS)] == [600, 0]
    planned = await scores(valkey)
    assert {job.rpartition(":")[2] for job in planned} == {"3"}
    assert sorted(planned.values()) == pytest.approx(
        [clock.now + n / CLEANUPS_PER_SECOND for n in range(600)], abs=0.01
    )
    clock.advance(STALLED_SECONDS - 1)
    assert await sweep(store, throttle, SETTINGS) == 0


async def test_a_sweep_that_broke_off(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """What the worker that died had not got to, the next sweep does; what it had is left alone."""
    await put_all(valkey, (running(f"s{number:04}", idle_timeout=100.0) for number in range(1200)))
    clock.advance(100)
    async with asyncio.timeout(60):
        sweeper = asyncio.create_task(sweep(store, throttle, SETTINGS))
        while not await valkey.zcard(keys.QUEUE):
            await asyncio.sleep(0)
        sweeper.cancel()
        await asyncio.wait([sweeper])
    await sweep(store, throttle, SETTINGS)
    jobs = await queued(valkey)
    assert len(jobs) == len({job.split(":")[1] for job in jobs}) == 1200


async def sweeping_ten(
    redis: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
) -> tuple[dict[str, int], float]:
    """What a sweep of ten that are due asks of Redis; and how much longer it took than an empty one."""
    await put_all(redis, (running(f"due-{number}", idle_timeout=100.0) for number in range(10)))
    clock.advance(100)
    await redis.config_resetstat()
    begun = time.perf_counter()
    assert await sweep(store, throttle, SETTINGS) == 10
    took = time.perf_counter() - begun
    assert await slow(redis) == {}
    return await calls(redis), took


async def test_the_cost_is_of_what_is_due(valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock):
    """With a hundred thousand that live, ten that are due cost Redis the same commands as with a hundred."""
    await put_all(valkey, (running(f"live-{number}", lifetime=10.0**6) for number in range(100)))
    few, quickly = await sweeping_ten(valkey, store, throttle, clock)
    await valkey.flushdb()
    await put_all(valkey, (running(f"live-{number}", lifetime=10.0**6) for number in range(LIVE)))
    many, slowly = await sweeping_ten(valkey, store, throttle, clock)
    print(f"a sweep of 10 beside 100: {quickly * 1000:.1f} ms; beside {LIVE}: {slowly * 1000:.1f} ms")  # noqa: T201
    assert many == few


async def test_one_that_cannot_be_read_is_in_nobodys_way(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    """However many of them stand before the others."""
    await put_all(valkey, (running(f"a{number}", idle_timeout=10.0) for number in range(BATCH + 5)))
    for number in range(BATCH + 5):
        await valkey.set(f"sandbox:a{number}", b"{}")
    await put(store, running("z", idle_timeout=50.0))
    clock.advance(50)
    assert await sweep(store, throttle, SETTINGS) == 1
    assert (await read(store, "z")).expired_by == IDLE


async def test_attempts_of_one_life_have_their_own_jobs(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    """A job of an earlier attempt is not in the way of the one that ends it."""
    await put(store, next_attempt(next_attempt(running(idle_timeout=100))))
    clock.advance(100)
    await sweep(store, throttle, SETTINGS)
    assert await queued(valkey) == ["terminate:abc:1-0a1b2c3d:4"]


def test_a_create_comes_before_clean_ups_that_are_late():
    """Workers were away for minutes, and thousands are over their time: whoever asks now does not wait for that."""
    now = 1_750_000_000.0
    late = Job(JobKind.TERMINATE, "old", "1-0a1b2c3d", at=now - 600)
    assert Job(JobKind.PROVISION, "new", "1-0a1b2c3d").score(now) < late.score(now)
