"""The API's only wiring: settings and store in, an ASGI application out."""

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
from shared import metrics as counted
from shared.errors import StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import Settings, read_settings
from shared.store.store import Store

SCRIPTS = Path(litestar_offline_docs.__file__).parent / "static"
"""Of the browsable documentation, from a package that does nothing but bring them."""
START_SECONDS = 5.0
"""A Redis that is away, or hangs, keeps nobody from asking whether this process lives: what is missing is made up for
when it answers."""
MAX_BODY_BYTES = 64 * 1024
"""A create with ten mounts is about 2 KiB; what is larger is not one."""


def application() -> ASGIApp:
    """For `uvicorn --factory api.app:application`: settings come from the environment, and what it answers is counted.

    Raises:
        InvalidSettings: the environment breaks a rule; it names the setting.
    """
    return request_metrics_middleware(create_app(read_settings(os.environ)))


def create_app(settings: Settings, store: Store | None = None) -> Litestar:
    """A `store` given from outside stays its giver's to close; or else it is opened at `REDIS_URL`."""
    logs.configure(settings, "api")
    counted.prepare("api")

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with _parts(settings, store) as app.state.parts:
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
        [probes.health, probes.ready, probes.serving, metrics.scrape, api, scripts],
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=openapi.config(),
        request_max_body_size=MAX_BODY_BYTES,
    )


@asynccontextmanager
async def _parts(settings: Settings, given: Store | None) -> AsyncIterator[AppState]:
    async with AsyncExitStack() as stack:
        store = given if given is not None else await stack.enter_async_context(_opened(settings))
        workers = WorkerRegistry(store.redis, store.now)
        sync = ClusterSync(store.redis, store.now, settings.cluster_name)
        sync_gate = SyncGate(workers, sync, is_settled=given is not None)
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await store.set_clock()
                if given is None:
                    await sync_gate.wait_for_workers()
        notifier, usage = RecordNotifier(store), UsageTracker(store)
        await stack.enter_async_context(notifier.running())
        await stack.enter_async_context(usage.running())
        rate_limiter = RateLimiter(store.redis, store.now, settings.rate_limit_per_second, settings.rate_limit_burst)
        yield AppState(settings, store, notifier, workers, sync, sync_gate, rate_limiter, usage)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    async with connect(settings, FAIL_FAST) as redis:
        yield Store(redis)
