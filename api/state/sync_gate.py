"""Whether it can be believed that there is no record."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Protocol

from shared.errors import NotSynced, PreconditionFailed
from shared.liveness.vitals import BEAT_SECONDS, Vitals
from shared.store.update import Precondition, UpdateResult

SETTLE_SECONDS = 0.05
"""Between two looks for a first worker."""


class Step(Protocol):
    """One atomic step of the store."""

    def __call__(self, *, precondition: Precondition | None) -> Awaitable[UpdateResult]: ...


class SyncGate:
    """Whether it can be believed when there is no record. One a process: it remembers that there were all once.

    A Redis that was never complete as far as this process knows, and in which no worker says that it lives, is new:
    there is nothing that it could have lost. With a worker, it may have been emptied just before this process began.
    """

    def __init__(self, vitals: Vitals, *, is_settled: bool = False) -> None:
        self._vitals = vitals
        self._was_complete = False
        self._is_settled = is_settled

    async def is_open(self) -> bool:
        """Whether it can. Raises StoreUnavailable."""
        if not self._is_settled:
            await self.wait_for_workers()
        if await self._vitals.is_complete():
            self._was_complete = True
            return True
        return not self._was_complete and not await self._vitals.is_any_worker()

    async def wait_for_workers(self) -> None:
        """Before the first answer: until it is known whether there are workers, which say so every few seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BEAT_SECONDS + 0.5):
                while not await self._vitals.is_complete() and not await self._vitals.is_any_worker():
                    await asyncio.sleep(SETTLE_SECONDS)
        self._is_settled = True
        await self.is_open()

    async def require(self) -> None:
        """Raises RecordsMissing, StoreUnavailable."""
        if not await self.is_open():
            raise NotSynced

    async def needed(self, step: Step) -> UpdateResult:
        """The outcome of a step that is not taken unless it can. Raises RecordsMissing, and whatever `step` does."""
        try:
            outcome = await step(precondition=self._vitals.precondition)
        except PreconditionFailed:
            await self.require()  # it can also be believed of a Redis that is new
            return await step(precondition=None)
        self._was_complete |= outcome.written
        return outcome
