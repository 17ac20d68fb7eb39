"""The worker's only wiring: arq's settings, what its jobs need, and the observer beside them."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, cast

import aiohttp
import structlog
from arq import cron
from arq.typing import WorkerCoroutine
from arq.worker import Function, func

from shared import logs, metrics
from shared.errors import StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.queue import job
from shared.queue.job import JobKind
from shared.redis.connection import FAIL_FAST, RETRY_FOREVER, connect
from shared.settings import Settings, read_settings
from shared.store import keys
from shared.store.store import Store
from worker.health.heartbeat import heartbeat
from worker.jobs import functions
from worker.jobs.activity_probe import ActivityProbe
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.provisioner import Provisioner
from worker.jobs.queue_worker import FALLBACK_SECONDS
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.config import configuration
from worker.leader.leader import Leader
from worker.reflectors.tasks import reflector_tasks

log = structlog.get_logger()

SWEEP_SECONDS = set(range(0, 60, 10))
FAILED = "leader_failed"
"""In arq's context: this worker stops because of a bug, and is to say so with its exit code."""
READ_LIMIT = 5000
"""Entries of the queue that a worker looks through for one that nobody works on. Those being worked on stay in the
queue: with arq's default of five times its own jobs, a few busy workers would hide the rest of it from all others."""
ENDLESS = 1_000_000_000
"""Tries: a job decides itself when to stop (`worker.jobs.provisioner`), by its deadline and not by counting."""


def __getattr__(name: str) -> type:
    """`arq worker.main.WorkerSettings`: made when asked for, so that importing this module reads no settings."""
    if name != "WorkerSettings":
        raise AttributeError(name)
    settings = read_settings(os.environ)
    logs.configure(settings, "worker")
    metrics.prepare("worker")
    return type(name, (), arq_settings(settings))


def arq_settings(settings: Settings) -> dict[str, Any]:
    """The arguments of arq's `Worker`. What jobs need is opened in its start-up hook, and closed in the other."""
    stack = AsyncExitStack()

    async def on_startup(context: dict[Any, Any]) -> None:
        await _open(settings, stack, context)
        log.info("worker started", cluster=settings.cluster_name, namespace=settings.k8s_namespace)

    async def on_shutdown(_: dict[Any, Any]) -> None:
        await stack.aclose()
        log.info("worker stopped")

    return {
        "redis_pool": connect(settings, RETRY_FOREVER),
        "queue_name": keys.QUEUE,
        "functions": [
            _function(functions.provision, JobKind.PROVISION),
            _function(functions.terminate, JobKind.TERMINATE),
            _function(functions.probe_activity, JobKind.PROBE_ACTIVITY),
        ],
        "cron_jobs": [
            cron(cast(WorkerCoroutine, functions.sweep), second=SWEEP_SECONDS, timeout=functions.ARQ_TIMEOUT_SECONDS)
        ],
        "on_startup": on_startup,
        "on_shutdown": on_shutdown,
        "job_serializer": job.encode,
        "job_deserializer": job.decode,
        "job_timeout": functions.ARQ_TIMEOUT_SECONDS,
        "keep_result": 0,
        "max_jobs": settings.worker_max_jobs,
        "max_tries": ENDLESS,
        "poll_delay": FALLBACK_SECONDS,
        "queue_read_limit": READ_LIMIT,
        "job_completion_wait": settings.worker_shutdown_seconds,
    }


def _function(coroutine: object, name: JobKind) -> Function:
    return func(cast(WorkerCoroutine, coroutine), name=name)


async def _open(settings: Settings, stack: AsyncExitStack, context: dict[Any, Any]) -> None:
    """Put into arq's context what jobs need; `stack` closes it, the last opened first."""
    redis = connect(settings, FAIL_FAST)
    stack.push_async_callback(redis.aclose)
    store = Store(redis)
    with suppress(StoreUnavailable):
        await store.set_clock()
    cluster = await stack.enter_async_context(await _cluster(settings))
    watching = await stack.enter_async_context(await _cluster(settings))
    sync = ClusterSync(redis, store.now, settings.cluster_name)
    workers = WorkerRegistry(redis, store.now)
    await stack.enter_async_context(heartbeat(workers, store.set_clock))
    tasks = reflector_tasks(store, sync, watching, settings)
    _observe(Leader(redis, settings.cluster_name, tasks), stack, context)
    session = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()))
    context.update(
        store=store,
        provisioner=Provisioner(store, sync, workers, cluster, settings),
        throttle=CleanupThrottle(redis, store.now),
        activity_probe=ActivityProbe(store, settings, session),
        settings=settings,
    )


async def _cluster(settings: Settings) -> KubernetesClient:
    """With a connection pool of its own: a watch must not wait behind jobs, nor they behind it."""
    return KubernetesClient(await configuration(settings), settings.k8s_namespace, settings.k8s_timeout_seconds)


def _observe(observer: Leader, stack: AsyncExitStack, context: dict[Any, Any]) -> None:
    task = asyncio.create_task(observer.run(), name="observer")
    task.add_done_callback(partial(_ended, context))
    stack.push_async_callback(_stop, task)


def _ended(context: dict[Any, Any], observer: asyncio.Task[None]) -> None:
    """An observer that fails is a bug. A worker without one would look well and see nothing: it stops instead."""
    if not observer.cancelled():
        log.critical("the observer failed; this worker stops", exc_info=observer.exception())
        context[FAILED] = True
        signal.raise_signal(signal.SIGTERM)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
