"""arq's worker with its own way to find jobs: woken by a message, and fetching in one atomic step.

arq's worker polls the queue and sends four commands a job. This worker hears of each job, and one script fetches as
many jobs as there are free slots, with their payloads (`fetch_jobs.lua`). The queue's format, the jobs' ends, scheduled
jobs and signals stay arq's.

A mark in Redis names the worker that runs a job. So the script may be sent again if its answer was lost: the same
worker gets the same jobs again. A dead worker's jobs go to other workers.
"""

import asyncio
import contextlib
import inspect
import math
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import structlog
from arq import Retry
from arq.cron import CronJob
from arq.jobs import DeserializationError, deserialize_job_raw
from arq.utils import poll, timestamp_ms
from arq.worker import Function, Worker
from redis.exceptions import RedisError

from shared.errors import StoreUnavailable
from shared.liveness.workers import ALIVE_SECONDS
from shared.redis.connection import subscribe
from shared.store import keys
from shared.store.lua import load_script

log = structlog.get_logger()

POLL_SECONDS = 0.5
"""Time between two looks at the queue without a message. A message may be lost, and arq's scheduler needs its turn."""
_SCAN_LIMIT = 5000
"""Entries of the queue that one fetch reads. Running jobs stay in the queue, and must not hide those behind them."""
_RETRY_KEY_SECONDS = 88400
"""Lifetime of a job's count of tries: arq's value, which has no name there."""

_ARQ_TESTED = "0.28"
_ARQ_INTERNALS: dict[type, set[str]] = {
    Worker: {
        *("_handle_signals", "_poll_iteration", "allow_pick_jobs", "close", "ctx", "finish_failed_job", "finish_job"),
        *("functions", "handle_sig", "heart_beat", "in_progress_timeout_s", "job_deserializer", "job_timeout_s"),
        *("jobs_complete", "jobs_failed", "jobs_retried", "loop", "main", "max_jobs", "on_shutdown", "on_startup"),
        *("poll_delay_s", "pool", "queue_name", "record_health", "tasks"),
    },
    CronJob: {"calculate_next", "next_run"},
}
_FINISH_JOB_PARAMETERS = (
    "self, job_id, finish, result_data, result_timeout_s, keep_result_forever, incr_score, keep_in_progress"
)


def check_arq(internals: dict[type, set[str]], finish_job: Callable[..., Any] = Worker.finish_job) -> None:
    """Check that arq has each of the internals that this package uses.

    Raises:
        ImportError: arq lacks some, or `finish_job` has other parameters. The message names them.
    """
    for kind, names in internals.items():
        known = {*dir(kind), *vars(kind)["__init__"].__code__.co_names}
        if missing := sorted(names - known):
            raise ImportError(f"arq's {kind.__name__} has no {', '.join(missing)}. Tested with arq {_ARQ_TESTED}.")
    parameters = ", ".join(inspect.signature(finish_job).parameters)
    if parameters != _FINISH_JOB_PARAMETERS:
        raise ImportError(f"arq's finish_job takes {parameters}. Tested with arq {_ARQ_TESTED}.")


check_arq(_ARQ_INTERNALS)


class _FetchedJob(NamedTuple):
    """A job that this worker must run. `payload` is empty if it has expired; `job_try` counts from 1."""

    id: str
    due_ms: int
    payload: bytes
    job_try: int


@contextlib.contextmanager
def _log_redis_error(event: str) -> Iterator[None]:
    """Log an error of Redis, for example a full memory, and continue. The next turn tries again."""
    try:
        yield
    except RedisError as error:
        log.warning(event, error=str(error))


