"""Clients that want something of a system whatever happens to it, and one that looks whether it ever lies to them."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from tests.system.conftest import SECONDS, System

AGAIN_SECONDS = 0.1
LOOK_SECONDS = 0.005
"""Between two looks of the watcher: two hundred a second at most, of all accepted sandboxes in turn."""


@dataclass(slots=True)
class Known:
    """What was last seen of a sandbox that was accepted and whose delete has not begun."""

    generation: int = 0
    status: str = ""


class Load:
    """Use it as an async context manager: it watches until the end. `may_fail`: a Failed sandbox is no lie here."""

    def __init__(self, system: System, *, may_fail: bool = False, seed: int = 1) -> None:
        self.lies: list[str] = []
        self.refusals: Counter[str] = Counter()
        """Codes of the problems that the watcher was answered instead of a sandbox."""
        self._system = system
        self._may_fail = may_fail
        self._random = random.Random(seed)
        self._known: dict[str, Known] = {}

    @property
    def wanted(self) -> set[str]:
        """Ids that were accepted and whose delete has not begun."""
        return set(self._known)

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(headers={"X-API-Key": self._system.stack.key}, timeout=30)
        self._watcher = asyncio.create_task(self._watch(), name="watcher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        with suppress(asyncio.CancelledError):
            await self._watcher  # it ends by itself only when it is at fault, which is then raised
        await self._client.aclose()

    async def create(self, sandbox_id: str, **fields: Any) -> None:
        """Until it is accepted: whoever does not know what became of a request sends it again."""
        response = await self._insist("POST", "/api/sandboxes", json={"sandbox_id": sandbox_id, **fields})
        assert response.status_code in {200, 202}, response.text
        self._known.setdefault(sandbox_id, Known())

    async def delete(self, sandbox_id: str) -> None:
        self._known.pop(sandbox_id, None)
        response = await self._insist("DELETE", f"/api/sandboxes/{sandbox_id}")
        assert response.status_code == 200, response.text

    async def churn(self, thirds: int, rate: float, name: str = "load") -> None:
        """`rate` sandboxes a second, `thirds` of each kind: one stays, one is deleted, one is deleted and comes back.

        That is four creates and two deletes for each third; the deletes come within a few seconds of the creates.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(3 * thirds):
                group.create_task(self._live(f"{name}-{number}", number % 3))
                await asyncio.sleep(1 / rate)

    async def _live(self, sandbox_id: str, kind: int) -> None:
        await self.create(sandbox_id)
        if kind:
            await asyncio.sleep(self._random.uniform(0, 3))
            await self.delete(sandbox_id)
        if kind == 2:
            await self.create(sandbox_id)

    async def _insist(self, method: str, path: str, **content: Any) -> httpx.Response:
        async with asyncio.timeout(SECONDS):
            while True:
                with suppress(httpx.TransportError):
                    response = await self._ask(method, path, **content)
                    if response.status_code < 500 and response.status_code != 429:
                        return response
                await asyncio.sleep(AGAIN_SECONDS)

    async def _ask(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Of any API process; of another one where the first cannot be reached."""
        *others, last = self._random.sample(self._system.stack.urls, len(self._system.stack.urls))
        for url in others:
            with suppress(httpx.ConnectError):
                return await self._client.request(method, url + path, **content)
        return await self._client.request(method, last + path, **content)

    async def _watch(self) -> None:
        while True:
            for sandbox_id in self.wanted:
                await self._look(sandbox_id)
                await asyncio.sleep(LOOK_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, sandbox_id: str) -> None:
        known = self._known.get(sandbox_id)
        try:
            response = await self._ask("GET", f"/api/sandboxes/{sandbox_id}")
        except httpx.TransportError:
            return
        if known is None or self._known.get(sandbox_id) is not known:
            return  # a delete has begun by now
        if response.status_code == 404:
            self.lies.append(f"{sandbox_id}: 404 {response.text}")
        elif response.status_code == 200:
            self._compare(sandbox_id, known, response.json())
        else:
            self.refusals[response.json()["code"]] += 1

    def _compare(self, sandbox_id: str, known: Known, answer: dict[str, Any]) -> None:
        generation, status = answer["generation"], answer["status"]
        if generation < known.generation:
            self.lies.append(f"{sandbox_id}: generation {generation} after {known.generation}")
        if generation == known.generation and known.status == "Running" and status == "Pending":
            self.lies.append(f"{sandbox_id}: Pending after Running in generation {generation}")
        if status == "Failed" and not self._may_fail:
            self.lies.append(f"{sandbox_id}: Failed, {answer['reason']} {answer['message']}")
        known.generation, known.status = generation, status
