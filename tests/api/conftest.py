"""The API as callers meet it: over HTTP, inside its lifespan, on a Redis that is empty at first."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from msgspec.structs import replace

from api.app import create_app
from api.state.app_state import AppState, state_of
from shared.sandbox.record import Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, provisioned
from shared.settings import read_settings
from shared.store.store import Store
from tests.conftest import Clock

KEY = "the-key"
URL = "http://10.0.0.7:30123"


class Api(httpx.AsyncClient):
    """A client of an ASGI application in this process. The client has the key unless `headers` are given."""

    def __init__(self, app: Any, headers: dict[str, Any] | None = None) -> None:
        headers = {"X-API-Key": KEY} if headers is None else headers
        super().__init__(transport=httpx.ASGITransport(app), base_url="http://provisioner", headers=headers)
        self.app = app

    @property
    def state(self) -> AppState:
        """The services of the API, if the application is an API in its lifespan."""
        return state_of(self.app)

    def waiting(self) -> dict[str, int]:
        """Return the number of waiting requests of each sandbox."""
        return self.state.notifier.waiting()


Serve = Callable[..., Awaitable[Api]]
Evolve = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
def store(fake_redis: FakeAsyncRedis, clock: Clock) -> Store:
    return Store(fake_redis, clock)


@pytest.fixture
async def serve(store: Store) -> AsyncIterator[Serve]:
    """Start an API with these settings, and return a client with its key, or with other `headers`."""
    async with AsyncExitStack() as stack:

        async def start(on: Store | None = None, headers: dict[str, Any] | None = None, **environment: str) -> Api:
            app = create_app(read_settings({"PROVISIONER_API_KEY": KEY, **environment}), on or store)
            await stack.enter_async_context(app.lifespan())
            return await stack.enter_async_context(Api(app, headers))

        yield start


@pytest.fixture
async def api(serve: Serve) -> Api:
    return await serve()


async def update_record(store: Store, sandbox_id: str, mutate: Callable[[Sandbox], Sandbox]) -> Sandbox:
    """Write the next record of an existing sandbox, and return it as stored."""
    result = await store.update(sandbox_id, mutate)
    assert result.record is not None
    return result.record


async def provision(store: Store, sandbox_id: str, **fields: Any) -> Sandbox:
    """Write Pod, Service and URL into a record as the worker does, and these fields."""

    def mutate(record: Sandbox) -> Sandbox:
        objects = ProvisionedObjects(f"sandbox-{record.id}", "uid", "service", record.url or URL)
        return replace(provisioned(record, objects, now=store.now()), **fields)

    return await update_record(store, sandbox_id, mutate)


@pytest.fixture
def evolve(store: Store) -> Evolve:
    """Write these fields of a record, as a worker would."""

    async def write(sandbox_id: str, **fields: Any) -> Sandbox:
        return await update_record(store, sandbox_id, lambda record: replace(record, **fields))

    return write


@pytest.fixture
def running(api: Api, evolve: Evolve) -> Evolve:
    """Create a sandbox that runs at URL."""

    async def make(sandbox_id: str) -> Sandbox:
        await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        return await evolve(sandbox_id, status=Status.RUNNING, ready=True, url=URL)

    return make
