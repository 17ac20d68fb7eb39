"""The API's only wiring: settings and store in, an ASGI application out."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig

from api import probes, sandboxes
from api.auth import key_guard
from api.problems import HANDLERS
from shared import logs
from shared.connection import PROMPT, connect
from shared.settings import Settings, read_settings
from shared.store import Store

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
    opened: list[Store] = [store] if store else []

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        if store:
            yield
            return
        redis = connect(settings, PROMPT)
        opened.append(Store(redis))
        try:
            yield
        finally:
            opened.clear()
            await redis.aclose()

    api = Router(
        "/api",
        guards=[key_guard(settings)],
        route_handlers=[
            probes.capabilities,
            sandboxes.create,
            sandboxes.list_live,
            sandboxes.read,
            sandboxes.destroy,
        ],
    )
    return Litestar(
        [probes.health, api],
        dependencies={
            "settings": Provide(lambda: settings, use_cache=True, sync_to_thread=False),
            "store": Provide(lambda: opened[0], sync_to_thread=False),
        },
        exception_handlers=HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        openapi_config=OpenAPIConfig(title="DeerFlow Sandbox Provisioner", version="1"),
        request_max_body_size=MAX_BODY_BYTES,
    )
