"""A queue of keys to reconcile, after client-go's workqueue: deduplicated, with back-off per key."""

import asyncio
from collections import Counter
from typing import Generic, TypeVar

from worker.kubernetes.retry import backoff_seconds

Key = TypeVar("Key")


class WorkQueue(Generic[Key]):
    """Each key waits at most once and runs at most once at a time.

    A key that is added while it runs, runs once more. A caller of `get` calls `done` or `retry` afterwards.
    """

    def __init__(self) -> None:
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._waiting: set[Key] = set()
        self._running: set[Key] = set()
        self._added_again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: Counter[Key] = Counter()

    def add(self, key: Key) -> None:
        """Let the key run as soon as possible; a delay or back-off of it ends."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._running:
            self._added_again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Let the key run after a delay, unless it waits already. Without a delay, let it run as soon as possible."""
        if seconds <= 0:
            self.add(key)
            return
        if key not in self._waiting and key not in self._added_again and key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def get(self) -> Key:
        """Return the next key, in the order in which keys were added."""
        key = await self._ready.get()
        self._waiting.discard(key)
        self._running.add(key)
        return key

    def done(self, key: Key) -> None:
        """End a successful run of the key."""
        del self._failures[key]
        self._end(key)

    def retry(self, key: Key, retry_after: float | None = None) -> None:
        """End a failed run of the key. The delay until the next run grows with each failure in a row."""
        self._failures[key] += 1
        self._end(key)
        self.add_after(key, backoff_seconds(self._failures[key], retry_after))

    async def join(self) -> None:
        """Wait until no key waits or runs. Delayed keys do not count."""
        await self._ready.join()

    def close(self) -> None:
        """Cancel the delays."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _end(self, key: Key) -> None:
        self._running.discard(key)
        if key in self._added_again:
            self._added_again.discard(key)
            self.add(key)
        self._ready.task_done()
