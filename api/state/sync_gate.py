"""Whether it can be believed that there is no record."""

import asyncio
import contextlib

from shared.errors import NotSynced, PreconditionFailed
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import HEARTBEAT_SECONDS, WorkerRegistry
from shared.store.store import Store
from shared.store.update import MutateOrCreate, UpdateResult

SETTLE_SECONDS = 0.05
"""Between two looks for a first worker."""


class SyncGate:
    """Whether it can be believed when there is no record. One a process: it remembers that there were all once.

    A Redis that was never complete as far as this process knows, and in which no worker says that it lives, is new:
    there is nothing that it could have lost. With a worker, it may have been emptied just before this process began.
    """

    def __init__(self, workers: WorkerRegistry, sync: ClusterSync, *, is_settled: bool = False) -> None:
        self._workers = workers
        self._sync = sync
        self._was_complete = False
        self._is_settled = is_settled

    async def is_open(self) -> bool:
        """Whether it can. Raises StoreUnavailable."""
        if not self._is_settled:
            await self.wait_for_workers()
        if await self._sync.has_synced():
            self._was_complete = True
            return True
        return not self._was_complete and not await self._workers.any_registered()

    async def wait_for_workers(self) -> None:
        """Before the first answer: until it is known whether there are workers, which say so every few seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS + 0.5):
                while not await self._sync.has_synced() and not await self._workers.any_registered():
                    await asyncio.sleep(SETTLE_SECONDS)
        self._is_settled = True
        await self.is_open()

    async def require(self) -> None:
        """Raises RecordsMissing, StoreUnavailable."""
        if not await self.is_open():
            raise NotSynced

    async def create_or_update(self, store: Store, sandbox_id: str, mutate: MutateOrCreate) -> UpdateResult:
        """Write an update that may create a record, but only while a missing record can be trusted.

        Otherwise a sandbox whose Pod exists and whose record is lost would be created a second time.

        Raises:
            NotSynced: Redis lost its records, and no leader has rebuilt them yet.
            see `Store.update`.
        """
        try:
            result = await store.create_or_update(sandbox_id, mutate, precondition=self._sync.precondition)
        except PreconditionFailed:
            await self.require()  # a new Redis without workers has no records to lose
            return await store.create_or_update(sandbox_id, mutate)
        self._was_complete |= result.written
        return result
