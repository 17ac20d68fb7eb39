"""Sweeps of expired sandboxes: few or many of them, and the cost for Redis."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import Any

import msgspec
import pytest
from arq.connections import ArqRedis
from msgspec.structs import replace
from redis.asyncio import Redis
from structlog.testing import capture_logs

from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.record import STALLED_SECONDS, ExpiryCause, Reason, Sandbox, Status
from shared.sandbox.transitions import (
    ProvisionedObjects,
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
from shared.store.update import Precondition, Update
from tests.conftest import Clock
from tests.support.records import record_of, settings_of
from tests.worker.conftest import put, queued, read
from worker.jobs.cleanup_throttle import CLEANUPS_PER_SECOND, CleanupThrottle
from worker.jobs.functions import ARQ_TIMEOUT_SECONDS
from worker.jobs.sweep import BATCH_SIZE, PROBE_SECONDS, sweep

pytestmark = pytest.mark.anyio

ID = "abc"
SETTINGS = settings_of()
PROBING = settings_of(SANDBOX_ACTIVITY_PATH="/v1/activity")
IDLE, LIFETIME = ExpiryCause.IDLE, ExpiryCause.LIFETIME


def running(sandbox_id: str = ID, **fields: Any) -> Sandbox:
    record = record_of(sandbox_id, **fields)
    created = ProvisionedObjects(f"sandbox-{sandbox_id}", "u", "service", "http://node:30001")
    return replace(provisioned(record, created, now=record.created_at), status=Status.RUNNING, ready=True)


@pytest.fixture
async def throttle(store: Store, sync: ClusterSync, leading: Precondition) -> CleanupThrottle:
    """Return a throttle in a cluster that is synced: otherwise nothing expires."""
    await sync.mark_synced(leading)
    return CleanupThrottle(store.redis, store.now)


async def due_times(redis: ArqRedis) -> dict[str, float]:
    """Return when each job may begin, seconds since the epoch."""
    return {job.decode(): score / 1000 for job, score in await redis.zrange(keys.QUEUE, 0, -1, withscores=True)}


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (running(idle_timeout=100), IDLE),
        (running(lifetime=100), LIFETIME),
        (running(idle_timeout=1000, lifetime=100), LIFETIME),
        (running(idle_timeout=100, lifetime=1000), IDLE),
        (replace(running(idle_timeout=100), status=Status.UNKNOWN), IDLE),
        (touched(running(idle_timeout=1, lifetime=100), 2e9), LIFETIME),
    ],
)
async def test_sweep_at_expiry_ends_sandbox_with_its_cause_and_one_job(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, record: Sandbox, cause: ExpiryCause
):
    """A sweep a moment earlier does nothing. The job is due at once."""
    await put(store, record)
    clock.advance(99.9)
    assert await sweep(store, throttle, SETTINGS) == 0
    clock.advance(0.1)
    assert [await sweep(store, throttle, SETTINGS), await sweep(store, throttle, SETTINGS)] == [1, 0]
    after = await read(store, ID)
    assert (after.status, after.expired_by, after.expired_at) == (Status.TERMINATING, cause, clock.now)
    assert await due_times(valkey) == {f"terminate:abc:{record.incarnation}:2": pytest.approx(clock.now, abs=0.01)}
    words = {IDLE: "Idle timeout reached", LIFETIME: "Lifetime ended"}
    assert words[cause] in (await store.history(ID))[-1].message


async def test_sweep_ends_pending_sandbox_at_its_lifetime(store: Store, throttle: CleanupThrottle, clock: Clock):
    await put(store, record_of(ID, lifetime=5.0))
    clock.advance(5)
    assert await sweep(store, throttle, SETTINGS) == 1
    assert (await read(store, ID)).expired_by == LIFETIME


@pytest.mark.parametrize(
    "over",
    [failed(running(idle_timeout=1, lifetime=1), Reason.POD_LOST, "gone", deadline=2e9), running()],
    ids=["failed", "without limits"],
)
async def test_sweep_never_ends_failed_or_unlimited_sandbox(
    store: Store, throttle: CleanupThrottle, clock: Clock, over: Sandbox
):
    await put(store, over)
    clock.advance(10**6)
    assert await sweep(store, throttle, SETTINGS) == 0


async def test_sweep_of_deleted_sandbox_records_no_expiry(store: Store, throttle: CleanupThrottle, clock: Clock):
    """The caller who deleted the sandbox gets no "expired"."""
    await put(store, terminating(running(idle_timeout=1, lifetime=1)))
    clock.advance(STALLED_SECONDS)
    await sweep(store, throttle, SETTINGS)
    assert (await read(store, ID)).expired_at is None


class Touching(Store):
    """A store in which each due sandbox is used after the sweep has read it."""

    async def due(self, limit: int, skip: int = 0) -> list[Sandbox | None]:
        records = await super().due(limit, skip)
        for record in records:
            if record is not None:
                await self.update(record.id, lambda r: Update(touched(r, self.now()), silent=True))
        return records


async def test_sweep_keeps_sandbox_touched_after_the_read(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    await put(store, running(idle_timeout=100))
    clock.advance(100)
    assert await sweep(Touching(valkey, clock), throttle, SETTINGS) == 0
    assert (await read(store, ID)).status is Status.RUNNING
    assert await queued(valkey) == []
    clock.advance(99)
    assert await sweep(store, throttle, SETTINGS) == 0
    clock.advance(1)
    assert await sweep(store, throttle, SETTINGS) == 1


async def test_two_sweeps_and_touches_at_once_end_each_sandbox_with_one_job_or_keep_it(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    for number in range(40):
        await put(store, running(f"s{number}", idle_timeout=100))
    clock.advance(100)

    def touch(record: Sandbox) -> Update | None:
        return Update(touched(record, clock.now), silent=True) if record.is_active else None

    await asyncio.gather(
        sweep(store, throttle, SETTINGS),
        sweep(Store(valkey, clock), throttle, SETTINGS),
        *(store.update(f"s{number}", touch) for number in range(40)),
    )
    ended = [record for record in await store.all() if not record.is_active]
    assert sorted(await queued(valkey)) == sorted(f"terminate:{r.id}:{r.incarnation}:2" for r in ended)


@pytest.mark.parametrize("jump", [-5000.0, -60.0, 60.0, 5000.0])
async def test_sweep_after_clock_jump_is_off_by_that_jump_only(
    store: Store, throttle: CleanupThrottle, clock: Clock, jump: float
):
    await put(store, running(idle_timeout=1000, lifetime=9000))
    clock.advance(600)
    clock.advance(jump)
    clock.advance(max(0.0, 400 - jump) - 0.5)
    is_early = await sweep(store, throttle, SETTINGS) == 1
    assert is_early is (jump > 400)
    clock.advance(0.5)
    assert (await sweep(store, throttle, SETTINGS) == 1) is not is_early
    assert (await read(store, ID)).expired_by == IDLE


# Activity probes


async def test_sweep_probes_idle_sandbox_again_only_after_the_time_to_answer(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    await put(store, running(idle_timeout=100))
    clock.advance(100)
    assert [await sweep(store, throttle, PROBING), await sweep(store, throttle, PROBING)] == [1, 0]
    after = await read(store, ID)
    assert (after.status, after.expired_at) == (Status.RUNNING, None)
    assert await queued(valkey) == ["probe_activity:abc:1-0a1b2c3d:2"]
    clock.advance(PROBE_SECONDS)
    assert await sweep(store, throttle, PROBING) == 1
    assert await queued(valkey) == ["probe_activity:abc:1-0a1b2c3d:2", "probe_activity:abc:1-0a1b2c3d:3"]


async def test_sweep_of_probed_sandbox_that_was_never_ready_probes_once_and_fails_it(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, sync: ClusterSync, leading: Precondition
):
    await put(store, replace(running(idle_timeout=100, deadline=clock.now + 50), status=Status.PENDING, ready=False))
    clock.advance(100)
    assert [await sweep(store, throttle, PROBING), await sweep(store, throttle, PROBING)] == [1, 0]
    assert await queued(valkey) == ["probe_activity:abc:1-0a1b2c3d:2"]
    await sync.mark_synced(leading)
    assert await sweep(store, throttle, PROBING) == 1
    assert (await read(store, ID)).reason == Reason.PROVISIONING_TIMED_OUT
    assert sorted(await queued(valkey)) == ["probe_activity:abc:1-0a1b2c3d:2", "terminate:abc:1-0a1b2c3d:3"]


async def test_sweep_of_sandbox_with_old_probe_logs_a_stalled_job(
    store: Store, throttle: CleanupThrottle, clock: Clock
):
    without_its_service = without_service(probing(running(idle_timeout=1000), clock.now - 10))
    await put(store, without_its_service)
    clock.advance(STALLED_SECONDS)
    with capture_logs() as lines:
        assert await sweep(store, throttle, PROBING) == 1
    assert [line["event"] for line in lines] == ["sandbox stalled; job enqueued again"]


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        (running(idle_timeout=100), SETTINGS),
        (running(lifetime=100), PROBING),
        (record_of(ID, idle_timeout=100.0, url="http://of-the-dns"), PROBING),
    ],
    ids=["no path", "lifetime is over", "not provisioned"],
)
async def test_sweep_ends_sandbox_without_probe(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, record: Sandbox, settings: Settings
):
    await put(store, record)
    clock.advance(100)
    assert await sweep(store, throttle, settings) == 1
    assert await queued(valkey) == [f"terminate:abc:{record.incarnation}:2"]


def test_probe_time_is_longer_than_a_job():
    """A probe has ended before the next one is enqueued."""
    assert ARQ_TIMEOUT_SECONDS < PROBE_SECONDS


# Many at once

MANY = 10_000
LIVE = 100_000


async def put_all(redis: Redis, records: Iterable[Sandbox]) -> None:
    """Write many records with their indexes in few commands, without jobs and histories."""
    rest = iter(records)
    while chunk := list(islice(rest, 5000)):
        scores: dict[str, dict[str, float]] = defaultdict(dict)
        for record in chunk:
            for index, score in indexes.entries(record).items():
                scores[index][record.id] = score
        await redis.mset({f"sandbox:{record.id}": msgspec.json.encode(record) for record in chunk})
        for index, members in scores.items():
            await redis.zadd(index, members)


async def calls(redis: ArqRedis) -> dict[str, int]:
    """Return how often each command was called since the last reset."""
    stats = await redis.info("commandstats")
    counts = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return {name: count for name, count in counts.items() if not name.startswith(("config", "client", "hello"))}


async def count_commands_of_a_sweep(
    redis: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, *, due: int
) -> dict[str, int]:
    """Return the commands of one sweep, in which this many records are due."""
    await put_all(redis, (running(f"due-{number:05}", idle_timeout=100.0) for number in range(due)))
    clock.advance(100)
    await redis.config_resetstat()
    assert await sweep(store, throttle, SETTINGS) == due
    return await calls(redis)


async def test_sweep_of_ten_thousand_expired_sandboxes_writes_each_once_at_a_bounded_cost(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, sync: ClusterSync, leading: Precondition
):
    """Reads have a bounded size, so that none blocks Redis. The jobs are spread, and a create overtakes them."""
    of_one = await count_commands_of_a_sweep(valkey, store, throttle, clock, due=1)
    await valkey.flushdb()
    await valkey.set(*leading)
    await sync.mark_synced(leading)
    of_many = await count_commands_of_a_sweep(valkey, store, throttle, clock, due=MANY)
    batches, chunks = MANY / BATCH_SIZE, MANY / RECORD_CHUNK
    assert of_many["evalsha"] <= MANY + 2 * batches + 2, "an update a record, and a reservation a batch"
    assert batches <= of_many["zrangebyscore"] <= batches + 1
    assert chunks <= of_many["mget"] <= chunks + 1
    assert {name for name, count in of_many.items() if count > MANY * of_one.get(name, 0)} == set()
    await assert_spread_at_the_rate(valkey, store, clock)


async def assert_spread_at_the_rate(valkey: ArqRedis, store: Store, clock: Clock) -> None:
    times = sorted((await due_times(valkey)).values())
    assert len(times) == MANY
    assert times[0] >= clock.now - 0.01
    for second in range(0, int(MANY / CLEANUPS_PER_SECOND), 7):
        begin = clock.now + second
        assert sum(begin <= slot < begin + 1 for slot in times) <= CLEANUPS_PER_SECOND + 2
    assert times[-1] - times[0] == pytest.approx((MANY - 1) / CLEANUPS_PER_SECOND, abs=1)
    record = new_record("new", record_of().spec, cluster="default", now=clock.now)
    await store.create_or_update("new", lambda _: Update(record, (Job.of(JobKind.PROVISION, record),)))
    first, *_ = await queued(valkey)
    assert first.startswith("provision:new:")


async def test_sweep_waits_for_a_clean_up_that_has_a_later_slot(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    await put_all(valkey, (running(f"s{number:03}", idle_timeout=100.0) for number in range(1000)))
    clock.advance(100)
    assert await sweep(store, throttle, SETTINGS) == 1000
    slots = (await due_times(valkey)).values()
    clock.advance(STALLED_SECONDS + 5)
    late = [slot for slot in slots if slot < clock.now - STALLED_SECONDS]
    assert 0 < len(late) < 1000
    assert await sweep(store, throttle, SETTINGS) == pytest.approx(len(late), abs=1)


async def test_sweep_gives_lost_clean_ups_new_slots_once(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    await put_all(valkey, (running(f"s{number:03}", idle_timeout=100.0) for number in range(600)))
    clock.advance(100)
    assert await sweep(store, throttle, SETTINGS) == 600
    clock.advance(600 / CLEANUPS_PER_SECOND + STALLED_SECONDS)
    await valkey.delete(keys.QUEUE)
    assert [await sweep(store, throttle, SETTINGS), await sweep(store, throttle, SETTINGS)] == [600, 0]
    slots = await due_times(valkey)
    assert {job.rpartition(":")[2] for job in slots} == {"3"}
    assert sorted(slots.values()) == pytest.approx([clock.now + n / CLEANUPS_PER_SECOND for n in range(600)], abs=0.01)
    clock.advance(STALLED_SECONDS - 1)
    assert await sweep(store, throttle, SETTINGS) == 0


async def test_sweep_after_an_interrupted_one_does_the_rest(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
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


async def test_sweep_of_ten_due_records_costs_the_same_among_many(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, sync: ClusterSync, leading: Precondition
):
    await count_commands_of_a_sweep(valkey, store, throttle, clock, due=10)  # loads the scripts
    await valkey.flushdb()
    await valkey.set(*leading)
    await sync.mark_synced(leading)
    await put_all(valkey, (running(f"live-{number}", lifetime=10.0**6) for number in range(100)))
    among_few = await count_commands_of_a_sweep(valkey, store, throttle, clock, due=10)
    await valkey.flushdb()
    await valkey.set(*leading)
    await sync.mark_synced(leading)
    await put_all(valkey, (running(f"live-{number}", lifetime=10.0**6) for number in range(LIVE)))
    among_many = await count_commands_of_a_sweep(valkey, store, throttle, clock, due=10)
    assert among_many == among_few


async def test_sweep_finds_due_record_behind_many_unreadable_ones(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    await put_all(valkey, (running(f"a{number}", idle_timeout=10.0) for number in range(BATCH_SIZE + 5)))
    for number in range(BATCH_SIZE + 5):
        await valkey.set(f"sandbox:a{number}", b"{}")
    await put(store, running("z", idle_timeout=50.0))
    clock.advance(50)
    assert await sweep(store, throttle, SETTINGS) == 1
    assert (await read(store, "z")).expired_by == IDLE


async def test_sweep_enqueues_job_under_the_next_attempt(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock
):
    await put(store, next_attempt(next_attempt(running(idle_timeout=100))))
    clock.advance(100)
    await sweep(store, throttle, SETTINGS)
    assert await queued(valkey) == ["terminate:abc:1-0a1b2c3d:4"]


def test_create_overtakes_clean_ups_that_are_ten_minutes_late():
    now = 1_750_000_000.0
    late = Job(JobKind.TERMINATE, "old", "1-0a1b2c3d", at=now - 600)
    assert Job(JobKind.PROVISION, "new", "1-0a1b2c3d").score(now) < late.score(now)


async def test_sweep_on_a_server_that_is_not_synced_expires_nothing(
    valkey: ArqRedis, store: Store, throttle: CleanupThrottle, clock: Clock, sync: ClusterSync, leading: Precondition
):
    """After a restore the record may be older than the last use."""
    await put(store, running("abc", idle_timeout=10.0))
    clock.advance(60)
    await valkey.delete("synced:default")
    await sweep(store, throttle, SETTINGS)
    assert (await read(store, "abc")).is_active
    await sync.mark_synced(leading)
    await sweep(store, throttle, SETTINGS)
    assert not (await read(store, "abc")).is_active
