"""The queue worker runs each job once, soon, and in time, whatever happens to Redis or to a worker."""

import asyncio
import math
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, cast

import pytest
from arq import Retry
from arq.connections import ArqRedis
from arq.cron import CronJob
from arq.typing import WorkerCoroutine
from arq.worker import Worker, func

from shared.liveness.workers import ALIVE_SECONDS
from shared.queue import job as queue
from shared.queue.job import Job, JobKind
from shared.redis.connection import RETRY_FOREVER, connect
from shared.store import keys
from tests.conftest import Clock, StartValkey
from tests.support.eventually import SECONDS, eventually, eventually_true, within
from tests.support.lossy_line import LossyLine
from tests.support.records import settings_of
from worker.jobs.interval_job import every
from worker.jobs.queue_worker import QueueWorker, check_arq

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),  # arq's, of `aclose`
]

NEVER = 3600.0
"""A poll delay that leaves only messages and due times to wake the worker."""
HOUR = 3600.0


def job(number: int = 0) -> Job:
    return Job(JobKind.PROVISION, f"s{number}", "1-0a1b2c3d")


JOBS = [job(number) for number in range(20)]


class Runs:
    """The runs of jobs in one test: which started and finished, how many at once, and how they end.

    `outcomes` maps a sandbox id to a function of the try, which may raise. Runs wait for `may_finish`.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finished: list[str] = []
        self.running = 0
        self.max_running = 0
        self.may_finish = asyncio.Event()
        self.may_finish.set()
        self.outcomes: dict[str, Callable[[int], None]] = {}

    async def provision(self, context: dict[str, Any], sandbox_id: str, _incarnation: str, _attempt: int) -> None:
        self.started.append(sandbox_id)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await self.may_finish.wait()
            self.outcomes.get(sandbox_id, lambda _: None)(context["job_try"])
            self.finished.append(sandbox_id)
        finally:
            self.running -= 1

    async def until_started(self, *jobs: Job) -> None:
        await self._until(self.started, jobs)

    async def until_finished(self, *jobs: Job) -> None:
        await self._until(self.finished, jobs)

    async def _until(self, runs: list[str], jobs: Iterable[Job]) -> None:
        ids = {each.sandbox_id for each in jobs}
        await eventually_true(lambda: ids <= set(runs), f"runs of {sorted(ids)}")


@pytest.fixture
def runs() -> Runs:
    return Runs()


StartWorker = Callable[..., AbstractAsyncContextManager[QueueWorker]]


@pytest.fixture
def start_worker(runs: Runs, valkey_url: str) -> StartWorker:
    """Run a registered worker inside the context. Each test thereby checks that the worker does not end by itself."""

    @asynccontextmanager
    async def start(name: str = "host:1:a", *, url: str = valkey_url, **options: Any) -> AsyncIterator[QueueWorker]:
        worker = make_queue_worker(runs, url, name, **options)
        await register(worker.pool, name)
        task = asyncio.create_task(worker.async_run())
        try:
            yield worker
            assert not task.done(), task
        finally:
            worker.allow_pick_jobs = False
            task.cancel()
            await asyncio.wait([task])
            await worker.close()

    return start


def make_queue_worker(runs: Runs, url: str, name: str = "host:1:a", **options: Any) -> QueueWorker:
    return QueueWorker(name, **options_of(runs, url), **options)


def options_of(runs: Runs, url: str) -> dict[str, Any]:
    return {
        "functions": [func(cast(WorkerCoroutine, runs.provision), name=JobKind.PROVISION)],
        "redis_pool": connect(settings_of(REDIS_URL=url), RETRY_FOREVER),
        "job_serializer": queue.encode,
        "job_deserializer": queue.decode,
        "handle_signals": False,
        "keep_result": 0,
        "job_completion_wait": SECONDS,
    }


async def register(redis: ArqRedis, worker: str, *, age: float = -HOUR) -> None:
    """Write a heartbeat. The default lies in the future: however slow the machine is, the worker counts as alive."""
    await redis.zadd(keys.WORKERS, {worker: time.time() - age})


async def mark(redis: ArqRedis, each: Job, worker: str) -> None:
    await redis.set(keys.IN_PROGRESS + each.id, worker, ex=60)


async def enqueue(redis: ArqRedis, *jobs: Job, due: float | None = None, silently: bool = False) -> None:
    """Write jobs as the store does. `silently` sends no message."""
    due_ms = int((time.time() if due is None else due) * 1000)
    async with redis.pipeline() as step:
        for each in jobs:
            step.set(keys.JOB + each.id, each.payload(time.time()))
            step.zadd(keys.QUEUE, {each.id: due_ms})
        if not silently:
            step.publish(keys.WAKEUP_CHANNEL, "")
        await step.execute()


async def redis_now(redis: ArqRedis) -> float:
    seconds, microseconds = await redis.time()
    return float(seconds + microseconds / 1_000_000)


async def until_empty(redis: ArqRedis) -> None:
    async def is_empty() -> bool:
        return not await redis.exists(keys.QUEUE) and not await redis.keys("arq:job:*") + await redis.keys("arq:in-*")

    await eventually(is_empty, "no key of any job is left")


async def until_listening(redis: ArqRedis, count: int = 1) -> None:
    async def is_listening() -> bool:
        ((_, subscribed),) = await redis.pubsub_numsub(keys.WAKEUP_CHANNEL)
        return bool(subscribed == count)

    await eventually(is_listening, f"{count} workers subscribe to the channel")


def ids(*jobs: Job) -> list[str]:
    return [each.sandbox_id for each in jobs]


# The same results as arq's own worker


def fail(_: int) -> None:
    raise ValueError("a bug")


def retry_once(job_try: int) -> None:
    if job_try == 1:
        raise Retry(0.01)


def retry_three_times(job_try: int) -> None:
    if job_try < 4:
        raise Retry


@pytest.mark.parametrize("options", [{}, {"max_jobs": 1}], ids=str)
async def test_queue_worker_has_the_same_results_as_arqs_worker(
    valkey: ArqRedis, valkey_url: str, options: dict[str, Any]
):
    """Compare finished, failed, retried, expired, unreadable and unknown jobs, and the keys that are left."""

    async def run_burst(kind: Callable[..., Worker]) -> tuple[Any, ...]:
        await valkey.flushall()
        runs = Runs()
        runs.outcomes = {"s1": fail, "s2": retry_once, "s3": retry_three_times}
        await enqueue(valkey, *JOBS[:8])
        await valkey.delete(keys.JOB + JOBS[4].id)  # expired
        await valkey.set(keys.JOB + JOBS[5].id, b"rubbish")
        await enqueue(valkey, Job(JobKind.TERMINATE, "s8", "1-0a1b2c3d"))  # no function has this name
        worker = kind(**options_of(runs, valkey_url), poll_delay=0.05, **options)
        running = asyncio.create_task(worker.async_run())
        await until_empty(valkey)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        counts = (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried)
        await worker.close()
        return sorted(runs.started), sorted(runs.finished), counts, sorted(await valkey.keys())

    assert await run_burst(lambda **kwargs: QueueWorker("host:1:a", **kwargs)) == await run_burst(Worker)


async def test_finished_job_leaves_no_key(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    await enqueue(valkey, *JOBS)
    async with start_worker():
        await runs.until_finished(*JOBS)
        await until_empty(valkey)
    assert await valkey.keys("arq:*") == []


@pytest.mark.parametrize(
    ("internals", "message"),
    [
        ({Worker: {"finish_job", "absent", "gone"}}, "Worker has no absent, gone"),
        ({Worker: {"tasks", "loop"}, CronJob: {"next_run", "absent"}}, "CronJob has no absent"),
    ],
)
def test_check_arq_without_an_internal_names_it(internals: dict[type, set[str]], message: str):
    """Attributes count if the class or its constructor has them, as `tasks` and `loop`."""
    with pytest.raises(ImportError, match=rf"{message}\. Tested with arq 0\.28"):
        check_arq(internals)


def test_check_arq_with_other_parameters_of_finish_job_names_them():
    with pytest.raises(ImportError, match=r"finish_job takes job_id, finish\. Tested with arq 0\.28"):
        check_arq({}, lambda job_id, finish: None)  # noqa: ARG005 - only the names matter


# When jobs are found


async def test_message_wakes_the_worker(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    async with start_worker(poll_delay=NEVER):
        await until_listening(valkey)
        for each in JOBS[:3]:
            await enqueue(valkey, each)
            await runs.until_finished(each)


async def test_jobs_enqueued_before_the_start_are_found(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    await enqueue(valkey, *JOBS[:3], silently=True)
    async with start_worker(poll_delay=NEVER):
        await runs.until_finished(*JOBS[:3])


async def test_lost_message_leaves_the_job_to_the_poll(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    async with start_worker():
        await until_listening(valkey)
        await enqueue(valkey, JOBS[0], silently=True)
        await runs.until_finished(JOBS[0])


async def test_deferred_job_runs_when_due_without_message_and_poll(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs
):
    due = await redis_now(valkey) + 0.4
    await enqueue(valkey, JOBS[0], due=due)
    async with start_worker(poll_delay=NEVER):
        await runs.until_finished(JOBS[0])
    assert await redis_now(valkey) >= due - 0.001, "due times are whole milliseconds"


async def test_retried_job_waits_for_its_time(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    """The test moves the due time instead of waiting for it."""

    def retry_in_an_hour(job_try: int) -> None:
        if job_try < 3:
            raise Retry(HOUR)

    retried, other = JOBS[:2]
    runs.outcomes = {retried.sandbox_id: retry_in_an_hour}
    async with start_worker():
        for count in (1, 2):
            before = await redis_now(valkey)
            await enqueue(valkey, retried)

            async def is_put_off() -> bool:
                due_ms = await valkey.zscore(keys.QUEUE, retried.id)
                return due_ms is not None and due_ms >= (before + HOUR) * 1000 - 1  # noqa: B023 - awaited at once

            await eventually(is_put_off, "the job is due in an hour")
            await enqueue(valkey, other)
            await runs.until_finished(other)
            assert Counter(runs.started)[retried.sandbox_id] == count
            runs.finished.clear()
        await enqueue(valkey, retried)
        await runs.until_finished(retried)
        await until_empty(valkey)


async def test_many_retried_jobs_do_not_delay_others(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    def retry_always(_: int) -> None:
        raise Retry(0.05)

    runs.outcomes = dict.fromkeys(ids(*JOBS[:10]), retry_always)
    await enqueue(valkey, *JOBS[:10])
    async with start_worker(max_jobs=2):
        await runs.until_started(*JOBS[:10])
        await enqueue(valkey, *JOBS[10:])
        await runs.until_finished(*JOBS[10:])


async def test_lost_subscription_is_renewed(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    async with start_worker():
        await until_listening(valkey)
        await valkey.client_kill_filter(_type="pubsub")
        await enqueue(valkey, *JOBS[:3])
        await runs.until_finished(*JOBS[:3])
        await until_listening(valkey)


# How many jobs run


async def test_max_jobs_bounds_running_jobs_and_fills_free_slots(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs
):
    runs.may_finish.clear()
    await enqueue(valkey, *JOBS)
    async with start_worker(max_jobs=3, poll_delay=NEVER):
        await eventually_true(lambda: runs.running == 3, "three jobs run")
        assert len(await valkey.keys(f"{keys.IN_PROGRESS}*")) == 3, "other workers can have the other jobs"
        runs.may_finish.set()
        await runs.until_finished(*JOBS)
    assert runs.max_running == 3
    assert Counter(runs.started) == Counter(ids(*JOBS))


async def test_three_workers_run_each_job_once(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    many = [job(number) for number in range(300)]
    async with start_worker("host:1:a"), start_worker("host:2:b"), start_worker("host:3:c"):
        await until_listening(valkey, 3)
        for start in range(0, len(many), 20):
            await enqueue(valkey, *many[start : start + 20])
        await runs.until_finished(*many)
        await until_empty(valkey)
    assert set(Counter(runs.started).values()) == {1}


async def test_second_worker_takes_jobs_beyond_the_running_ones(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs
):
    runs.may_finish.clear()
    await enqueue(valkey, *JOBS)
    async with start_worker("host:1:a", max_jobs=10), start_worker("host:2:b", max_jobs=10):
        await runs.until_started(*JOBS)
        runs.may_finish.set()
        await runs.until_finished(*JOBS)
    assert set(Counter(runs.started).values()) == {1}


# Whose job it is


async def test_job_of_living_worker_is_left_alone(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    await register(valkey, "host:9:z")
    await mark(valkey, JOBS[0], "host:9:z")
    await enqueue(valkey, JOBS[0])
    async with start_worker(poll_delay=0.05):
        await enqueue(valkey, JOBS[1])
        await runs.until_finished(JOBS[1])
        assert runs.started == ids(JOBS[1])
        await valkey.delete(keys.IN_PROGRESS + JOBS[0].id)
        await runs.until_finished(JOBS[0])


async def test_job_of_killed_worker_is_fetched_when_its_heartbeat_is_old(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs
):
    """A restarted worker has a new name. So it, too, waits until its predecessor counts as dead."""
    killed = "host:1:old"
    await register(valkey, killed, age=0)
    for each in JOBS[:3]:
        await mark(valkey, each, killed)
    await enqueue(valkey, *JOBS[:3])
    async with start_worker("host:1:new"):
        await enqueue(valkey, JOBS[3])
        await runs.until_finished(JOBS[3])
        assert runs.started == ids(JOBS[3])
        await register(valkey, killed, age=ALIVE_SECONDS + 1)
        await runs.until_finished(*JOBS[:3])
        await until_empty(valkey)
    assert set(Counter(runs.started).values()) == {1}


async def test_job_of_unregistered_worker_is_fetched_at_once(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    """A worker that stopped has removed itself. A worker that never sent a heartbeat counts as dead, too."""
    await mark(valkey, JOBS[0], "host:9:z")
    await enqueue(valkey, JOBS[0])
    async with start_worker():
        await runs.until_finished(JOBS[0])


async def test_own_mark_of_a_job_that_does_not_run_is_fetched_again(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs
):
    """The answer of the fetch was lost, or the end of the job could not be written."""
    await mark(valkey, JOBS[0], "host:1:a")
    await enqueue(valkey, JOBS[0])
    async with start_worker("host:1:a"):
        await runs.until_finished(JOBS[0])
        await until_empty(valkey)
    assert runs.started == ids(JOBS[0])


# Failures of Redis


@pytest.mark.parametrize("max_jobs", [1, 2, 50])
async def test_lost_answer_of_fetch_loses_and_doubles_no_job(
    valkey: ArqRedis, valkey_url: str, start_worker: StartWorker, runs: Runs, max_jobs: int
):
    line = LossyLine(valkey_url)
    async with line.listening() as url, start_worker(url=url, max_jobs=max_jobs) as worker:
        await enqueue(valkey, JOBS[0])
        await runs.until_finished(JOBS[0])
        runs.may_finish.clear()
        worker.allow_pick_jobs = False
        await enqueue(valkey, *JOBS[1:])
        line.lose = b"EVALSHA"
        worker.allow_pick_jobs = True
        await eventually_true(
            lambda: line.lose is None and runs.running >= min(max_jobs, len(JOBS) - 1),
            "an answer is lost, and all slots are busy",
        )
        runs.may_finish.set()
        await runs.until_finished(*JOBS)
        await until_empty(valkey)
    assert set(Counter(runs.started).values()) == {1}
    assert runs.max_running <= max_jobs


async def test_worker_continues_after_redis_restarts(start_valkey: StartValkey, start_worker: StartWorker, runs: Runs):
    """The restarted Redis has neither scripts nor subscriptions."""
    server = start_valkey()
    async with connect(settings_of(REDIS_URL=server.url), RETRY_FOREVER) as redis, start_worker(url=server.url):
        await enqueue(redis, JOBS[0])
        await runs.until_finished(JOBS[0])
        server.stop()
        server.start()
        await enqueue(redis, JOBS[1])
        await runs.until_finished(JOBS[1])


async def test_worker_finishes_its_job_after_redis_is_emptied(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    runs.may_finish.clear()
    async with start_worker():
        await enqueue(valkey, JOBS[0])
        await runs.until_started(JOBS[0])
        await valkey.flushall()
        await valkey.script_flush()
        runs.may_finish.set()
        await enqueue(valkey, JOBS[1])
        await runs.until_finished(*JOBS[:2])


async def test_worker_continues_after_redis_refused_writes(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs, clock: Clock
):
    """A full memory refuses both the fetch and the scheduled job."""

    async def tick(_: dict[Any, Any]) -> None:
        runs.finished.append("tick")

    await valkey.config_set("maxmemory-policy", "noeviction")
    scheduled = [every(0.1, tick, SECONDS)]
    try:
        async with start_worker(cron_jobs=scheduled, poll_delay=0.05, monotonic=clock) as worker:
            await until_listening(valkey)
            worker.allow_pick_jobs = False
            await enqueue(valkey, JOBS[0])
            await valkey.config_set("maxmemory", 1)
            clock.advance(100)
            worker.allow_pick_jobs = True

            async def is_refused() -> bool:
                return await count_refused(valkey) > 20

            await eventually(is_refused, "Redis refuses again and again")
            assert runs.started == []
            assert worker.seconds_since_fetch() >= 100
            await valkey.config_set("maxmemory", 0)
            await runs.until_finished(JOBS[0])
            runs.finished.clear()
            await eventually_true(lambda: "tick" in runs.finished, "the scheduled job runs")
    finally:
        await valkey.config_set("maxmemory", 0)


async def count_refused(valkey: ArqRedis) -> int:
    return int((await valkey.info("errorstats")).get("errorstat_OOM", {"count": 0})["count"])


async def test_worker_continues_after_lost_answer_under_watch(valkey_url: str, start_worker: StartWorker):
    """Scheduled jobs are enqueued under WATCH, where redis-py does not retry a lost connection."""
    ticks = []

    async def tick(_: dict[Any, Any]) -> None:
        ticks.append(1)

    line = LossyLine(valkey_url)
    line.lose = b"EXISTS"
    async with line.listening() as url, start_worker(url=url, cron_jobs=[every(0.1, tick, SECONDS)], poll_delay=0.1):
        await eventually_true(lambda: line.lose is None and bool(ticks), "a scheduled job runs after a lost one")


# Health


async def test_seconds_since_fetch_before_the_first_fetch_is_infinite(runs: Runs, valkey_url: str):
    worker = make_queue_worker(runs, valkey_url)
    assert worker.seconds_since_fetch() == math.inf
    await worker.close()


async def test_seconds_since_fetch_counts_from_the_last_look_at_the_queue(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs, clock: Clock
):
    async with start_worker(monotonic=clock, poll_delay=NEVER) as worker:
        await enqueue(valkey, JOBS[0])
        await runs.until_finished(JOBS[0])
        await eventually_true(lambda: worker.seconds_since_fetch() == 0, "the worker has looked")
        await until_empty(valkey)
        clock.advance(7)
        assert worker.seconds_since_fetch() == 7
        await enqueue(valkey, JOBS[1])
        await eventually_true(lambda: worker.seconds_since_fetch() == 0, "the worker has looked again")


async def test_seconds_since_fetch_of_a_busy_worker_stays_low(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs, clock: Clock
):
    """A worker whose slots are all busy works."""
    runs.may_finish.clear()
    await enqueue(valkey, *JOBS[:2])
    async with start_worker(monotonic=clock, max_jobs=1, poll_delay=0.02) as worker:
        await eventually_true(lambda: runs.running == 1, "the only slot is busy")
        clock.advance(100)
        await eventually_true(lambda: worker.seconds_since_fetch() == 0, "the worker has looked")
        runs.may_finish.set()


async def test_seconds_since_fetch_grows_while_redis_is_away(
    start_valkey: StartValkey, start_worker: StartWorker, clock: Clock
):
    server = start_valkey()
    async with start_worker(url=server.url, monotonic=clock, poll_delay=0.02) as worker:
        await eventually_true(lambda: worker.seconds_since_fetch() == 0, "the worker has looked")
        with server.frozen():

            async def is_old() -> bool:
                clock.advance(100)  # again and again: the answer of one fetch may be on its way
                await asyncio.sleep(0.05)
                return worker.seconds_since_fetch() >= 100

            await eventually(is_old, "the last look gets old")
        await eventually_true(lambda: worker.seconds_since_fetch() == 0, "the worker looks again")


# The end of a worker


async def test_stop_signal_finishes_running_jobs_and_leaves_others(
    valkey: ArqRedis, start_worker: StartWorker, runs: Runs
):
    runs.may_finish.clear()
    stopped = asyncio.Event()
    async with start_worker(max_jobs=2) as worker:
        worker.on_stop = lambda _: stopped.set()
        worker.main_task = None  # arq would cancel it; this test's fixture does that
        await enqueue(valkey, *JOBS[:2])
        await runs.until_started(*JOBS[:2])
        worker.handle_sig_wait_for_completion(signal.SIGTERM)
        await enqueue(valkey, *JOBS[2:5])
        runs.may_finish.set()
        await within(stopped.wait())
        assert sorted(runs.started) == sorted(runs.finished) == ids(*JOBS[:2])
    assert await valkey.zcard(keys.QUEUE) == 3
    assert await valkey.keys(f"{keys.IN_PROGRESS}*") == []


async def test_stop_signal_before_the_start_ends_the_worker(valkey_url: str, runs: Runs):
    worker = make_queue_worker(runs, valkey_url)
    worker.handle_sig_wait_for_completion(signal.SIGTERM)
    await within(worker.async_run())
    await worker.close()


async def test_cancelled_job_is_put_back(valkey: ArqRedis, start_worker: StartWorker, runs: Runs):
    runs.may_finish.clear()
    async with start_worker("host:1:a"):
        await enqueue(valkey, JOBS[0])
        await runs.until_started(JOBS[0])
    assert runs.finished == []
    runs.may_finish.set()
    async with start_worker("host:2:b"):
        await runs.until_finished(JOBS[0])
        await until_empty(valkey)
