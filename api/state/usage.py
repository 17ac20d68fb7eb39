"""Records that a sandbox is in use, which keeps it from expiring as idle. No answer waits for the write."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from shared.errors import RecordUnreadable, StoreUnavailable
from shared.sandbox.record import Sandbox
from shared.sandbox.transitions import touched
from shared.store.store import Store
from shared.store.update import Update

TOUCH_INTERVAL_SECONDS = 30.0
"""A use is stored at most this often: each store costs a write, and an idle sandbox may expire this much early."""


def needs_touch(record: Sandbox, now: float) -> bool:
    """Return True if a use at `now` is worth storing: the last one is older than the interval.

    The interval is at most a quarter of the idle timeout. A sandbox that is used more often never expires as idle.
    """
    interval = min(TOUCH_INTERVAL_SECONDS, record.idle_timeout / 4) if record.idle_timeout else TOUCH_INTERVAL_SECONDS
    return record.is_active and now - record.last_used_at >= interval


class UsageTracker:
    """Runs while its `running` context is open, and finishes the writes that it began."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writes: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.gather(*self._writes.values())

    def record_use(self, record: Sandbox) -> None:
        """Begin to store a use of this sandbox, unless a write of it is under way.

        If Redis does not answer, the use is lost; the next one comes soon.
        """
        if record.id in self._writes or not needs_touch(record, self._store.now()):
            return
        write = asyncio.create_task(self._write(record))
        self._writes[record.id] = write
        write.add_done_callback(lambda _: self._writes.pop(record.id))

    async def _write(self, record: Sandbox) -> None:
        def mutate(current: Sandbox) -> Update | None:
            now = self._store.now()
            return Update(touched(current, now), silent=True) if needs_touch(current, now) else None

        with contextlib.suppress(StoreUnavailable, RecordUnreadable):
            await self._store.update_cached(record, mutate)
