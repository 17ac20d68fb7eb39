import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from deploy.local.emulator.base.options import Options
from deploy.local.emulator.client import Client
from deploy.local.emulator.runner import run

_numbers = itertools.count(1)

Start = Callable[..., Awaitable[Client]]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Use the event loop of the command."""
    return ("asyncio", {"use_uvloop": True})


def _node_address() -> str:
    """Return an address for one emulator. Two emulators on one address would share node ports."""
    process = os.getpid()
    return f"127.{64 + process % 64}.{(process >> 6) % 256}.{next(_numbers) % 250 + 1}"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Return a function that starts an emulator with these options, by default quick ones."""
    async with AsyncExitStack() as stack:

        async def start_emulator(**options: Any) -> Client:
            quick = {"start_seconds": 0.01, "ready_seconds": 0.01, "termination_seconds": 0.03, "garbage_seconds": 0.02}
            emulator = await stack.enter_async_context(
                run(Options(**{"node_address": _node_address(), "seed": 7, **quick, **options}))
            )
            client = Client(emulator.url, emulator.cluster.token)
            return await stack.enter_async_context(client)

        yield start_emulator


@pytest.fixture
async def client(start: Start) -> Client:
    return await start()


@pytest.fixture
def pod() -> Callable[..., dict[str, Any]]:
    """Return a function that builds a valid Pod. Keywords replace parts of its spec."""

    def make(name: str = "p", labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
        container = {
            "name": "sandbox",
            "image": "sandbox:1",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": {"path": "/v1/sandbox", "port": 8080}, "periodSeconds": 1},
        }
        metadata = {"name": name, "labels": labels or {"app": "sandbox", "sandbox-id": name}}
        return {"metadata": metadata, "spec": {"containers": [container], **spec}}

    return make


@pytest.fixture
def service() -> Callable[..., dict[str, Any]]:
    """Return a function that builds a NodePort Service for the Pod of that name. Keywords replace parts of its spec."""

    def make(name: str = "p", **spec: Any) -> dict[str, Any]:
        ports = [{"name": "http", "port": 8080, "targetPort": 8080}]
        defaults = {"type": "NodePort", "selector": {"sandbox-id": name}, "ports": ports}
        return {"metadata": {"name": name}, "spec": {**defaults, **spec}}

    return make
