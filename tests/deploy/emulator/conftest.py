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
    """On the event loop the command runs on."""
    return ("asyncio", {"use_uvloop": True})


def _node_address() -> str:
    """One for each emulator, whichever process runs it: the node ports of two never meet."""
    process = os.getpid()
    return f"127.{64 + process % 64}.{(process >> 6) % 256}.{next(_numbers) % 250 + 1}"


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts an emulator with the options given, quick ones by default; ends all it started."""
    async with AsyncExitStack() as stack:

        async def begin(**options: Any) -> Client:
            quick = {"start_seconds": 0.01, "ready_seconds": 0.01, "termination_seconds": 0.03, "garbage_seconds": 0.02}
            running = await stack.enter_async_context(
                run(Options(**{"node_address": _node_address(), "seed": 7, **quick, **options}))
            )
            client = Client(running.url, running.cluster.token)
            return await stack.enter_async_context(client)

        yield begin


@pytest.fixture
async def client(start: Start) -> Client:
    return await start()


@pytest.fixture
def pod() -> Callable[..., dict[str, Any]]:
    """Makes a Pod that is well; keywords replace parts of its spec, `labels` its labels."""

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
    """Makes a NodePort Service for the Pod of the same name; keywords replace parts of its spec."""

    def make(name: str = "p", **spec: Any) -> dict[str, Any]:
        ports = [{"name": "http", "port": 8080, "targetPort": 8080}]
        given = {"type": "NodePort", "selector": {"sandbox-id": name}, "ports": ports, **spec}
        return {"metadata": {"name": name}, "spec": given}

    return make
