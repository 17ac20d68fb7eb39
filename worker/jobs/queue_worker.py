"""arq's worker, with another way to find its jobs: woken instead of polling, and claiming in one atomic step.

arq looks at the queue every so often, asks three times for each job in it whether somebody works on it, and then for
what it is. Ours hears of each job, and takes as many as it has room for in one step, with what they are; arq does all
else. That step may be sent again when its answer is lost: a mark bears its worker's name, so that what it has claimed
and never begun is given to it again, also when it was killed and has come back under the same name; and what a worker
that is dead has claimed, to others.

The mark is arq's own, so that workers of arq's own command (`arq worker.main.WorkerSettings`) may work beside ours.
"""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import Any, NamedTuple

import structlog
from arq import Retry
from arq.constants import keep_cronjob_progress
from arq.cron import CronJob
from arq.jobs import DeserializationError, deserialize_job_raw
from arq.utils import timestamp_ms
from arq.worker import Worker
from redis.exceptions import RedisError

from shared.errors import StoreUnavailable
from shared.liveness.workers import ALIVE_SECONDS
from shared.redis.connection import subscribe
from shared.store import keys
from shared.store.lua import load_script
from worker.health import heartbeat

log = structlog.get_logger()

FALLBACK_SECONDS = 0.5
"""How often the queue is looked at though nothing was heard: a message may be lost, and arq's cron needs its turn."""
_LOOKED_THROUGH = 5000
"""Entries of the queue; those that others work on stay in it till they are done."""

_RETRY_KEY_SECONDS = 88400
"""Lifetime of a job's count of tries: arq's value, which has no name there."""


class _FetchedJob(NamedTuple):
    """A job that is ours to run. `payload` is empty when what it was has expired."""

    id: str
    score: int
    payload: bytes
    job_try: int


@contextlib.contextmanager
def _log_redis_error(what: str) -> Iterator[None]:
    """A Redis that answers, and refuses (its memory or disk is full, say), ends no worker: the next turn may do."""
    try:
        yield
    except RedisError as error:
        log.warning(what, error=str(error))


class QueueWorker(Worker):
    """Takes arq's arguments."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fetch_jobs = load_script(self.pool, __file__, "fetch_jobs.lua")
        self._wake = asyncio.Event()
        self._helpers: list[asyncio.Task[None]] = []

    async def main(self) -> None:
        try:
            await super().main()
        finally:
            for helper in self._helpers:
                helper.cancel()
            await asyncio.gather(*self._helpers, return_exceptions=True)

    async def _poll_iteration(self) -> None:
        """arq's turn, after its start-up hook and then every `poll_delay`: finds nothing itself, but lets find."""
        if not self._helpers:
            self._helpers = [asyncio.create_task(self._fetch_loop()), asyncio.create_task(self._listen())]
        self._wake.set()
        for helper in self._helpers:
            if helper.done():
                helper.result()
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                with _log_redis_error("a job's end was not noted"):
                    task.result()
        await self.heart_beat()

    async def heart_beat(self) -> None:
        """arq enqueues its cron jobs under WATCH, where a connection that breaks is an error and not tried again. The
        next turn of the sweep comes in ten seconds."""
        with _log_redis_error("a scheduled job was not enqueued"):
            await super().heart_beat()

    async def close(self) -> None:
        """As arq's, which would take a job that was cancelled for a cancellation of its own, and close nothing."""
        if not self._handle_signals:
            self.handle_sig(signal.Signals.SIGUSR1)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()
        await super().close()

    async def _fetch_loop(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self.allow_pick_jobs and self.job_counter < self.max_jobs:
                with _log_redis_error("no jobs were claimed"):
                    await self._fetch()

    async def _fetch(self) -> None:
        """Claim what there is room for, and begin it."""
        running = set(self.tasks)
        request = {
            "worker": heartbeat.worker_name(),
            "count": self.max_jobs,
            "mark_ms": int(self.in_progress_timeout_s * 1000),
            "scan": _LOOKED_THROUGH,
            "alive_seconds": ALIVE_SECONDS,
            "retry_seconds": _RETRY_KEY_SECONDS,
            "in_progress_key": keys.IN_PROGRESS,
            "retry_key": keys.RETRY,
            "job_key": keys.JOB,
        }
        claimed, held, next_due_ms = await self._fetch_jobs([self.queue_name, keys.WORKERS], request)
        for job, score, payload, job_try in claimed:
            self._start(job.decode(), self._run(_FetchedJob(job.decode(), int(float(score)), payload, job_try)))
        for job, score in held:
            if job.decode() not in running:
                self._start(job.decode(), self.run_job(job.decode(), int(float(score))))
        if next_due_ms >= 0:
            self.loop.call_later(min(next_due_ms / 1000 + 0.001, FALLBACK_SECONDS), self._wake.set)

    def _start(self, job_id: str, run: Coroutine[Any, Any, None]) -> None:
        self.job_counter += 1
        self.tasks[job_id] = task = self.loop.create_task(run)
        task.add_done_callback(self._ended)

    async def _run(self, job: _FetchedJob) -> None:
        """As arq's `run_job`, but for asking Redis what the job is, and without what our jobs have no use for: results,
        hooks, being aborted, an end of tries."""
        try:
            name, args, kwargs, _, _ = deserialize_job_raw(job.payload, deserializer=self.job_deserializer)
            function = self.functions[name]
        except (DeserializationError, KeyError) as error:
            log.warning("a job that nobody can run is left out", job_id=job.id, error=repr(error))
            self.jobs_failed += 1
            await asyncio.shield(self.finish_failed_job(job.id, None))
            return
        is_done, put_off_ms = True, None
        context = {**self.ctx, "job_id": job.id, "job_try": job.job_try}
        try:
            async with asyncio.timeout(function.timeout_s or self.job_timeout_s):
                await function.coroutine(context, *args, **kwargs)
        except Retry as again:
            is_done, put_off_ms = False, again.defer_score and again.defer_score + timestamp_ms() - job.score
            self.jobs_retried += 1
        except asyncio.CancelledError:
            is_done = False
            self.jobs_retried += 1
        except Exception:
            log.exception("a job failed", job_id=job.id)
            self.jobs_failed += 1
        else:
            self.jobs_complete += 1
        keep_mark = keep_cronjob_progress if isinstance(function, CronJob) else None
        await asyncio.shield(self.finish_job(job.id, is_done, None, None, False, put_off_ms, keep_mark))

    def _ended(self, _: asyncio.Task[None]) -> None:
        self.job_counter -= 1
        self._wake.set()

    async def _listen(self) -> None:
        """Hear of new jobs. While that is not to be had, the fallback finds them."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for _ in subscribe(self.pool, keys.WAKEUP_CHANNEL):
                    self._wake.set()
            await asyncio.sleep(FALLBACK_SECONDS)
