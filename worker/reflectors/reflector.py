"""How one kind of objects is kept in view: a beginning, which lists them, then watches, and again when that ends."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from typing import Generic

import structlog
from msgspec import UNSET, UnsetType

from shared import logs, metrics
from shared.errors import RecordUnreadable
from shared.sandbox.record import Sandbox, Status
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import MutateOrCreate, Precondition
from worker.kubernetes import retry
from worker.kubernetes.client import KubernetesClient, Resource, WatchEvent
from worker.kubernetes.errors import TIMED_OUT, Expired, KubernetesError
from worker.kubernetes.objects import Kind

log = structlog.get_logger()

COMPARE_SECONDS = 180.0
"""Both truths are held against each other this often, though no event was missed."""
RESUMES = 5
"""Watches in a row that fail before all is listed again; after one that fell silent, at once: it may have been for
long, and the next may be too."""
AT_LEAST_SECONDS = 1.0
"""Between two lists, or two watches."""


KNOWN = 1000
"""Records that are remembered as they were last written: of a sandbox that begins, several events come in a row."""


AT_ONCE = 100
"""Things about which changes are taken in side by side, before others of this process have their turn."""


class Pause:
    """Between two beginnings of one thing: a server that ends each watch at once is not asked in a hot loop."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    async def rest(self) -> None:
        await asyncio.sleep(max(0.0, AT_LEAST_SECONDS - self.elapsed()))


class Reflector(ABC, Generic[Kind]):
    """One leader's, for the time it leads: all it writes is guarded by the lease."""

    resource: Resource[Kind]
    leisure = 0.0
    """Seconds before what came meanwhile is taken in: what is not urgent costs less together."""

    def __init__(self, store: Store, cluster: KubernetesClient, settings: Settings, precondition: Precondition) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings
        self._guard = precondition
        self._known: dict[str, Sandbox] = {}
        self._taken_in: set[tuple[str, str]] = set()
        """Of a stream that is begun again, by uid and version: what is not to be shown its past."""

    @abstractmethod
    async def begin(self) -> str:
        """Take in what is there; the version to watch from. Raises KubernetesError, Expired."""

    @abstractmethod
    def about(self, change: WatchEvent[Kind]) -> str:
        """Changes that are about the same thing are taken in one after the other; others, at once."""

    @abstractmethod
    async def apply(self, changes: Sequence[WatchEvent[Kind]]) -> None:
        """Take in what came at once about one thing, in order."""

    async def watched(self) -> None:
        """A watch went well to its end."""

    async def run(self) -> None:
        """For ever. Raises Fenced, StoreUnavailable."""
        trouble = 0
        while True:
            pause = Pause()
            self._taken_in.clear()
            try:
                await self._follow(await self.begin(), pause)
            except Expired:
                self._restarted("expired")
                log.info("watch expired, listing again", resource=self.resource.name)
            except KubernetesError as error:
                trouble = 1 if pause.elapsed() > COMPARE_SECONDS / 10 else trouble + 1
                await self._rest(error, trouble)
            await pause.rest()

    async def _follow(self, version: str, began: Pause) -> None:
        """Watch from `version` on, stream after stream, till it is time to compare. Raises Expired, KubernetesError."""
        trouble = 0
        while began.elapsed() < COMPARE_SECONDS:
            pause = Pause()
            try:
                async with aclosing(self._cluster.watch(self.resource, version)) as stream:
                    async for changes in stream:
                        await self.take_in(changes)
                        await asyncio.sleep(self.leisure)
                        version, trouble = changes[-1].object.metadata.resource_version, 0
            except KubernetesError as error:
                trouble += 1
                if trouble == RESUMES or error.reason == TIMED_OUT or not retry.is_retryable(error):
                    raise
                await self._rest(error, trouble)
            else:
                self._restarted("ended")
                await self.watched()
            await pause.rest()

    async def take_in(self, changes: Iterable[WatchEvent[Kind]]) -> None:
        """Should one fail, the others are taken in; the stream is then begun again where all of these are to come."""
        groups: defaultdict[str, list[WatchEvent[Kind]]] = defaultdict(list)
        for change in changes:
            if change.type != "BOOKMARK" and not self._was_taken_in(change):
                groups[self.about(change)].append(change)
        several, outcomes = list(groups.values()), list[BaseException | None]()
        for start in range(0, len(several), AT_ONCE):
            some = several[start : start + AT_ONCE]
            outcomes += await asyncio.gather(*map(self.apply, some), return_exceptions=True)
        failed = [outcome for outcome in outcomes if outcome is not None]
        if failed:
            good = [changes for changes, outcome in zip(several, outcomes, strict=True) if outcome is None]
            self._taken_in.update(_version(change) for changes in good for change in changes)
            raise failed[0]

    def _was_taken_in(self, change: WatchEvent[Kind]) -> bool:
        if _version(change) not in self._taken_in:
            return False
        self._taken_in.remove(_version(change))
        return True

    async def _rest(self, error: KubernetesError, trouble: int) -> None:
        self._restarted("error")
        log.warning("cannot observe for now", resource=self.resource.name, error=str(error))
        await asyncio.sleep(retry.backoff_seconds(trouble, error.retry_after))

    def _restarted(self, reason: str) -> None:
        metrics.WATCHES.labels(self.resource.name, reason).inc()

    async def _records(self) -> dict[str, Sandbox]:
        """This cluster's, by id."""
        return {r.id: r for r in await self._store.all() if r.cluster == self._settings.cluster_name}

    async def _read(self, sandbox_id: str) -> Sandbox | None:
        try:
            return await self._store.get(sandbox_id)
        except RecordUnreadable:
            return None

    async def _change(
        self, sandbox_id: str, mutate: MutateOrCreate, believed: Sandbox | UnsetType | None = UNSET
    ) -> bool:
        """False: there is no record. One that cannot be read must not end the following of all others."""
        known = self._known.pop(sandbox_id, None)
        if believed is UNSET and known is not None:
            believed = known
        try:
            outcome = await self._store.create_or_update(sandbox_id, mutate, precondition=self._guard)
        except RecordUnreadable as error:
            log.warning("record left alone", sandbox_id=sandbox_id, error=error.detail)
            return True
        if outcome.written:
            _say(sandbox_id, known, outcome.record)
        self._remember(sandbox_id, outcome.record)
        return outcome.record is not None

    def _remember(self, sandbox_id: str, record: Sandbox | None) -> None:
        """The longest unchanged are forgotten first."""
        if record is None:
            return
        self._known[sandbox_id] = record
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]


def _version(change: WatchEvent[Kind]) -> tuple[str, str]:
    return change.object.metadata.uid, change.object.metadata.resource_version


def _say(sandbox_id: str, before: Sandbox | None, record: Sandbox | None) -> None:
    """What people ask for; when a stage was reached stands in the record."""
    with logs.log_context(sandbox_id=sandbox_id):
        if record is None:
            log.info("gone")
        elif before is None or _looks(before) != _looks(record):
            log.info("observed", status=record.status, ready=record.ready, reason=record.reason)


def _looks(record: Sandbox) -> tuple[str, Status, bool, str]:
    return record.incarnation, record.status, record.ready, record.reason
