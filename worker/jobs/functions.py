"""The functions that arq calls. Each one binds the log context, limits the time, and turns temporary errors into Retry.

arq treats any other exception as final, so no temporary error may leave this module.
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
from worker.jobs.activity_probe import ActivityProbe, TooManyProbes
from worker.jobs.cleanup_throttle import CleanupThrottle
from worker.jobs.provisioner import CleanupPending, ClusterNotSynced, Provisioner
from worker.jobs.sweep import sweep as sweep_once
from worker.kubernetes import retry
from worker.kubernetes.errors import KubernetesError

log = structlog.get_logger()

JOB_SECONDS = 45.0
"""Time limit of one try: at worst four calls to a Kubernetes that does not answer. The next try continues."""
ARQ_TIMEOUT_SECONDS = JOB_SECONDS + 5
"""arq's own time limit. A try that reaches it is final, so JOB_SECONDS ends each try first."""


class Context(TypedDict):
    """arq's context: the parts that `worker.main` opens, and the id and the try of this job."""

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
    """Begin a probe, which runs beside the jobs."""
    ctx = cast(Context, context)
    await _run(ctx, sandbox_id, _start_probe(ctx["activity_probe"], sandbox_id, incarnation, attempt))


async def _start_probe(probe: ActivityProbe, sandbox_id: str, incarnation: str, attempt: int) -> None:
    probe.start(sandbox_id, incarnation, attempt)


async def sweep(context: dict[Any, Any]) -> None:
    """Sweep once. If Redis does not answer, the next sweep does the rest."""
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
        except (CleanupPending, ClusterNotSynced, TooManyProbes):
            raise _retry_in(retry.backoff_seconds(context["job_try"]), context["store"]) from None
        except (KubernetesError, StoreUnavailable, TimeoutError) as error:
            retry_after = error.retry_after if isinstance(error, KubernetesError) else None
            seconds = retry.backoff_seconds(context["job_try"], retry_after)
            log.warning("job retries later", error=str(error) or type(error).__name__, seconds=round(seconds, 2))
            raise _retry_in(seconds, context["store"]) from None


@contextlib.contextmanager
def _counted(function: str) -> Iterator[None]:
    outcome = "failed"
    try:
        with metrics.JOB_SECONDS.labels(function).time():
            yield
        outcome = "done"
    except (Retry, asyncio.CancelledError):  # cancelled: this worker stops, and another one runs the job
        outcome = "retried"
        raise
    finally:
        metrics.JOBS.labels(function, outcome).inc()


def _retry_in(seconds: float, store: Store) -> Retry:
    """Return arq's Retry for `seconds` of Redis' time. arq adds the delay to its host's time, which may differ."""
    return Retry(max(0.001, seconds + store.now() - time.time()))
