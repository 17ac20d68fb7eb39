"""Decides whether a missing record means "no such sandbox" or "Redis lost its data"."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shared.errors import NotSynced, PreconditionFailed, StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import HEARTBEAT_SECONDS, WorkerRegistry
from shared.store.store import Store
from shared.store.update import MutateOrCreate, UpdateResult

START_POLL_SECONDS = 0.05
"""Pause between two looks for a worker at the start. Short, because the start waits for the result."""
SYNC_POLL_SECONDS = 5.0
"""Pause between two looks for the first sync. Until it is seen, data that Redis loses in this time go unnoticed."""


class SyncGate:
    """Knows whether a missing record can be trusted. A process has one, which remembers that the cluster was synced.

    If the cluster was synced once and is not any more, Redis lost its data. If this process has never seen a sync, a
    worker's heartbeat makes the difference. Without one, Redis is new, and has no records to lose. With one, Redis may
    have lost its data just before this process started.
    """

    def __init__(
        self,
        workers: WorkerRegistry,
        sync: ClusterSync,
        *,
        has_waited: bool = False,
        poll_seconds: float = SYNC_POLL_SECONDS,
    ) -> None:
        self._workers = workers
        self._sync = sync
        self._was_synced = False
        self._has_waited = has_waited
        self._poll_seconds = poll_seconds

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look for the first sync while the context is open, so that no request has to come for it to be remembered."""
        task = asyncio.create_task(self._watch_first_sync(), name="first-sync")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def is_open(self) -> bool:
        """Return True if a missing record can be trusted.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        if not self._has_waited:
            await self.wait_for_workers()
        if await self._sync.has_synced():
            self._was_synced = True
            return True
        return not self._was_synced and not await self._workers.any_registered()

    async def wait_for_workers(self) -> None:
        """Wait for one heartbeat period, or until the cluster is synced or a worker is registered.

        Workers may have lost their registration with the data of Redis. The first answer waits until they had time to
        register again.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEARTBEAT_SECONDS + 0.5):
                while not await self._sync.has_synced() and not await self._workers.any_registered():
                    await asyncio.sleep(START_POLL_SECONDS)
        self._has_waited = True
        await self.is_open()

    async def require(self) -> None:
        """Return if a missing record can be trusted.

        Raises:
            NotSynced: it cannot: Redis lost its data, and no leader has rebuilt the records yet.
            StoreUnavailable: Redis does not answer.
        """
        if not await self.is_open():
            raise NotSynced

    async def create_or_update(self, store: Store, sandbox_id: str, mutate: MutateOrCreate) -> UpdateResult:
        """Write an update that may create a record, but only while a missing record can be trusted.

        Otherwise a sandbox whose Pod exists and whose record is lost would be created a second time.

        Raises:
            NotSynced: Redis lost its data, and no leader has rebuilt the records yet.
            see `Store.update`.
        """
        try:
            result = await store.create_or_update(sandbox_id, mutate, precondition=self._sync.precondition)
        except PreconditionFailed:
            await self.require()  # a new Redis without workers has no records to lose
            return await store.create_or_update(sandbox_id, mutate)
        self._was_synced |= result.written
        return result

    async def _watch_first_sync(self) -> None:
        while not self._was_synced:
            with contextlib.suppress(StoreUnavailable):
                if await self._sync.has_synced():
                    self._was_synced = True
            await asyncio.sleep(self._poll_seconds)
