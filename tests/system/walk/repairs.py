"""How long it takes from a fault's end until clients find every sandbox as it should be."""

import asyncio
import time
from dataclasses import dataclass
from statistics import median

import msgspec

from tests.system.conftest import SECONDS
from tests.system.walk.model import Model

LOOK_SECONDS = 0.2
CONCURRENCY = 8
"""So few that looking costs the processes under test little."""


class Times(msgspec.Struct):
    """Of one kind of fault, in seconds. None: none of them has been repaired."""

    faults: int
    median: float | None
    worst: float | None


@dataclass(slots=True)
class Repair:
    """`pending`: ids not seen well since."""

    fault: str
    since: float
    pending: set[str]


class Repairs:
    """All go on at once, and beside other faults: what repairs the one may be hindered by the next."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._open: list[Repair] = []
        self._counts: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}

    def count(self, fault: str) -> None:
        self._counts[fault] = self._counts.get(fault, 0) + 1

    def begin(self, fault: str) -> None:
        """Now it is over. Deleted sandboxes count too: they must be gone."""
        self._open.append(Repair(fault, time.monotonic(), set(self._model.ids)))

    def times(self) -> dict[str, Times]:
        return {fault: _times(count, self._seconds.get(fault, [])) for fault, count in sorted(self._counts.items())}

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(LOOK_SECONDS)

    async def until_none(self) -> None:
        """Raises TimeoutError: a client does not find at rest what is there."""
        async with asyncio.timeout(SECONDS):
            while self._open:
                await asyncio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        looked_at = list(self._open)
        well = await self._well(set().union(*(repair.pending for repair in looked_at)))
        for repair in looked_at:
            repair.pending -= well
            if not repair.pending:
                self._open.remove(repair)
                self._seconds.setdefault(repair.fault, []).append(time.monotonic() - repair.since)

    async def _well(self, ids: set[str]) -> set[str]:
        gate = asyncio.Semaphore(CONCURRENCY)

        async def look(sandbox_id: str) -> str:
            async with gate:
                return sandbox_id if await self._model.is_well(sandbox_id) else ""

        return set(await asyncio.gather(*map(look, ids)))


def _times(count: int, seconds: list[float]) -> Times:
    if not seconds:
        return Times(count, None, None)
    return Times(count, round(median(seconds), 2), round(max(seconds), 2))
