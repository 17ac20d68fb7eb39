"""The worker's wiring: the options of arq's worker, the parts that jobs need, and the leader beside them."""

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, cast

import structlog
from arq.typing import WorkerCoroutine
from arq.worker import Function, func

from shared.errors import StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.queue import job
from shared.queue.job import JobKind
from shared.redis.connection import FAIL_FAST, RETRY_FOREVER, connect
from shared.settings import Settings
from shared.store import keys
from shared.store.store import Store
from worker.health.heartbeat import heartbeat, new_worker_name
from worker.jobs import functions
from worker.jobs.activity_probe import ActivityProbe
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.interval_job import every
from worker.jobs.provisioner import Provisioner
from worker.jobs.queue_worker import POLL_SECONDS, QueueWorker
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.config import configuration
from worker.leader.leader import Leader
from worker.reflectors.tasks import reflector_tasks

log = structlog.get_logger()

LEADER_FAILED = "leader_failed"
"""Key in arq's context: the leader task failed, which is a bug, and the worker exits with an error."""


def make_worker(settings: Settings, **options: Any) -> QueueWorker:
    """Return a worker. Its start-up hook opens what jobs need, and its shutdown hook closes that.

    `options` are further options of arq's worker. Tries are not limited: a job stops at its record's deadline.
    """
    name = new_worker_name()
    stack = AsyncExitStack()

    async def on_startup(context: dict[Any, Any]) -> None:
        await _open(settings, name, stack, context)
        log.info("worker started", worker=name, cluster=settings.cluster_name, namespace=settings.k8s_namespace)

    async def on_shutdown(_: dict[Any, Any]) -> None:
        await stack.aclose()
        log.info("worker stopped", worker=name)

    return QueueWorker(name, on_startup=on_startup, on_shutdown=on_shutdown, **_options(settings), **options)


def _options(settings: Settings) -> dict[str, Any]:
    """Return the options of arq's worker."""
    return {
        "redis_pool": connect(settings, RETRY_FOREVER),
        "queue_name": keys.QUEUE,
        "functions": [
            _function(functions.provision, JobKind.PROVISION),
            _function(functions.terminate, JobKind.TERMINATE),
            _function(functions.probe_activity, JobKind.PROBE_ACTIVITY),
        ],
        "cron_jobs": [every(settings.sweep_interval_seconds, functions.sweep, functions.ARQ_TIMEOUT_SECONDS)],
        "job_serializer": job.encode,
        "job_deserializer": job.decode,
        "job_timeout": functions.ARQ_TIMEOUT_SECONDS,
        "max_jobs": settings.worker_max_jobs,
        "poll_delay": POLL_SECONDS,
        "job_completion_wait": settings.worker_shutdown_seconds,
    }


def _function(coroutine: object, name: JobKind) -> Function:
    return func(cast(WorkerCoroutine, coroutine), name=name)


async def _open(settings: Settings, name: str, stack: AsyncExitStack, context: dict[Any, Any]) -> None:
    """Put what jobs need into arq's context. `stack` closes it in reverse order."""
    redis = connect(settings, FAIL_FAST)
    stack.push_async_callback(redis.aclose)
    store = Store(redis)
    with suppress(StoreUnavailable):
        await store.set_clock()
    job_client = await stack.enter_async_context(await _client(settings))
    watch_client = await stack.enter_async_context(await _client(settings))
    sync = ClusterSync(redis, store.now, settings.cluster_name)
    workers = WorkerRegistry(redis, store.now)
    await stack.enter_async_context(heartbeat(workers, name, store.set_clock))
    tasks = reflector_tasks(store, sync, watch_client, settings)
    _start(Leader(redis, settings.cluster_name, tasks), stack, context)
    activity_probe = ActivityProbe(store, settings)
    await stack.enter_async_context(activity_probe.running())
    context.update(
        store=store,
        provisioner=Provisioner(store, sync, workers, job_client, settings),
        throttle=CleanupThrottle(redis, store.now),
        activity_probe=activity_probe,
        settings=settings,
    )


async def _client(settings: Settings) -> KubernetesClient:
    """Return a client with its own connection pool: watches and jobs must not wait for each other's connections."""
    return KubernetesClient(await configuration(settings), settings.k8s_namespace, settings.k8s_timeout_seconds)


def _start(leader: Leader, stack: AsyncExitStack, context: dict[Any, Any]) -> None:
    task = asyncio.create_task(leader.run(), name="leader")
    task.add_done_callback(partial(_stop_worker, context))
    stack.push_async_callback(_cancel, task)


def _stop_worker(context: dict[Any, Any], leader: asyncio.Task[None]) -> None:
    """Stop this worker after its leader task failed, which is a bug. Otherwise it would look healthy and never lead."""
    if not leader.cancelled():
        log.critical("leader failed; stopping this worker", exc_info=leader.exception())
        context[LEADER_FAILED] = True
        signal.raise_signal(signal.SIGTERM)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
