"""Model of what clients have requested, and checks of the system against the model when it is at rest."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import httpx

from tests.system.conftest import SECONDS, System
from tests.system.load import LastRead, Load
from tests.system.rest import PAUSE_SECONDS, violations

LOST = ("Failed", "PodLost")
"""Status and reason of a sandbox whose Pod was deleted from outside. The next create starts a new incarnation."""


class Model(Load):
    """Load on a fixed set of `ids`, so that each id comes back. Only one caller at a time acts on an id."""

    def __init__(self, system: System, ids: list[str], *, seed: int = 1) -> None:
        super().__init__(system, seed=seed)
        self.ids = ids
        self.created_count = 0
        self.deleted_count = 0
        self.checked_count = 0
        """Number of answers that were compared with the model."""
        self._lost: dict[str, set[int]] = {}
        self._busy: set[str] = set()

    async def create(self, sandbox_id: str, **fields: Any) -> None:
        """Create a sandbox. A create of an existing sandbox does not count."""
        self.created_count += sandbox_id not in self.expected
        await super().create(sandbox_id, **fields)

    async def delete(self, sandbox_id: str) -> None:
        self.deleted_count += sandbox_id in self.expected
        self._lost.pop(sandbox_id, None)
        await super().delete(sandbox_id)

    async def keep_alive(self, sandbox_id: str) -> None:
        """Send one keep-alive. A 404 for an existing sandbox is a lie, unless the sandbox has failed."""
        last_read = self._last_reads.get(sandbox_id)
        with suppress(httpx.TransportError):
            response = await self._request("POST", f"/api/sandboxes/{sandbox_id}/keepalive", json={"seconds": 600})
            exists = last_read is not None and self._last_reads.get(sandbox_id) is last_read
            if exists and response.status_code == 404 and response.json()["status"] != LOST[0]:
                self.lies.append(f"{sandbox_id}: no keep-alive possible, {response.text}")

    def lose(self, sandbox_id: str, generation: int) -> None:
        """Note that the caller is about to delete the Pod of this generation, which its record names."""
        self._lost.setdefault(sandbox_id, set()).add(generation)

    @contextmanager
    def any_of(self, ids: set[str], random: Random) -> Iterator[str]:
        """Reserve a random id of `ids` that no other caller acts on; an empty string if there is none."""
        free = sorted(ids - self._busy)
        chosen = random.choice(free) if free else ""
        self._busy.add(chosen)
        try:
            yield chosen
        finally:
            self._busy.discard(chosen)

    async def read(self, sandbox_id: str) -> tuple[int, dict[str, Any]]:
        """Return HTTP status and body as a client gets them; 503 if no API process answers."""
        with suppress(httpx.TransportError):
            response = await self._request("GET", f"/api/sandboxes/{sandbox_id}")
            return response.status_code, response.json()
        return 503, {}

    async def is_repaired(self, sandbox_id: str) -> bool:
        """Return True if a client finds the sandbox as expected: at its URL, reported as lost, or gone."""
        status, body = await self.read(sandbox_id)
        if sandbox_id not in self._last_reads:
            return status == 404 and "Terminating" not in body.values()
        if status != 200 or self._is_lost(sandbox_id, body):
            return _reports_loss(body)
        return bool(body["status"] == "Running" and body["ready"] and await self._answers(body["sandbox_url"]))

    async def rest(self, random: Random) -> list[str]:
        """Return a line for each violation that is left after SECONDS, and for each lie.

        By then, each sandbox that has lost its Pod must report that. It is then deleted or created again.
        """
        lines = await _wait_for_none(self._unreported_losses)
        if not lines:
            await self._follow_up(random)
            lines = await _wait_for_none(lambda: violations(self._system, self.expected))
        return lines + [f"a lie: {lie}" for lie in dict.fromkeys(self.lies)]

    async def empty(self, random: Random) -> list[str]:
        """Delete all sandboxes, and return the same as `rest`."""
        for sandbox_id in self.expected:
            await self.delete(sandbox_id)
        return await self.rest(random)

    async def _unreported_losses(self) -> list[str]:
        """Return a line for each sandbox that does not report the loss of its Pod, or left objects in the cluster."""
        lines = []
        for sandbox_id in sorted(self._lost):
            status, body = await self.read(sandbox_id)
            leftovers = [*await self._system.pods(sandbox_id), *await self._system.services(sandbox_id)]
            if status != 200:
                lines.append(f"{sandbox_id}: {status} {body}")
            elif self._is_lost(sandbox_id, body) and (not _reports_loss(body) or leftovers):
                names = [each.metadata.name for each in leftovers]
                lines.append(f"{sandbox_id}: has lost its Pod; {body['status']} {body['reason']}, left {names}")
        return lines

    async def _follow_up(self, random: Random) -> None:
        for sandbox_id in sorted(self._lost):
            if not self._is_lost(sandbox_id, (await self.read(sandbox_id))[1]):
                continue
            if random.random() < 0.5:
                await self.delete(sandbox_id)
            else:
                self.created_count += 1
                await self.create(sandbox_id)

    def _is_lost(self, sandbox_id: str, body: dict[str, Any]) -> bool:
        return body.get("generation") in self._lost.get(sandbox_id, ())

    def _compare(self, sandbox_id: str, last_read: LastRead, body: dict[str, Any]) -> None:
        """Accept a failure as true only if it reports the loss of a Pod that was deleted."""
        self.checked_count += 1
        if not (self._is_lost(sandbox_id, body) and _reports_loss(body)):
            super()._compare(sandbox_id, last_read, body)

    async def _answers(self, url: str) -> bool:
        with suppress(httpx.TransportError):
            return (await self._client.get(f"{url}/v1/sandbox")).is_success
        return False


def _reports_loss(body: dict[str, Any]) -> bool:
    return (body.get("status"), body.get("reason")) == LOST


async def _wait_for_none(check: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Repeat `check` until it returns no line, for at most SECONDS, and return its last lines."""
    end = asyncio.get_running_loop().time() + SECONDS
    while (lines := await check()) and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(PAUSE_SECONDS)
    return lines
