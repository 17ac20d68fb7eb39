"""The reflector: lists one kind of object, watches it, and reconciles each changed object until that succeeds.

Level-triggered, as controller-runtime's controllers: a watch event only updates a cache and marks a key as changed.
Reconciling reads the latest state, so a missed or superseded event loses nothing. An object that cannot be reconciled
backs off alone. It never stops the watch, the leader or the worker.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Generic

import structlog

from shared import logs, metrics
from shared.errors import PreconditionFailed, RecordUnreadable, StoreUnavailable
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition
from worker.kubernetes import retry
from worker.kubernetes.client import KubernetesClient, Resource, WatchEvent
from worker.kubernetes.errors import TIMED_OUT, Expired, KubernetesError
from worker.kubernetes.objects import Kind
from worker.reflectors.work_queue import WorkQueue

log = structlog.get_logger()

RELIST_SECONDS = 180.0
"""Records and cluster are compared in full this often, even if no event was missed."""
MAX_WATCH_RETRIES = 5
"""Watches in a row that may fail before a new list. A watch that fell silent is followed by a list at once: the silence
may have been long, and the next watch may fall silent too."""
MIN_INTERVAL_SECONDS = 1.0
"""Pause between two lists, or two watches. Keeps a server that ends each watch at once from being polled in a loop."""
APPLY_CONCURRENCY = 32
"""Keys that are reconciled side by side. The commands of one moment share a round trip to Redis."""


class Interval:
    """The minimum time between two rounds of one loop."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    async def rest(self) -> None:
        """Sleep for what is left of the interval."""
        await asyncio.sleep(max(0.0, MIN_INTERVAL_SECONDS - self.elapsed()))


class Reflector(ABC, Generic[Kind]):
    """Runs for one term of a leader. The lease is the precondition of every write."""

    resource: Resource[Kind]

    def __init__(self, store: Store, kubernetes: KubernetesClient, settings: Settings, lease: Precondition) -> None:
        self._store = store
        self._kubernetes = kubernetes
        self._settings = settings
        self._lease = lease
        self._queue: WorkQueue[str] = WorkQueue()
        self._cluster_errors: dict[str, KubernetesError] = {}
        """The last error of each key that Kubernetes keeps from being reconciled."""

    @abstractmethod
    async def relist(self) -> str:
        """Compare all objects with all records, and return the version to watch from.

        Raises:
            KubernetesError, Expired: the list failed, or an object could not be reconciled.
            PreconditionFailed, StoreUnavailable: this term is over.
        """

    @abstractmethod
    def on_event(self, event: WatchEvent[Kind]) -> None:
        """Take in one watch event: update the cache and mark a key as changed. Never awaits, and cannot fail."""

    @abstractmethod
    async def reconcile(self, key: str) -> None:
        """Bring the record in line with the latest state of this key. Runs again after an error."""

    async def on_watch_closed(self) -> None:
        """React to a watch that the server ended in order, as it does every few seconds."""

    async def run(self) -> None:
        """List, watch and reconcile until cancelled.

        Raises:
            ExceptionGroup: of PreconditionFailed or StoreUnavailable; this term is over.
        """
        async with self.reconciling():
            await self._list_and_watch_forever()

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Reconcile changed keys while the context is open. Raises as `run` does."""
        try:
            async with asyncio.TaskGroup() as group:
                runners = [group.create_task(self._reconcile_forever()) for _ in range(APPLY_CONCURRENCY)]
                yield
                for runner in runners:
                    runner.cancel()
        finally:
            self._queue.close()

    async def settle(self) -> None:
        """Wait until every changed key was reconciled once.

        Raises:
            KubernetesError: a key waits for its next try, because Kubernetes refused a call or did not answer.
        """
        await self._queue.join()
        for error in self._cluster_errors.values():
            raise error

    async def records(self) -> dict[str, Sandbox]:
        """Return this cluster's records by sandbox id."""
        return {r.id: r for r in await self._store.all() if r.cluster == self._settings.cluster_name}

    async def _list_and_watch_forever(self) -> None:
        failures = 0
        while True:
            interval = Interval()
            try:
                await self._watch_until_relist(await self.relist(), interval)
            except Expired:
                self._count_restart("expired")
                log.info("watch expired; listing again", resource=self.resource.name)
            except KubernetesError as error:
                failures = 1 if interval.elapsed() > RELIST_SECONDS / 10 else failures + 1
                await self._back_off(error, failures)
            await interval.rest()

    async def _watch_until_relist(self, version: str, since_list: Interval) -> None:
        """Watch from `version` on, stream after stream, until the next list is due. Raises Expired, KubernetesError."""
        failures = 0
        while since_list.elapsed() < RELIST_SECONDS:
            interval = Interval()
            try:
                async with aclosing(self._kubernetes.watch(self.resource, version)) as stream:
                    async for events in stream:
                        for event in events:
                            if event.type != "BOOKMARK":
                                self.on_event(event)
                        version, failures = events[-1].object.metadata.resource_version, 0
            except KubernetesError as error:
                failures += 1
                if failures == MAX_WATCH_RETRIES or error.reason == TIMED_OUT or not retry.is_retryable(error):
                    raise
                await self._back_off(error, failures)
            else:
                self._count_restart("ended")
                await self.on_watch_closed()
            await interval.rest()

    async def _reconcile_forever(self) -> None:
        while True:
            await self._reconcile_next(await self._queue.get())

    async def _reconcile_next(self, key: str) -> None:
        """Reconcile one key. What is wrong with it alone is logged, and tried again with back-off."""
        try:
            await self.reconcile(key)
        except (PreconditionFailed, StoreUnavailable):
            raise
        except RecordUnreadable as error:
            log.warning("unreadable record left alone", key=key, error=error.detail)
            self._succeed(key)
        except KubernetesError as error:
            log.warning("reconcile failed; retrying", resource=self.resource.name, key=key, error=str(error))
            self._cluster_errors[key] = error
            self._queue.retry(key, error.retry_after)
        except Exception:
            log.exception("object cannot be reconciled; retrying", resource=self.resource.name, key=key)
            self._queue.retry(key)
        else:
            self._succeed(key)

    def _succeed(self, key: str) -> None:
        self._cluster_errors.pop(key, None)
        self._queue.done(key)

    async def _back_off(self, error: KubernetesError, failures: int) -> None:
        self._count_restart("error")
        log.warning("list or watch failed; retrying", resource=self.resource.name, error=str(error))
        await asyncio.sleep(retry.backoff_seconds(failures, error.retry_after))

    def _count_restart(self, reason: str) -> None:
        metrics.WATCHES.labels(self.resource.name, reason).inc()


def log_status(sandbox_id: str, before: Sandbox | None, after: Sandbox | None) -> None:
    """Log what people ask for: a changed status, readiness or reason, and a deleted record."""
    with logs.log_context(sandbox_id=sandbox_id):
        if after is None:
            log.info("record deleted")
        elif before is None or _visible(before) != _visible(after):
            log.info("status changed", status=after.status, ready=after.ready, reason=after.reason)


def _visible(record: Sandbox) -> tuple[object, ...]:
    return record.incarnation, record.status, record.ready, record.reason
