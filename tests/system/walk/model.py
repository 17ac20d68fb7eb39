"""What clients have asked for, and what must be true of it when everything else has come to rest."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import httpx

from tests.system.conftest import SECONDS, System
from tests.system.load import Known, Load
from tests.system.rest import PAUSE_SECONDS, violations

LOST = ("Failed", "PodLost")
"""What a sandbox must say whose Pod was taken away. A create of its id then begins a new life."""


class Model(Load):
    """Of these `ids` and no others, so that they come back; one thing at a time is done to each."""

    def __init__(self, system: System, ids: list[str], *, seed: int = 1) -> None:
        super().__init__(system, seed=seed)
        self.ids = ids
        self.made = 0
        self.deleted = 0
        self.checked = 0
        """Answers that were compared with what was known."""
        self._lost: dict[str, set[int]] = {}
        self._busy: set[str] = set()

    async def create(self, sandbox_id: str, **fields: Any) -> None:
        """Also of one that is there, which makes no other."""
        self.made += sandbox_id not in self.wanted
        await super().create(sandbox_id, **fields)

    async def delete(self, sandbox_id: str) -> None:
        self.deleted += sandbox_id in self.wanted
        self._lost.pop(sandbox_id, None)
        await super().delete(sandbox_id)

    async def keep_alive(self, sandbox_id: str) -> None:
        """Once: what is there is kept, or says that it is over; whether that is true the watcher sees."""
        known = self._known.get(sandbox_id)
        with suppress(httpx.TransportError):
            response = await self._ask("POST", f"/api/sandboxes/{sandbox_id}/keepalive", json={"seconds": 600})
            is_there = known is not None and self._known.get(sandbox_id) is known
            if is_there and response.status_code == 404 and response.json()["status"] != LOST[0]:
                self.lies.append(f"{sandbox_id}: cannot be kept, {response.text}")

    def lose(self, sandbox_id: str, generation: int) -> None:
        """Before the Pod of this life, which its record knows, is taken away."""
        self._lost.setdefault(sandbox_id, set()).add(generation)

    @contextmanager
    def any_of(self, ids: set[str], random: Random) -> Iterator[str]:
        """One of these that nobody else is busy with, for as long as the block runs; empty: there is none."""
        free = sorted(ids - self._busy)
        chosen = random.choice(free) if free else ""
        self._busy.add(chosen)
        try:
            yield chosen
        finally:
            self._busy.discard(chosen)

    async def seen(self, sandbox_id: str) -> tuple[int, dict[str, Any]]:
        """What a client is told: the HTTP status, and the body. Nobody answers: 503."""
        with suppress(httpx.TransportError):
            response = await self._ask("GET", f"/api/sandboxes/{sandbox_id}")
            return response.status_code, response.json()
        return 503, {}

    async def is_well(self, sandbox_id: str) -> bool:
        """Whether a client finds it as it should be now: at its URL, told that it is lost, or gone."""
        status, body = await self.seen(sandbox_id)
        if sandbox_id not in self._known:
            return status == 404 and "Terminating" not in body.values()
        if status != 200 or self._is_lost(sandbox_id, body):
            return _tells_loss(body)
        return bool(body["status"] == "Running" and body["ready"] and await self._answers(body["sandbox_url"]))

    async def rest(self, random: Random) -> list[str]:
        """What is still not as it must be after SECONDS, and each lie that was told; nothing: all is well.

        Those that have lost their Pod must have said so by then, and are deleted or created anew.
        """
        found = await _last_of(self._untold)
        if not found:
            await self._follow_up(random)
            found = await _last_of(lambda: violations(self._system, self.wanted))
        return found + [f"a lie: {lie}" for lie in dict.fromkeys(self.lies)]

    async def empty(self, random: Random) -> list[str]:
        """Deletes all; returns as `rest` does."""
        for sandbox_id in self.wanted:
            await self.delete(sandbox_id)
        return await self.rest(random)

    async def _untold(self) -> list[str]:
        """Lives without a Pod that do not say so, or of which something is left in the cluster."""
        lines = []
        for sandbox_id in sorted(self._lost):
            status, body = await self.seen(sandbox_id)
            left = [*await self._system.pods(sandbox_id), *await self._system.services(sandbox_id)]
            if status != 200:
                lines.append(f"{sandbox_id}: {status} {body}")
            elif self._is_lost(sandbox_id, body) and (not _tells_loss(body) or left):
                names = [each.metadata.name for each in left]
                lines.append(f"{sandbox_id}: has lost its Pod; {body['status']} {body['reason']}, left {names}")
        return lines

    async def _follow_up(self, random: Random) -> None:
        for sandbox_id in sorted(self._lost):
            if not self._is_lost(sandbox_id, (await self.seen(sandbox_id))[1]):
                continue
            if random.random() < 0.5:
                await self.delete(sandbox_id)
            else:
                self.made += 1
                await self.create(sandbox_id)

    def _is_lost(self, sandbox_id: str, answer: dict[str, Any]) -> bool:
        return answer.get("generation") in self._lost.get(sandbox_id, ())

    def _compare(self, sandbox_id: str, known: Known, answer: dict[str, Any]) -> None:
        """A loss that is told is no lie; any other failure is one."""
        self.checked += 1
        if not (self._is_lost(sandbox_id, answer) and _tells_loss(answer)):
            super()._compare(sandbox_id, known, answer)

    async def _answers(self, url: str) -> bool:
        with suppress(httpx.TransportError):
            return (await self._client.get(f"{url}/v1/sandbox")).is_success
        return False


def _tells_loss(answer: dict[str, Any]) -> bool:
    return (answer.get("status"), answer.get("reason")) == LOST


async def _last_of(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Looks until there is nothing more to see, for SECONDS at most."""
    end = asyncio.get_running_loop().time() + SECONDS
    while (found := await look()) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(PAUSE_SECONDS)
    return found
