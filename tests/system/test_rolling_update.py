"""Every process is replaced, one after the other, while clients go on: nobody notices."""

import asyncio
import random
import signal
from typing import Self

import httpx
import pytest

from tests.system.conftest import System
from tests.system.rest import at_rest

pytestmark = pytest.mark.anyio


class Balancer:
    """What a Kubernetes Service does: sends each request to a process that is ready. It forgives nothing."""

    def __init__(self, system: System) -> None:
        self.ready = list(system.stack.urls)
        self.failed: list[str] = []
        self.answered = 0
        self._random = random.Random(1)
        self._client = httpx.AsyncClient(headers={"X-API-Key": system.stack.key}, timeout=30)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def ask(self, method: str, path: str, **content: object) -> None:
        url = self._random.choice(self.ready)
        try:
            response = await self._client.request(method, url + path, **content)  # type: ignore[arg-type]
        except httpx.TransportError as error:
            self.failed.append(f"{method} {path}: {error!r}")
            return
        self.answered += 1
        if response.status_code >= 400:
            self.failed.append(f"{method} {path}: {response.status_code} {response.text}")


async def test_a_rolling_update_of_all_processes_fails_no_request_and_loses_nothing(start):
    system = await start(workers=2, apis=2)
    wanted: set[str] = set()
    over = asyncio.Event()
    async with Balancer(system) as balancer:

        async def use(name: str) -> None:
            """Creates, reads, and deletes three of four, without a pause."""
            number = 0
            while not over.is_set():
                sandbox_id, number = f"{name}-{number}", number + 1
                await balancer.ask("POST", "/api/sandboxes", json={"sandbox_id": sandbox_id})
                wanted.add(sandbox_id)
                for _ in range(10):
                    await balancer.ask("GET", f"/api/sandboxes/{sandbox_id}", headers={"Prefer": "wait=1"})
                if number % 4:
                    wanted.discard(sandbox_id)
                    await balancer.ask("DELETE", f"/api/sandboxes/{sandbox_id}")

        async with asyncio.TaskGroup() as group:
            for client in range(5):
                group.create_task(use(f"client-{client}"))
            for number, url in enumerate(system.stack.urls):
                await _replace_api(system, balancer, number, url)
            for worker in list(system.stack.workers):
                await system.stack.start_worker()
                worker.signal(signal.SIGTERM)
                assert await worker.wait() == 0
            over.set()
    assert balancer.failed == []
    assert balancer.answered > 100
    await at_rest(system, wanted)


async def _replace_api(system: System, balancer: Balancer, number: int, url: str) -> None:
    """No new requests, an orderly end of those under way, and a new process in its place."""
    balancer.ready.remove(url)
    process = system.stack.apis[number]
    process.signal(signal.SIGTERM)
    assert await process.wait() == 0
    await system.stack.restart_api(number)
    balancer.ready.append(url)
