"""Wiring of the API: from settings and a store to an ASGI application."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import litestar_offline_docs
from litestar import Litestar, Router
from litestar.static_files import create_static_files_router
from litestar.types import ASGIApp

from api.health import metrics, probes
from api.http import openapi
from api.http.problems import HANDLERS
from api.middleware.access import access_middleware
from api.middleware.request_metrics import request_metrics_middleware
from api.sandboxes import history, keepalive, routes
from api.state.app_state import AppState
from api.state.notifier import RecordNotifier
from api.state.rate_limiter import RateLimiter
from api.state.sync_gate import SyncGate
from api.state.usage import UsageTracker
from shared import logs
from shared import metrics as process_metrics
from shared.errors import StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import Settings, read_settings
from shared.store.store import Store

SCRIPTS = Path(litestar_offline_docs.__file__).parent / "static"
"""Scripts of the OpenAPI page, from a package that contains nothing else."""
START_SECONDS = 5.0
"""Limit for Redis at the start. If Redis is down or hangs, the API starts without it, and `/health` answers."""
MAX_BODY_BYTES = 64 * 1024
"""Limit for a request body. A create with ten mounts has about 2 KiB."""


def application() -> ASGIApp:
    """Return the application for `uvicorn --factory api.app:application`, with settings from the environment.

    Raises:
        InvalidSettings: the environment breaks a rule; the error names the setting.
    """
    return request_metrics_middleware(create_app(read_settings(os.environ)))


def create_app(settings: Settings, store: Store | None = None) -> Litestar:
    """Return the application. Without a `store`, its lifespan opens one at `REDIS_URL`, and closes it."""
    logs.configure(settings, "api")
    process_metrics.prepare("api")

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with _services(settings, store) as app.state.services:
            yield

    api = Router(
        "/api",
        middleware=[access_middleware(settings)],
        route_handlers=[
            probes.capabilities,
            routes.create,
            routes.list_live,
            routes.read,
            history.read,
            routes.destroy,
            keepalive.keep_alive,
        ],
    )
    scripts = create_static_files_router(openapi.STATIC, directories=[SCRIPTS], include_in_schema=False)
    return Litestar(
        [probes.health, probes.ready, probes.system, metrics.scrape, api, scripts],
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=openapi.config(),
        request_max_body_size=MAX_BODY_BYTES,
    )


@asynccontextmanager
async def _services(settings: Settings, open_store: Store | None) -> AsyncIterator[AppState]:
    async with AsyncExitStack() as stack:
        store = open_store if open_store is not None else await stack.enter_async_context(_store(settings))
        workers = WorkerRegistry(store.redis, store.now)
        sync = ClusterSync(store.redis, store.now, settings.cluster_name)
        sync_gate = SyncGate(workers, sync, has_waited=open_store is not None)
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await store.set_clock()
                if open_store is None:
                    await sync_gate.wait_for_workers()
        notifier, usage = RecordNotifier(store), UsageTracker(store)
        for running in (sync_gate.running(), notifier.running(), usage.running()):
            await stack.enter_async_context(running)
        rate_limiter = RateLimiter(store.redis, store.now, settings.rate_limit_per_second, settings.rate_limit_burst)
        yield AppState(settings, store, notifier, workers, sync, sync_gate, rate_limiter, usage)


@asynccontextmanager
async def _store(settings: Settings) -> AsyncIterator[Store]:
    async with connect(settings, FAIL_FAST) as redis:
        yield Store(redis)
