"""What a worker answers over HTTP, without a key: whether it lives, whether it is ready, and what it has counted."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

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


@contextlib.asynccontextmanager
async def serving(workers: WorkerRegistry, sync: ClusterSync, settings: Settings) -> AsyncIterator[None]:
    """Nobody's sandbox depends on it: a port that is taken, as by another worker of this host, is said and borne."""
    if not settings.worker_metrics_port:
        yield
        return
    runner = web.AppRunner(_app(workers, sync), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, settings.worker_metrics_host, settings.worker_metrics_port)
    try:
        try:
            await site.start()
        except OSError as error:
            advice = "give each worker of a host its own WORKER_METRICS_PORT, or 0 for none"
            log.warning("not serving health and metrics", error=str(error), advice=advice)
        yield
    finally:
        await runner.cleanup()


def _app(workers: WorkerRegistry, sync: ClusterSync) -> web.Application:
    app = web.Application()
    app.add_routes(
        [web.get("/health", _health), web.get("/health/ready", _ready(workers, sync)), web.get("/metrics", _metrics)]
    )
    return app


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})


def _ready(workers: WorkerRegistry, sync: ClusterSync) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def ready(_: web.Request) -> web.StreamResponse:
        """200, or 503 and what is missing."""
        try:
            missing = await missing_parts(workers, sync, time.time())
        except StoreUnavailable as error:
            missing = [error.detail]
        body = {"status": "not ready", "missing": missing} if missing else {"status": "ok"}
        return web.json_response(body, status=503 if missing else 200, dumps=lambda b: msgspec.json.encode(b).decode())

    return ready
