"""Holding an answer until something happens: one subscription for all who wait, and no command while nothing does."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator

import structlog

from shared.errors import StoreUnavailable
from shared.sandbox.record import Sandbox
from shared.store.store import Store

log = structlog.get_logger()

RESUBSCRIBE_SECONDS = 0.5


class RecordNotifier:
    """Wakes those who wait for a sandbox when its record changes. Runs as long as its `running` context is open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._listen(), name="waiting")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def wait_for(
        self, sandbox_id: str, enough: Callable[[Sandbox | None], bool], seconds: float
    ) -> Sandbox | None:
        """The record as soon as it is `enough`, or as it is when the time is over.

        Raises StoreUnavailable: what is not known is not waited for.
        """
        with self._waiter(sandbox_id) as changed, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    changed.clear()  # before the read: a change after it wakes us again
                    record = await self._store.get(sandbox_id)
                    if enough(record):
                        return record
                    await changed.wait()
        return await self._store.get(sandbox_id)

    @contextlib.contextmanager
    def _waiter(self, sandbox_id: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiters[sandbox_id].add(event)
        try:
            yield event
        finally:
            self._waiters[sandbox_id].discard(event)
            if not self._waiters[sandbox_id]:
                del self._waiters[sandbox_id]

    async def _listen(self) -> None:
        """For ever. After each interruption all look once: what they wait for may have happened meanwhile."""
        while True:
            try:
                async for sandbox_id in self._store.watch():
                    self._wake(sandbox_id)
            except StoreUnavailable as error:
                log.warning("not hearing of changes for now", error=str(error))
            except Exception:
                log.exception("a bug; hearing of changes goes on")
            await asyncio.sleep(RESUBSCRIBE_SECONDS)

    def _wake(self, sandbox_id: str | None) -> None:
        """None: everybody."""
        concerned = [sandbox_id] if sandbox_id is not None else list(self._waiters)
        for waiting in concerned:
            for event in self._waiters.get(waiting, ()):
                event.set()