class QueueWorker(Worker):
    """Takes arq's options. `name` marks the jobs that this worker runs, and must be in the registry of workers."""

    def __init__(self, name: str, *, monotonic: Callable[[], float] = time.monotonic, **options: Any) -> None:
        super().__init__(**options)
        self._name = name
        self._monotonic = monotonic
        self._fetched_at = -math.inf
        self._fetch_jobs = load_script(self.pool, __file__, "fetch_jobs.lua")
        self._wake = asyncio.Event()
        self._helpers: list[asyncio.Task[None]] = []

    def seconds_since_fetch(self) -> float:
        """Return the age of the last successful look at the queue; infinite before the first one."""
        return self._monotonic() - self._fetched_at

    async def main(self) -> None:
        """Work until cancelled. Do nothing if a stop signal came before.

        arq's own reads `INFO` first, which a user of Redis may lack the permission for.
        """
        if not self.allow_pick_jobs:
            return
        self.ctx["redis"] = self.pool
        try:
            if self.on_startup:
                await self.on_startup(self.ctx)
            async for _ in poll(self.poll_delay_s):
                await self._poll_iteration()
        finally:
            for helper in self._helpers:
                helper.cancel()
            await asyncio.gather(*self._helpers, return_exceptions=True)

    async def _poll_iteration(self) -> None:
        """Let the fetch loop look at the queue. arq calls this after start-up, and then every `poll_delay`."""
        if not self._helpers:
            self._helpers = [asyncio.create_task(self._fetch_loop()), asyncio.create_task(self._listen())]
        self._wake.set()
        self._forget_done_tasks()
        for helper in self._helpers:
            if helper.done():
                helper.result()
        await self.heart_beat()

    async def heart_beat(self) -> None:
        """Enqueue scheduled jobs as arq does. arq uses WATCH for that, under which redis-py retries nothing."""
        with _log_redis_error("scheduled job not enqueued"):
            await super().heart_beat()

    async def record_health(self) -> None:
        """Write nothing. The registry of workers has the heartbeats (`worker.health.heartbeat`)."""

    async def close(self) -> None:
        """Cancel the jobs, run the shutdown hook, and close the connections.

        arq's own would take a cancelled job for its own cancellation, and close nothing. While Redis is away, its own
        would wait for Redis, and not run the hook.
        """
        if not self._handle_signals:
            self.handle_sig(signal.Signals.SIGUSR1)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        self.tasks.clear()
        if self.on_shutdown:
            await self.on_shutdown(self.ctx)
        await self.pool.aclose(close_connection_pool=True)

    async def _fetch_loop(self) -> None:
        """Fetch jobs at each wake-up. A turn without a free slot counts as a successful look at the queue."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._forget_done_tasks()
            if self.allow_pick_jobs:
                with _log_redis_error("jobs not fetched"):
                    await self._fetch()
                    self._fetched_at = self._monotonic()

    async def _fetch(self) -> None:
        """Fetch as many due jobs as there are free slots, and start each."""
        room = self.max_jobs - len(self.tasks)
        if room <= 0:
            return
        request = {
            "worker": self._name,
            "running": list(self.tasks),
            "room": room,
            "mark_ms": int(self.in_progress_timeout_s * 1000),
            "scan": _SCAN_LIMIT,
            "alive_seconds": ALIVE_SECONDS,
            "retry_seconds": _RETRY_KEY_SECONDS,
            "in_progress_key": keys.IN_PROGRESS,
            "retry_key": keys.RETRY,
            "job_key": keys.JOB,
        }
        fetched, next_due_ms = await self._fetch_jobs([self.queue_name, keys.WORKERS], request)
        for job_id, due_ms, payload, job_try in fetched:
            self._start(_FetchedJob(job_id.decode(), int(float(due_ms)), payload, job_try))
        if next_due_ms >= 0:
            self.loop.call_later(min(next_due_ms / 1000 + 0.001, POLL_SECONDS), self._wake.set)

    def _start(self, job: _FetchedJob) -> None:
        self.tasks[job.id] = task = self.loop.create_task(self._run(job))
        task.add_done_callback(lambda _: self._wake.set())

    def _forget_done_tasks(self) -> None:
        """Free the slots of jobs that have ended. An error that is not Redis' is a bug, and ends the worker."""
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                with _log_redis_error("end of job not written; the job runs again"):
                    if not task.cancelled():
                        task.result()

    async def _run(self, job: _FetchedJob) -> None:
        """Run a job as arq's `run_job` does, without results, hooks, aborts, and a maximum of tries."""
        try:
            name, args, kwargs, _, _ = deserialize_job_raw(job.payload, deserializer=self.job_deserializer)
            function = self.functions[name]
        except (DeserializationError, KeyError) as error:
            log.warning("unknown job removed", job_id=job.id, error=repr(error))
            self.jobs_failed += 1
            await asyncio.shield(self.finish_failed_job(job.id, None))
            return
        context = {**self.ctx, "job_id": job.id, "job_try": job.job_try}
        is_done, delay_ms = await self._call(job, function, context, args, kwargs)
        await asyncio.shield(self.finish_job(job.id, is_done, None, None, False, delay_ms, None))

    async def _call(
        self, job: _FetchedJob, function: Function | CronJob, context: dict[str, Any], args: Any, kwargs: Any
    ) -> tuple[bool, int | None]:
        """Return whether the job is done, and by how much its due time moves otherwise."""
        try:
            async with asyncio.timeout(function.timeout_s or self.job_timeout_s):
                await function.coroutine(context, *args, **kwargs)
        except Retry as retry:
            self.jobs_retried += 1
            return False, retry.defer_score and retry.defer_score + timestamp_ms() - job.due_ms
        except asyncio.CancelledError:
            self.jobs_retried += 1
            return False, None
        except Exception:
            log.exception("job failed", job_id=job.id)
            self.jobs_failed += 1
        else:
            self.jobs_complete += 1
        return True, None

    async def _listen(self) -> None:
        """Wake the fetch loop at each message. While there is no subscription, the poll finds the jobs."""
        while True:
            with contextlib.suppress(StoreUnavailable):
                async for _ in subscribe(self.pool, keys.WAKEUP_CHANNEL):
                    self._wake.set()
            await asyncio.sleep(POLL_SECONDS)
