"""The functions arq calls. They bind the log context, bound the time, and turn trouble into arq's `Retry`.

arq calls any other exception final, so nothing that is temporary may leave here as such.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from typing import Any, TypedDict, cast

import structlog
from arq import Retry

from shared import logs, metrics
from shared.errors import StoreUnavailable
from shared.settings import Settings
from shared.store.store import Store
from worker.jobs.activity_probe import ActivityProbe
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.provisioner import CleanupPending, ClusterNotSynced, Provisioner
from worker.jobs.sweep import sweep as sweep_once
from worker.kubernetes import retry
from worker.kubernetes.errors import KubernetesError

log = structlog.get_logger()

JOB_SECONDS = 45.0
"""What a job may take in all: at worst four calls to a Kubernetes that answers none. The next attempt goes on."""
ARQ_TIMEOUT_SECONDS = JOB_SECONDS + 5
"""arq's own limit is final, so ours comes first."""


class Context(TypedDict):
    """What `worker.main` puts into arq's context, and arq adds a job at a time."""

    store: Store
    provisioner: Provisioner
    throttle: CleanupThrottle
    activity_probe: ActivityProbe
    settings: Settings
    job_id: str
    job_try: int


async def provision(context: dict[Any, Any], sandbox_id: str, incarnation: str, attempt: int) -> None:
    ctx = cast(Context, context)
    await _run(ctx, sandbox_id, ctx["provisioner"].provision(sandbox_id, incarnation, attempt))


async def terminate(context: dict[Any, Any], sandbox_id: str, incarnation: str, attempt: int) -> None:
    ctx = cast(Context, context)
    await _run(ctx, sandbox_id, ctx["provisioner"].terminate(sandbox_id, incarnation, attempt))


async def probe_activity(context: dict[Any, Any], sandbox_id: str, incarnation: str, attempt: int) -> None:
    ctx = cast(Context, context)
    await _run(ctx, sandbox_id, ctx["activity_probe"].run(sandbox_id, incarnation, attempt))


async def sweep(context: dict[Any, Any]) -> None:
    """What it does not get to, for Redis being away, the next one does."""
    ctx = cast(Context, context)
    with logs.log_context(job_id=ctx["job_id"]):
        try:
            await sweep_once(ctx["store"], ctx["throttle"], ctx["settings"])
        except StoreUnavailable as error:
            log.warning("sweep ended early", error=str(error))


async def _run(context: Context, sandbox_id: str, work: Awaitable[None]) -> None:
    function = context["job_id"].partition(":")[0]
    with logs.log_context(sandbox_id=sandbox_id, job_id=context["job_id"]), _counted(function):
        try:
            async with asyncio.timeout(JOB_SECONDS):
                await work
        except (CleanupPending, ClusterNotSynced):
            raise _again(context["store"], retry.backoff_seconds(context["job_try"])) from None
        except (KubernetesError, StoreUnavailable, TimeoutError) as error:
            retry_after = error.retry_after if isinstance(error, KubernetesError) else None
            seconds = retry.backoff_seconds(context["job_try"], retry_after)
            log.warning("job will be tried again", error=str(error) or type(error).__name__, seconds=round(seconds, 2))
            raise _again(context["store"], seconds) from None


@contextlib.contextmanager
def _counted(function: str) -> Iterator[None]:
    outcome = "failed"
    try:
        with metrics.JOB_SECONDS.labels(function).time():
            yield
        outcome = "done"
    except (Retry, asyncio.CancelledError):  # at the worker's end, arq lets another one run it
        outcome = "retried"
        raise
    finally:
        metrics.JOBS.labels(function, outcome).inc()


def _again(store: Store, seconds: float) -> Retry:
    """arq counts from its host's clock, the queue goes by Redis'."""
    return Retry(max(0.001, seconds + store.now() - time.time()))
