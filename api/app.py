"""The API's only wiring: settings and store in, an ASGI application out."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import cast

import litestar_offline_docs
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.static_files import create_static_files_router

from api import histories, keepalive, metrics, openapi, probes, sandboxes
from api.auth import key_guard
from api.problems import HANDLERS
from api.rates import rate_guard
from api.uses import Uses
from api.waiting import Waiting
from shared import logs
from shared import metrics as counted
from shared.connection import PROMPT, connect
from shared.errors import StoreUnavailable
from shared.rates import Rates
from shared.settings import Settings, read_settings
from shared.store import Store
from shared.vitals import Completeness, Vitals

SCRIPTS = Path(litestar_offline_docs.__file__).parent / "static"
"""Of the browsable documentation, from a package that does nothing but bring them."""
MAX_BODY_BYTES = 64 * 1024
"""A create with ten mounts is about 2 KiB; what is larger is not one."""


def create_app(settings: Settings | None = None, store: Store | None = None) -> Litestar:
    """For `uvicorn --factory api.app:create_app`: settings come from the environment, the store from `REDIS_URL`.

    A `store` given from outside stays its giver's to close.

    Raises:
        InvalidSettings: the environment breaks a rule; it names the setting.
    """
    settings = settings or read_settings(os.environ)
    logs.configure(settings, "api")
    counted.prepare("api")

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.store = store or await stack.enter_async_context(_opened(settings))
            with suppress(StoreUnavailable):
                await app.state.store.set_clock()
            app.state.waiting = Waiting(app.state.store)
            app.state.vitals = Vitals(app.state.store.redis, app.state.store.now, settings.cluster_name)
            app.state.completeness = Completeness(app.state.vitals, is_settled=store is not None)
            if store is None:
                with suppress(StoreUnavailable):
                    await app.state.completeness.settle()
            await stack.enter_async_context(app.state.waiting.running())
            app.state.rates = Rates(
                app.state.store.redis,
                app.state.store.now,
                settings.rate_limit_per_second,
                settings.rate_limit_burst,
            )
            app.state.uses = Uses(app.state.store)
            await stack.enter_async_context(app.state.uses.running())
            yield

    api = Router(
        "/api",
        guards=[key_guard(settings), rate_guard(settings)],
        route_handlers=[
            probes.capabilities,
            sandboxes.create,
            sandboxes.list_live,
            sandboxes.read,
            histories.read,
            sandboxes.destroy,
            keepalive.keep_alive,
        ],
    )
    scripts = create_static_files_router(openapi.STATIC, directories=[SCRIPTS], include_in_schema=False)
    return Litestar(
        [probes.health, probes.ready, probes.serving, metrics.scrape, api, scripts],
        dependencies={
            "settings": Provide(lambda: settings, use_cache=True, sync_to_thread=False),
            "store": Provide(_store, sync_to_thread=False),
            "waiting": Provide(_waiting, sync_to_thread=False),
            "uses": Provide(_uses, sync_to_thread=False),
            "vitals": Provide(_vitals, sync_to_thread=False),
            "completeness": Provide(_completeness, sync_to_thread=False),
        },
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=openapi.config(),
        request_max_body_size=MAX_BODY_BYTES,
    )


def _store(state: State) -> Store:
    return cast(Store, state.store)


def _waiting(state: State) -> Waiting:
    return cast(Waiting, state.waiting)


def _uses(state: State) -> Uses:
    return cast(Uses, state.uses)


def _vitals(state: State) -> Vitals:
    return cast(Vitals, state.vitals)


def _completeness(state: State) -> Completeness:
    return cast(Completeness, state.completeness)


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Store]:
    async with connect(settings, PROMPT) as redis:
        yield Store(redis)
