"""Our worker as arq's: it does what arq's does, finds its jobs sooner, and loses and doubles none."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import pytest
from arq import Retry, cron
from arq.connections import ArqRedis
from arq.worker import Worker, func

from shared.liveness.workers import ALIVE_SECONDS
from shared.queue import job as queue
from shared.queue.job import Job, JobKind
from shared.redis.connection import RETRY_FOREVER, connect
from shared.settings import read_settings
from shared.store import keys
from tests.conftest import StartValkey
from tests.support.lossy_line import LossyLine
from tests.worker.conftest import SECONDS, eventually
from worker.health import heartbeat
from worker.jobs.queue_worker import QueueWorker

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning"),  # arq's, of `aclose`
]

NEVER = 3600.0
"""A poll delay: only what is heard, or known to come due, wakes."""
NAME: ContextVar[str] = ContextVar("name", default="this-host:1")


def job(number: int = 0) -> Job:
    return Job(JobKind.PROVISION, f"s{number}", "1-0a1b2c3d")


JOBS = [job(number) for number in range(20)]


class Arqs(Worker):
    """arq's own, of which one knows when it has looked."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.looked = asyncio.Event()

    async def _poll_iteration(self) -> None:
        await super()._poll_iteration()
        self.looked.set()


class Did:
    """What the jobs have done: how often each began, how many run at once at most, and how they end."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.at_once = 0
        self.most = 0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ends: dict[str, Callable[[int], None]] = {}

    async def provision(self, context: dict[str, Any], sandbox_id: str, _life: str, _attempt: int) -> None:
        self.begun.append(sandbox_id)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            await self.may_end.wait()
            self.ends.get(sandbox_id, lambda _: None)(context["job_try"])
            self.done.append(sandbox_id)
        finally:
            self.at_once -= 1

    async def until_begun(self, *jobs: Job) -> None:
        await self._until(self.begun, jobs)

    async def until_done(self, *jobs: Job) -> None:
        await self._until(self.done, jobs)

    async def _until(self, seen: list[str], jobs: Iterable[Job]) -> None:
        wanted = {each.sandbox_id for each in jobs}

        async def all_seen() -> bool:
            return wanted <= set(seen)

        await eventually(all_seen, f"{sorted(wanted)}, of which {sorted(wanted - set(seen))} were wanting at first")


@pytest.fixture
def did() -> Did:
    return Did()


Started = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def started(did: Did, valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> Started:
    """While it is entered, a worker of this name runs; that it does not end by itself is part of every test."""
    monkeypatch.setattr(heartbeat, "worker_name", NAME.get)  # a process has one, and here are several workers in one

    @asynccontextmanager
    async def start(
        name: str = "host:1", *, kind: type[Worker] = QueueWorker, url: str = valkey_url, **options: Any
    ) -> AsyncIterator[Worker]:
        worker = made(did, url, kind, **options)

        async def run() -> None:
            NAME.set(name)
            await worker.async_run()

        task = asyncio.create_task(run())
        try:
            yield worker
            assert not task.done(), task
        finally:
            worker.allow_pick_jobs = False
            if isinstance(worker, Arqs):  # which leaves a connection open when it is cancelled while it looks
                worker.looked.clear()
                await worker.looked.wait()
            if did.may_end.is_set() and worker.tasks:  # arq's `close` fails of one that is cancelled while it ends
                await asyncio.wait(worker.tasks.values(), timeout=SECONDS)
            task.cancel()
            await asyncio.wait([task])
            with suppress(*((asyncio.CancelledError,) if isinstance(worker, Arqs) else ())):  # of a job, and not of us
                await worker.close()

    return start


def made(did: Did, url: str, kind: type[Worker] = QueueWorker, **options: Any) -> Worker:
    return kind(
        **{
            "functions": [func(did.provision, name=JobKind.PROVISION)],
            "redis_pool": connect(read_settings({"REDIS_URL": url}), RETRY_FOREVER),
            "job_serializer": queue.encode,
            "job_deserializer": queue.decode,
            "handle_signals": False,
            "keep_result": 0,
            "job_completion_wait": SECONDS,
            **options,
        }
    )


async def enqueue(redis: ArqRedis, *jobs: Job, due_in: float = 0.0, silently: bool = False) -> None:
    """As the store does; `silently`: whoever should hear of it does not."""
    due = int((time.time() + due_in) * 1000)
    async with redis.pipeline() as step:
        for each in jobs:
            step.set(keys.JOB + each.id, each.payload(time.time()))
            step.zadd(keys.QUEUE, {each.id: due})
        if not silently:
            step.publish(keys.WAKEUP_CHANNEL, "")
        await step.execute()


async def until_empty(redis: ArqRedis) -> None:
    """Nothing is left of any job."""

    async def is_empty() -> bool:
        return not await redis.exists(keys.QUEUE) and not await redis.keys("arq:job:*") + await redis.keys("arq:in-*")

    await eventually(is_empty, "the queue is empty")


async def until_listening(redis: ArqRedis, count: int = 1) -> None:
    async def listening() -> bool:
        ((_, subscribed),) = await redis.pubsub_numsub(keys.WAKEUP_CHANNEL)
        return bool(subscribed == count)

    await eventually(listening, "it listens for news")


# What arq's worker does


def fail(_: int) -> None:
    raise ValueError("a bug")


def once_more(job_try: int) -> None:
    if job_try == 1:
        raise Retry(0.01)


def again_and_again(job_try: int) -> None:
    if job_try < 4:
        raise Retry


@pytest.mark.parametrize("options", [{}, {"max_jobs": 1}], ids=str)
async def test_as_arq_does(valkey: ArqRedis, valkey_url: str, options: dict[str, Any]):
    """Of the same queue arq's worker and ours make the same: what is done, failed, tried again, dropped, and left."""

    async def burst(kind: type[Worker]) -> tuple[Any, ...]:
        await valkey.flushall()
        did = Did()
        did.ends = {"s1": fail, "s2": once_more, "s3": again_and_again}
        await enqueue(valkey, *JOBS[:8])
        await valkey.delete(keys.JOB + JOBS[4].id)  # it has expired
        await valkey.set(keys.JOB + JOBS[5].id, b"rubbish")
        unknown = Job(JobKind.TERMINATE, "s8", "1-0a1b2c3d")
        await enqueue(valkey, unknown)
        worker = made(did, valkey_url, kind, burst=True, poll_delay=0.05, **options)
        async with asyncio.timeout(SECONDS):
            await worker.async_run()
        counts = (worker.jobs_complete, worker.jobs_failed, worker.jobs_retried)
        await worker.close()
        return sorted(did.begun), sorted(did.done), counts, sorted(await valkey.keys())

    assert await burst(QueueWorker) == await burst(Worker)


