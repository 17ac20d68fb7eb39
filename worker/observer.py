"""One worker at a time looks at the cluster, for all: it lists, then watches, and records what has changed.

Everything is written under the lease (`Lease.guard`), so that a leader which was frozen and has been replaced writes
nothing. Whatever goes wrong ends in a new list, which compares both truths: nothing depends on having seen each event.
"""

import asyncio
import time
from collections.abc import Iterable
from contextlib import aclosing

import structlog
from redis.asyncio import Redis

from shared import logs
from shared.errors import StoreUnavailable
from shared.queue import Job, Work
from shared.sandbox import ENDED, Sandbox, another_attempt, is_earlier
from shared.settings import Settings
from shared.store import Change, Fenced, Guard, Move, Store
from worker import retries, seen
from worker.cluster import Cluster, PodEvent
from worker.kubernetes_errors import Expired, KubernetesError
from worker.lease import Lease, LeaseLost
from worker.manifests.labels import LIFE, SANDBOX_ID
from worker.observation import observed, vanished

log = structlog.get_logger()

COMPARE_SECONDS = 180.0
"""Both truths are held against each other this often, though no event was missed."""
AT_LEAST_SECONDS = 1.0
"""Between two lists, or two watches."""


def lease_name(cluster: str) -> str:
    return f"observer:{cluster}"


class Observer:
    def __init__(self, store: Store, redis: Redis, cluster: Cluster, settings: Settings) -> None:
        self._store = store
        self._redis = redis
        self._cluster = cluster
        self._settings = settings

    async def run(self) -> None:
        """Until cancelled: wait for the lease, lead, and wait again when it is lost or Redis is away."""
        cluster = self._settings.cluster_name
        while True:
            lease = Lease(self._redis, lease_name(cluster))
            await lease.wait()
            log.info("observing", cluster=cluster)
            try:
                await self._lead(lease)
            finally:
                await lease.give_back()

    async def _lead(self, lease: Lease) -> None:
        """Ends when this worker may no longer observe, or cannot write what it sees."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(lease.keep())
                group.create_task(Term(self._store, self._cluster, self._settings, lease.guard).observe())
        except* (LeaseLost, Fenced) as lost:
            log.warning("observing ended: another worker does it", cause=str(lost.exceptions[0]))
        except* StoreUnavailable as away:
            log.warning("observing ended: redis is away", cause=str(away.exceptions[0]))
            await asyncio.sleep(retries.delay(1))


def change(record: Sandbox, new: Sandbox | None) -> Change | None:
    """What to write, if anything is new. A life that ends leaves a Pod or a Service behind: a job removes them."""
    if new == record:
        return None
    if new is None or record.status in ENDED or new.status not in ENDED:
        return Change(new)
    over = another_attempt(new)
    return Change(over, (Job.of(Work.TERMINATE, over),))


class Pause:
    """Between two beginnings of one thing: a server that ends each watch at once is not asked in a hot loop."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    async def rest(self) -> None:
        await asyncio.sleep(max(0.0, AT_LEAST_SECONDS - self.elapsed()))


class Term:
    """One leader's time: all it writes is guarded by its lease."""

    def __init__(self, store: Store, cluster: Cluster, settings: Settings, guard: Guard) -> None:
        self._store = store
        self._cluster = cluster
        self._name = settings.cluster_name
        self._retention = settings.failed_retention_seconds
        self._guard = guard

    async def observe(self) -> None:
        """List and watch; again when a watch cannot go on, and every few minutes. Raises Fenced, StoreUnavailable."""
        trouble = 0
        while True:
            pause = Pause()
            try:
                await self._follow(await self.compare(), pause)
            except Expired:
                log.info("watch expired, listing again")
            except KubernetesError as error:
                trouble = 1 if pause.elapsed() > COMPARE_SECONDS / 10 else trouble + 1
                log.warning("cannot observe for now", error=str(error))
                await asyncio.sleep(retries.delay(trouble, error.retry_after))
            await pause.rest()

    async def compare(self) -> str:
        """Hold every record against every Pod; the version to watch from.

        Records are read first: a Pod that a record knew of by then, and that the later list lacks, is gone.
        """
        records = [r for r in await self._store.all() if r.cluster == self._name]
        pods = await self._cluster.list_pods()
        for pod in pods.items:
            await self._see(pod)
            await self._outlived(pod)
        await self._miss(records, {pod.metadata.uid for pod in pods.items})
        return pods.resource_version

    async def _follow(self, version: str, began: Pause) -> None:
        """Watch from `version` on, stream after stream, till it is time to compare. Raises Expired, KubernetesError."""
        while began.elapsed() < COMPARE_SECONDS:
            pause = Pause()
            async with aclosing(self._cluster.watch_pods(version)) as events:
                async for event in events:
                    version = event.pod.metadata.resource_version
                    await self._apply(event)
            await pause.rest()

    async def _apply(self, event: PodEvent) -> None:
        if event.type == "DELETED":
            labels = event.pod.metadata.labels
            await self._lost(labels.get(SANDBOX_ID, ""), labels.get(LIFE, ""), event.pod.metadata.uid)
        elif event.type != "BOOKMARK":
            await self._see(event.pod)

    async def _see(self, pod: seen.Pod) -> None:
        labels = pod.metadata.labels

        def move(record: Sandbox | None) -> Change | None:
            if record is None or record.life != labels.get(LIFE):
                return None
            now = self._store.now()
            return change(record, observed(record, pod, now=now, until=now + self._retention))

        await self._change(labels.get(SANDBOX_ID, ""), move)

    async def _outlived(self, pod: seen.Pod) -> None:
        """A Pod whose sandbox is in a later life by now: its job was lost, so it gets another one."""
        labels = pod.metadata.labels
        life = labels.get(LIFE, "")

        def move(record: Sandbox | None) -> Change | None:
            if record is None or pod.is_dying or not is_earlier(life, record):
                return None
            return Change(record, (Job(Work.TERMINATE, record.id, life, record.revision),))

        await self._change(labels.get(SANDBOX_ID, ""), move)

    async def _miss(self, records: Iterable[Sandbox], there: set[str]) -> None:
        for record in records:
            if record.pod_uid and record.pod_uid not in there:
                await self._lost(record.id, record.life, record.pod_uid)

    async def _lost(self, sandbox_id: str, life: str, uid: str) -> None:
        def move(record: Sandbox | None) -> Change | None:
            if record is None:
                return None
            return change(record, vanished(record, life, uid, until=self._store.now() + self._retention))

        await self._change(sandbox_id, move)

    async def _change(self, sandbox_id: str, move: Move) -> None:
        outcome = await self._store.change(sandbox_id, move, guard=self._guard)
        if not outcome.written:
            return
        with logs.about(sandbox_id=sandbox_id):
            record = outcome.record
            if record is None:
                log.info("gone")
            else:
                log.info("observed", status=record.status, ready=record.ready, reason=record.reason)
