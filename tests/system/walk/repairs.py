"""Times to repair: from the end of a fault until clients find every sandbox as expected."""

import asyncio
import time
from dataclasses import dataclass
from statistics import median

import msgspec

from tests.system.conftest import SECONDS
from tests.system.walk.model import Model

PAUSE_SECONDS = 0.2
"""Pause between two checks of all sandboxes."""
CONCURRENCY = 8
"""Number of sandboxes checked at once. A small number, so that the checks cost the processes under test little."""


class Times(msgspec.Struct):
    """Number of faults of one kind, and times to repair in seconds; None if no fault of this kind was repaired."""

    faults: int
    median: float | None
    worst: float | None


@dataclass(slots=True)
class Repair:
    """A fault that ended at `since`. `pending` holds the ids that were not found as expected after that."""

    fault: str
    since: float
    pending: set[str]


class Repairs:
    """All repairs under way. Other faults continue meanwhile, so one fault can delay the repair of another."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._pending: list[Repair] = []
        self._counts: dict[str, int] = {}
        self._seconds: dict[str, list[float]] = {}

    def count(self, fault: str) -> None:
        self._counts[fault] = self._counts.get(fault, 0) + 1

    def begin(self, fault: str) -> None:
        """Start the clock of a fault that has just ended. Deleted sandboxes count, too: they must be gone."""
        self._pending.append(Repair(fault, time.monotonic(), set(self._model.ids)))

    def times(self) -> dict[str, Times]:
        return {fault: _times(count, self._seconds.get(fault, [])) for fault, count in sorted(self._counts.items())}

    async def watch(self) -> None:
        """Check all sandboxes again and again, until cancelled."""
        while True:
            await self._check()
            await asyncio.sleep(PAUSE_SECONDS)

    async def until_none(self) -> None:
        """Wait until nothing is under repair.

        Raises:
            TimeoutError: a client does not find at rest what exists.
        """
        async with asyncio.timeout(SECONDS):
            while self._pending:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _check(self) -> None:
        repairs = list(self._pending)
        repaired = await self._repaired(set().union(*(repair.pending for repair in repairs)))
        for repair in repairs:
            repair.pending -= repaired
            if not repair.pending:
                self._pending.remove(repair)
                self._seconds.setdefault(repair.fault, []).append(time.monotonic() - repair.since)

    async def _repaired(self, ids: set[str]) -> set[str]:
        gate = asyncio.Semaphore(CONCURRENCY)

        async def check(sandbox_id: str) -> str:
            async with gate:
                return sandbox_id if await self._model.is_repaired(sandbox_id) else ""

        return set(await asyncio.gather(*map(check, ids)))


def _times(count: int, seconds: list[float]) -> Times:
    if not seconds:
        return Times(count, None, None)
    return Times(count, round(median(seconds), 2), round(max(seconds), 2))