async def test_a_job_leaves_nothing(valkey: ArqRedis, started: Started, did: Did):
    """What is done is neither in the queue nor marked any more."""
    await enqueue(valkey, *JOBS)
    async with started():
        await did.until_done(*JOBS)
        await until_empty(valkey)


# When it finds its jobs


async def test_news(valkey: ArqRedis, started: Started, did: Did):
    """A job is begun when it is announced: nobody has to poll."""
    async with started(poll_delay=NEVER):
        await until_listening(valkey)
        for each in JOBS[:3]:
            await enqueue(valkey, each)
            await did.until_done(each)


async def test_what_was_there_before(valkey: ArqRedis, started: Started, did: Did):
    """What came while nobody listened is found when it begins to."""
    await enqueue(valkey, *JOBS[:3], silently=True)
    async with started(poll_delay=NEVER):
        await did.until_done(*JOBS[:3])


async def test_news_that_were_missed(valkey: ArqRedis, started: Started, did: Did):
    """A job of which it did not hear is found at its next look."""
    async with started():
        await until_listening(valkey)
        await enqueue(valkey, JOBS[0], silently=True)
        await did.until_done(JOBS[0])


async def test_a_job_that_is_due_later(valkey: ArqRedis, started: Started, did: Did):
    """A job is begun when it comes due, not before; for that nobody has to say anything."""
    due = time.time() + 0.4
    await enqueue(valkey, JOBS[0], due_in=0.4)
    async with started(poll_delay=NEVER):
        await did.until_done(JOBS[0])
    assert time.time() >= due - 0.01


