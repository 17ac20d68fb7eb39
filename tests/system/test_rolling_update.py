"""A rolling update: every process is replaced, one after the other, while clients send requests."""

import asyncio
import random
import signal
from typing import Any, Self

import httpx
import pytest

from tests.system.conftest import LIMITS, Start, System
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio


class Balancer:
    """Sends each request to a ready process, as a Kubernetes Service does. Every error counts; nothing is repeated."""

    def __init__(self, system: System) -> None:
        self.ready = list(system.stack.urls)
        self.failures: list[str] = []
        self.response_count = 0
        self._random = random.Random(1)
        self._client = httpx.AsyncClient(headers={"X-API-Key": system.stack.key}, timeout=30, limits=LIMITS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def request(self, method: str, path: str, **content: Any) -> None:
        url = self._random.choice(self.ready)
        try:
            response = await self._client.request(method, url + path, **content)
        except httpx.TransportError as error:
            self.failures.append(f"{method} {path}: {error!r}")
            return
        self.response_count += 1
        if response.status_code >= 400:
            self.failures.append(f"{method} {path}: {response.status_code} {response.text}")


async def test_rolling_update_of_all_processes_fails_no_request_and_loses_no_sandbox(start: Start):
    system = await start(workers=2, apis=2)
    expected: set[str] = set()
    end = asyncio.Event()
    async with Balancer(system) as balancer:

        async def run_client(name: str) -> None:
            """Create and read sandboxes, and delete three of four, without a pause."""
            number = 0
            while not end.is_set():
                sandbox_id, number = f"{name}-{number}", number + 1
                await balancer.request("POST", "/api/sandboxes", json={"sandbox_id": sandbox_id})
                expected.add(sandbox_id)
                for _ in range(10):
                    await balancer.request("GET", f"/api/sandboxes/{sandbox_id}", headers={"Prefer": "wait=1"})
                if number % 4:
                    expected.discard(sandbox_id)
                    await balancer.request("DELETE", f"/api/sandboxes/{sandbox_id}")

        async with asyncio.TaskGroup() as group:
            for client in range(5):
                group.create_task(run_client(f"client-{client}"))
            for number, url in enumerate(system.stack.urls):
                await _replace_api(system, balancer, number, url)
            for worker in list(system.stack.workers):
                await system.stack.start_worker()
                worker.signal(signal.SIGTERM)
                assert await worker.wait() == 0
            end.set()
    assert balancer.failures == []
    assert balancer.response_count > 100
    await at_rest(system, expected)


async def _replace_api(system: System, balancer: Balancer, number: int, url: str) -> None:
    """Send no new requests to the process, let it finish those under way, and start another in its place."""
    balancer.ready.remove(url)
    await _until_requests_are_read(url)
    process = system.stack.apis[number]
    process.signal(signal.SIGTERM)
    assert await process.wait() == 0
    await system.stack.restart_api(number)
    balancer.ready.append(url)


async def _until_requests_are_read(url: str) -> None:
    """Wait until the process has read all requests that were sent before, as a Pod does in its preStop hook.

    A process that stops closes each connection on which it has read no request. The process reads the sockets of older
    requests before it answers newer ones.
    """
    for _ in range(2):
        async with httpx.AsyncClient() as probe:
            (await probe.get(f"{url}/health")).raise_for_status()
