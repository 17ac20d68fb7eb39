"""Clients that create and delete sandboxes whatever happens to the system, and a watcher that checks every answer."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from tests.system.conftest import SECONDS, System

RETRY_SECONDS = 0.1
READ_SECONDS = 0.005
"""Pause between two reads of the watcher. It reads all accepted sandboxes in turn, at most two hundred a second."""


@dataclass(slots=True)
class LastRead:
    """Last answer for a sandbox that was accepted and that no client has deleted since."""

    generation: int = 0
    status: str = ""


class Load:
    """Sends requests until they are answered, and watches the answers. To be used as an async context manager.

    `lies` holds a line for each answer that cannot be true. With `may_fail`, "Failed" can be true.
    """

    def __init__(self, system: System, *, may_fail: bool = False, seed: int = 1) -> None:
        self.lies: list[str] = []
        self.refusals: Counter[str] = Counter()
        """Codes of the problems that the watcher got instead of a sandbox."""
        self._system = system
        self._may_fail = may_fail
        self._random = random.Random(seed)
        self._last_reads: dict[str, LastRead] = {}

    @property
    def expected(self) -> set[str]:
        """Ids that were accepted and that no client has begun to delete."""
        return set(self._last_reads)

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(headers={"X-API-Key": self._system.stack.key}, timeout=30)
        self._watcher = asyncio.create_task(self._watch(), name="watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        with suppress(asyncio.CancelledError):
            await self._watcher  # raises the watcher's own error, if there was one
        await self._client.aclose()

    async def create(self, sandbox_id: str, **fields: Any) -> None:
        """Repeat the request until it is accepted, as a client does that cannot know whether a request arrived."""
        response = await self._retry("POST", "/api/sandboxes", json={"sandbox_id": sandbox_id, **fields})
        assert response.status_code in {200, 202}, response.text
        self._last_reads.setdefault(sandbox_id, LastRead())

    async def delete(self, sandbox_id: str) -> None:
        self._last_reads.pop(sandbox_id, None)
        response = await self._retry("DELETE", f"/api/sandboxes/{sandbox_id}")
        assert response.status_code == 200, response.text

    async def churn(self, thirds: int, rate: float, name: str = "load") -> None:
        """Start `rate` sandboxes a second, `thirds` of each kind: one stays, one is deleted, one is created again.

        Each third has four creates and two deletes. A delete follows its create within three seconds.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(3 * thirds):
                group.create_task(self._run_sandbox(f"{name}-{number}", number % 3))
                await asyncio.sleep(1 / rate)

    async def _run_sandbox(self, sandbox_id: str, kind: int) -> None:
        await self.create(sandbox_id)
        if kind:
            await asyncio.sleep(self._random.uniform(0, 3))
            await self.delete(sandbox_id)
        if kind == 2:
            await self.create(sandbox_id)

    async def _retry(self, method: str, path: str, **content: Any) -> httpx.Response:
        async with asyncio.timeout(SECONDS):
            while True:
                with suppress(httpx.TransportError):
                    response = await self._request(method, path, **content)
                    if response.status_code < 500 and response.status_code != 429:
                        return response
                await asyncio.sleep(RETRY_SECONDS)

    async def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Ask a random API process, or another one if there is no connection to the first."""
        *others, last = self._random.sample(self._system.stack.urls, len(self._system.stack.urls))
        for url in others:
            with suppress(httpx.ConnectError):
                return await self._client.request(method, url + path, **content)
        return await self._client.request(method, last + path, **content)

    async def _watch(self) -> None:
        while True:
            for sandbox_id in self.expected:
                await self._check(sandbox_id)
                await asyncio.sleep(READ_SECONDS)
            await asyncio.sleep(READ_SECONDS)

    async def _check(self, sandbox_id: str) -> None:
        last_read = self._last_reads.get(sandbox_id)
        try:
            response = await self._request("GET", f"/api/sandboxes/{sandbox_id}")
        except httpx.TransportError:
            return
        if last_read is None or self._last_reads.get(sandbox_id) is not last_read:
            return  # a delete has begun meanwhile
        if response.status_code == 404:
            self.lies.append(f"{sandbox_id}: 404 {response.text}")
        elif response.status_code == 200:
            self._compare(sandbox_id, last_read, response.json())
        else:
            self.refusals[response.json()["code"]] += 1

    def _compare(self, sandbox_id: str, last_read: LastRead, body: dict[str, Any]) -> None:
        generation, status = body["generation"], body["status"]
        if generation < last_read.generation:
            self.lies.append(f"{sandbox_id}: generation {generation} after {last_read.generation}")
        if generation == last_read.generation and last_read.status == "Running" and status == "Pending":
            self.lies.append(f"{sandbox_id}: Pending after Running in generation {generation}")
        if status == "Failed" and not self._may_fail:
            self.lies.append(f"{sandbox_id}: Failed, {body['reason']} {body['message']}")
        last_read.generation, last_read.status = generation, status