async def test_a_retry_waits(valkey: ArqRedis, started: Started, did: Did):
    """A job that is put off is begun again when its time has come, not before."""
    began: list[float] = []

    def put_off(job_try: int) -> None:
        began.append(time.time())
        if job_try < 3:
            raise Retry(0.3)

    did.ends = {JOBS[0].sandbox_id: put_off}
    await enqueue(valkey, JOBS[0])
    async with started():
        await did.until_done(JOBS[0])
        await until_empty(valkey)
    assert len(began) == 3
    assert all(later - earlier >= 0.29 for earlier, later in pairwise(began))


async def test_many_retries_do_not_keep_others_waiting(valkey: ArqRedis, started: Started, did: Did):
    """While some are put off again and again, those that come are done."""

    def never(_: int) -> None:
        raise Retry(0.05)

    did.ends = {each.sandbox_id: never for each in JOBS[:10]}
    await enqueue(valkey, *JOBS[:10])
    async with started(max_jobs=2):
        await did.until_begun(*JOBS[:10])
        await enqueue(valkey, *JOBS[10:])
        await did.until_done(*JOBS[10:])


async def test_the_listening_breaks(valkey: ArqRedis, started: Started, did: Did):
    """A subscription that broke is begun anew, and what came meanwhile is found."""
    async with started():
        await until_listening(valkey)
        await valkey.client_kill_filter(_type="pubsub")
        await enqueue(valkey, *JOBS[:3])
        await did.until_done(*JOBS[:3])
        await until_listening(valkey)


# How many


async def test_max_jobs(valkey: ArqRedis, started: Started, did: Did):
    """It runs as many at once as it may, and no more; when one ends the next is begun at once."""
    did.may_end.clear()
    await enqueue(valkey, *JOBS)
    async with started(max_jobs=3, poll_delay=NEVER):

        async def full() -> bool:
            return did.at_once == 3

        await eventually(full, "three jobs run")
        assert len(await valkey.keys(f"{keys.IN_PROGRESS}*")) == 3, "the others are there for others"
        did.may_end.set()
        await did.until_done(*JOBS)
    assert did.most == 3
    assert Counter(did.begun) == Counter(each.sandbox_id for each in JOBS)


async def test_two_workers(valkey: ArqRedis, started: Started, did: Did):
    """However many look for the same jobs, each is begun once."""
    many = [job(number) for number in range(300)]
    async with started("host:1"), started("host:2"), started("host:3"):
        await until_listening(valkey, 3)
        for start in range(0, len(many), 20):
            await enqueue(valkey, *many[start : start + 20])
        await did.until_done(*many)
        await until_empty(valkey)
    assert set(Counter(did.begun).values()) == {1}


async def test_the_rest_is_anothers(valkey: ArqRedis, started: Started, did: Did):
    """What one has no room for, another begins, behind many that are being worked on."""
    did.may_end.clear()
    await enqueue(valkey, *JOBS)
    async with started("host:1", max_jobs=10), started("host:2", max_jobs=10):
        await did.until_begun(*JOBS)
        did.may_end.set()
        await did.until_done(*JOBS)
    assert set(Counter(did.begun).values()) == {1}


# Beside arq's own worker


