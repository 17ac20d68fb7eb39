"""Who uses a sandbox keeps it alive: a use is written down beside the answer, which does not wait for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from api.sandboxes.updates import needs_touch, record_use
from shared.errors import RecordUnreadable, StoreUnavailable
from shared.sandbox.record import Sandbox
from shared.store.store import Store


class UsageTracker:
    """Runs as long as its `running` context is open, and ends what it has begun."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writing: dict[str, asyncio.Task[None]] = {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await asyncio.gather(*self._writing.values())

    def record_use(self, record: Sandbox) -> None:
        """This sandbox is in use. Of many at once one is written; with Redis away, none: the next use comes soon."""
        if record.id in self._writing or not needs_touch(record, self._store.now()):
            return
        self._writing[record.id] = task = asyncio.create_task(self._write(record))
        task.add_done_callback(lambda _: self._writing.pop(record.id))

    async def _write(self, record: Sandbox) -> None:
        with contextlib.suppress(StoreUnavailable, RecordUnreadable):
            await self._store.change(record.id, record_use(record.incarnation, self._store.now()), believed=record)
