"""Waits for changes of records: one subscription for all waiting requests. Without a change, no command is sent."""

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
"""Pause before a lost subscription is opened again. Keeps a Redis that is down from being asked in a loop."""


class RecordNotifier:
    """Wakes the requests that wait for a sandbox when its record changes. Runs while its `running` context is open."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiters: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._listen(), name="notifier")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def waiting(self) -> dict[str, int]:
        """Return the number of waiting requests of each sandbox that has any."""
        return {sandbox_id: len(events) for sandbox_id, events in self._waiters.items()}

    async def wait_for(
        self, sandbox_id: str, condition: Callable[[Sandbox | None], bool], seconds: float
    ) -> Sandbox | None:
        """Return the record as soon as it meets `condition`, or the present record after `seconds`.

        Raises:
            StoreUnavailable: Redis does not answer.
        """
        with self._waiter(sandbox_id) as changed, contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    changed.clear()  # before the read, so that a change after the read ends the wait
                    record = await self._store.get(sandbox_id)
                    if condition(record):
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
        """Listen forever. After each interruption all waiters read again, because changes may have been missed."""
        while True:
            try:
                async for sandbox_id in self._store.watch():
                    self._wake(sandbox_id)
            except StoreUnavailable as error:
                log.warning("change subscription lost; retrying", error=str(error))
            except Exception:
                log.exception("change subscription failed: a bug; retrying")
            await asyncio.sleep(RESUBSCRIBE_SECONDS)

    def _wake(self, sandbox_id: str | None) -> None:
        """Wake the waiters of one sandbox, or all waiters if the id is None."""
        sandbox_ids = [sandbox_id] if sandbox_id is not None else list(self._waiters)
        for changed_id in sandbox_ids:
            for event in self._waiters.get(changed_id, ()):
                event.set()