@pytest.mark.parametrize("kind", [Arqs, QueueWorker])
@pytest.mark.parametrize("mark", [b"1", b"host:9"], ids=["arq's mark", "ours"])
async def test_a_mark_is_respected(valkey: ArqRedis, started: Started, did: Did, kind: type[Worker], mark: bytes):
    """What another has begun is left to it, by arq's worker and by ours, whoever of the two that is."""
    await valkey.set(keys.IN_PROGRESS + JOBS[0].id, mark, ex=60)
    await enqueue(valkey, JOBS[0])
    async with started(kind=kind, poll_delay=0.05):
        await enqueue(valkey, JOBS[1])
        await did.until_done(JOBS[1])
        assert did.begun == [JOBS[1].sandbox_id]
        await valkey.delete(keys.IN_PROGRESS + JOBS[0].id)
        await did.until_done(JOBS[0])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # arq's, when stopped amid a pipeline
async def test_beside_arqs_own(valkey: ArqRedis, started: Started, did: Did):
    """Ours and arq's do the same jobs side by side, each once."""
    many = [job(number) for number in range(100)]
    async with started("host:1", max_jobs=5), started("host:2", kind=Arqs, max_jobs=5, poll_delay=0.02):
        await enqueue(valkey, *many)
        await did.until_done(*many)
        await until_empty(valkey)
    assert set(Counter(did.begun).values()) == {1}


# What goes wrong


CLAIM = b"EVALSHA"


@pytest.mark.parametrize("most", [1, 2, 50])
async def test_the_answer_of_a_claim_is_lost(valkey: ArqRedis, valkey_url: str, started: Started, did: Did, most: int):
    """What was claimed, and never begun, for its answer was lost, is given again to the same worker: each job is begun
    once, no more of them than may run at once, and the worker goes on."""
    line = LossyLine(valkey_url)
    async with line.listening() as url, started(url=url, max_jobs=most) as worker:
        await enqueue(valkey, JOBS[0])
        await did.until_done(JOBS[0])
        did.may_end.clear()
        worker.allow_pick_jobs = False
        await enqueue(valkey, *JOBS[1:])
        line.lose = CLAIM
        worker.allow_pick_jobs = True

        async def is_busy() -> bool:
            return line.lose is None and did.at_once >= min(most, len(JOBS) - 1)

        await eventually(is_busy, "it has claimed what it may, and lost an answer")
        did.may_end.set()
        await did.until_done(*JOBS)
        await until_empty(valkey)
    assert set(Counter(did.begun).values()) == {1}
    assert did.most <= most


async def test_killed_and_back(valkey: ArqRedis, started: Started, did: Did):
    """What a worker had claimed when it was killed is its own again when it comes back under its name."""
    for each in JOBS[:3]:
        await valkey.set(keys.IN_PROGRESS + each.id, b"host:1", ex=60)
    await enqueue(valkey, *JOBS[:3])
    async with started("host:1"):
        await did.until_done(*JOBS[:3])
        await until_empty(valkey)


async def test_what_the_dead_have_claimed(valkey: ArqRedis, started: Started, did: Did):
    """What a worker has claimed that has said nothing for long is another's; what one that lives, or that never said
    so, has claimed is not."""
    now = time.time()
    await valkey.zadd(keys.WORKERS, {"dead:1": now - ALIVE_SECONDS - 2, "alive:1": now + 60})
    for each, holder in zip(JOBS, ("dead:1", "alive:1", "silent:1"), strict=False):
        await valkey.set(keys.IN_PROGRESS + each.id, holder, ex=60)
    await enqueue(valkey, *JOBS[:3])
    async with started("host:1"):
        await did.until_done(JOBS[0])
        await enqueue(valkey, JOBS[3])
        await did.until_done(JOBS[3])
        assert sorted(did.begun) == [JOBS[0].sandbox_id, JOBS[3].sandbox_id]


