"""A worker's health and metrics over HTTP, without a key."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

import msgspec
import structlog
from aiohttp import web

from shared import metrics
from shared.errors import StoreUnavailable
from shared.liveness.readiness import missing as missing_parts
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.settings import Settings

log = structlog.get_logger()

READY_SECONDS = 5.0
"""A worker whose last look at the queue is older is not ready. Ten looks fit into that time."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Health(NamedTuple):
    """The sources of the health endpoints. `seconds_since_fetch` is the age of the last look at the queue."""

    seconds_since_fetch: Callable[[], float]
    workers: WorkerRegistry
    sync: ClusterSync

    async def missing_here(self) -> list[str]:
        """Return what keeps this worker from being ready, one sentence each."""
        if self.seconds_since_fetch() <= READY_SECONDS:
            return []
        return ["This worker does not fetch jobs. It is starting or stopping, or Redis does not answer."]

    async def missing_in_system(self) -> list[str]:
        """Return what the whole system lacks, one sentence each."""
        try:
            return await missing_parts(self.workers, self.sync, time.time())
        except StoreUnavailable as error:
            return [error.detail]


@contextlib.asynccontextmanager
async def serving(health: Health, settings: Settings) -> AsyncIterator[None]:
    """Serve health and metrics. If the port is in use, log a warning and continue without them."""
    if not settings.worker_metrics_port:
        yield
        return
    runner = web.AppRunner(_app(health), access_log=None)
    await runner.setup()
    try:
        await _listen(web.TCPSite(runner, settings.worker_metrics_host, settings.worker_metrics_port))
        yield
    finally:
        await runner.cleanup()


async def _listen(site: web.TCPSite) -> None:
    try:
        await site.start()
    except OSError as error:
        advice = "give each worker of a host its own WORKER_METRICS_PORT, or 0 for none"
        log.warning("health and metrics not served", error=str(error), advice=advice)


def _app(health: Health) -> web.Application:
    app = web.Application()
    app.add_routes(
        [
            web.get("/health", _health),
            web.get("/health/ready", _handler(health.missing_here)),
            web.get("/health/system", _handler(health.missing_in_system)),
            web.get("/metrics", _metrics),
        ]
    )
    return app


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _handler(check: Callable[[], Awaitable[list[str]]]) -> Handler:
    """Return a handler that answers 200, or 503 with the sentences of `check`."""

    async def handle(_: web.Request) -> web.StreamResponse:
        missing = await check()
        body = {"status": "not ready", "missing": missing} if missing else {"status": "ok"}
        return web.json_response(body, status=503 if missing else 200, dumps=_dumps)

    return handle


def _dumps(body: object) -> str:
    return msgspec.json.encode(body).decode()
