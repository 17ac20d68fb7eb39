"""The API as its callers meet it: over HTTP, within its lifespan, on a Redis that is empty at first."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from msgspec.structs import replace

from api.app import create_app
from shared.sandbox.record import Sandbox, Status
from shared.settings import read_settings
from shared.store.store import Store
from shared.store.update import Update
from tests.conftest import Clock

KEY = "the-key"

Serve = Callable[..., Awaitable[httpx.AsyncClient]]
Evolve = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
def store(fake_redis: FakeAsyncRedis, clock: Clock) -> Store:
    return Store(fake_redis, clock)


@pytest.fixture
async def serve(store: Store) -> AsyncIterator[Serve]:
    """Starts an API with these settings, and gives a client of it, which has the key unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def start(
            on: Store | None = None, headers: dict[str, Any] | None = None, **environment: str
        ) -> httpx.AsyncClient:
            settings = read_settings({"PROVISIONER_API_KEY": KEY, **environment})
            app = create_app(settings, on or store)
            await stack.enter_async_context(app.lifespan())
            client = httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://provisioner",
                headers={"X-API-Key": KEY} if headers is None else headers,
            )
            return await stack.enter_async_context(client)

        yield start


@pytest.fixture
async def api(serve: Serve) -> httpx.AsyncClient:
    return await serve()


@pytest.fixture
def evolve(store: Store) -> Evolve:
    """Writes what the worker would: these fields of a sandbox' record."""

    async def write(sandbox_id: str, **fields: Any) -> Sandbox:
        outcome = await store.create_or_update(sandbox_id, lambda r: Update(replace(r, **fields)) if r else None)
        assert outcome.record is not None
        return outcome.record

    return write


@pytest.fixture
def running(api: httpx.AsyncClient, evolve: Evolve) -> Evolve:
    """Makes a sandbox that runs, at `http://10.0.0.7:30123`."""

    async def make(sandbox_id: str) -> Sandbox:
        await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        return await evolve(sandbox_id, status=Status.RUNNING, ready=True, url="http://10.0.0.7:30123")

    return make