async def test_redis_restarts(start_valkey: StartValkey, started: Started, did: Did):
    """A worker whose Redis went away, scripts, subscriptions and all, goes on when it is back."""
    server = start_valkey()
    async with connect(read_settings({"REDIS_URL": server.url}), RETRY_FOREVER) as redis, started(url=server.url):
        await enqueue(redis, JOBS[0])
        await did.until_done(JOBS[0])
        server.stop()
        server.start()
        await enqueue(redis, JOBS[1])
        await did.until_done(JOBS[1])


async def test_redis_is_emptied(valkey: ArqRedis, started: Started, did: Did):
    """A worker whose Redis forgets all in the middle of a job ends that job, and goes on with what comes."""
    did.may_end.clear()
    async with started():
        await enqueue(valkey, JOBS[0])
        await did.until_begun(JOBS[0])
        await valkey.flushall()
        await valkey.script_flush()
        did.may_end.set()
        await enqueue(valkey, JOBS[1])
        await did.until_done(*JOBS[:2])


async def test_redis_refuses_to_write(valkey: ArqRedis, started: Started, did: Did):
    """Its memory is full, say: the worker goes on, and finds its jobs when there is room again."""
    ticks = []

    async def tick(_: dict[str, Any]) -> None:
        ticks.append(time.monotonic())

    await enqueue(valkey, JOBS[0])
    await valkey.config_set("maxmemory", 1)
    await valkey.config_set("maxmemory-policy", "noeviction")
    try:
        async with started(cron_jobs=[cron(tick, second=set(range(60)))], poll_delay=0.05):

            async def has_refused() -> bool:
                return int((await valkey.info("errorstats")).get("errorstat_OOM", {"count": 0})["count"]) > 20

            await eventually(has_refused, "it was refused again and again")
            assert did.begun == []
            await valkey.config_set("maxmemory", 0)
            await did.until_done(JOBS[0])
    finally:
        await valkey.config_set("maxmemory", 0)


async def test_a_scheduled_job_cannot_be_enqueued(valkey_url: str, started: Started):
    """arq does so under WATCH, where a broken connection is an error: the next turn comes, and the worker goes on."""
    ticks = []

    async def tick(_: dict[str, Any]) -> None:
        ticks.append(time.monotonic())

    line = LossyLine(valkey_url)
    line.lose = b"EXISTS"
    async with line.listening() as url, started(url=url, cron_jobs=[cron(tick, second=set(range(60)))], poll_delay=0.1):

        async def has_ticked() -> bool:
            return line.lose is None and bool(ticks)

        await eventually(has_ticked, "a scheduled job runs, after one was not enqueued")


# Its end


async def test_told_to_stop(valkey: ArqRedis, started: Started, did: Did):
    """It begins nothing any more, ends what it has begun, and leaves the rest to others."""
    did.may_end.clear()
    ended = asyncio.Event()
    async with started(max_jobs=2) as worker:
        worker.on_stop = lambda _: ended.set()
        worker.main_task = None  # arq's would be cancelled, which this test does itself
        await enqueue(valkey, *JOBS[:2])
        await did.until_begun(*JOBS[:2])
        worker.handle_sig_wait_for_completion(signal.SIGTERM)
        await enqueue(valkey, *JOBS[2:5])
        did.may_end.set()
        async with asyncio.timeout(SECONDS):
            await ended.wait()
        assert sorted(did.begun) == sorted(did.done) == [each.sandbox_id for each in JOBS[:2]]
    assert await valkey.zcard(keys.QUEUE) == 3
    assert await valkey.keys(f"{keys.IN_PROGRESS}*") == []


async def test_stopped_in_the_middle(valkey: ArqRedis, started: Started, did: Did):
    """A job that is not given the time to end is another's at once."""
    did.may_end.clear()
    async with started("host:1"):
        await enqueue(valkey, JOBS[0])
        await did.until_begun(JOBS[0])
    assert did.done == []
    did.may_end.set()
    async with started("host:2"):
        await did.until_done(JOBS[0])
        await until_empty(valkey)
