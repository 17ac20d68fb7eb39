"""Reflects Pods into records: a sandbox' status is what its Pod looks like.

A relist compares every Pod with every record. It adopts Pods whose record is lost, removes leftovers of earlier
incarnations, reports Pods that are gone, and then writes the synced mark.
"""

import asyncio

import structlog

from shared import metrics
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.names import service_name
from shared.sandbox.record import Reason, Sandbox
from shared.sandbox.transitions import touched
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Mutate, Precondition, Update
from worker.kubernetes.client import PODS, SERVICES, KubernetesClient, ObjectList, WatchEvent
from worker.kubernetes.decoding import Unreadable
from worker.kubernetes.labels import AnnotationUnreadable
from worker.kubernetes.objects import Pod, Service
from worker.kubernetes.unreadable import UnreadableLog
from worker.reconcile import adoption
from worker.reconcile.adoption import is_record_lost, sandbox_of
from worker.reconcile.diagnosis import is_rejected
from worker.reconcile.pod_status import apply_pod, apply_pod_gone, should_write, to_update
from worker.reconcile.restart import restart
from worker.reflectors.pod_cache import CachedPod, PodCache
from worker.reflectors.reflector import Reflector, log_status

log = structlog.get_logger()

YIELD_EVERY = 100
"""Pods compared before the worker's jobs get a turn."""
DEFERRED_SECONDS = 10.0
"""Delay of a write that a running provision job makes itself, unless that job is lost."""


class PodReflector(Reflector[Pod]):
    """Keeps the latest Pod of each uid in `cache`. Its keys are uids."""

    resource = PODS

    def __init__(
        self,
        sync: ClusterSync,
        cache: PodCache,
        store: Store,
        kubernetes: KubernetesClient,
        settings: Settings,
        lease: Precondition,
        *,
        deferred_seconds: float = DEFERRED_SECONDS,
    ) -> None:
        super().__init__(store, kubernetes, settings, lease)
        self._deferred_seconds = deferred_seconds
        self._sync = sync
        self._cache = cache
        self._unmatched: set[str] = set()
        """uids of Pods that the last relist found without a record of their incarnation."""
        self._unreadable = UnreadableLog()
        self._had_synced = True
        """False: the present relist follows a loss of the records."""
        self._services: dict[str, Service] | None = None
        """All Services by name, while a relist adopts Pods: one list is cheaper than one read for each Pod."""

    async def relist(self) -> str:
        """Compare every record with every Pod.

        Records are read before Pods are listed: a Pod that a record names, and that the later list lacks, is gone. The
        synced mark is written last: if the worker dies before, the next leader repeats all of it.
        """
        records = await self.records()
        self._had_synced = await self._sync.has_synced()
        pods = await self._kubernetes.list_all(PODS)
        await self._take_in(pods, records)
        if self._unmatched:
            services = await self._kubernetes.list_all(SERVICES)
            self._services = {service.metadata.name: service for service in services.items}
        try:
            await self.settle()
        finally:
            self._services = None
        if pods.is_complete:
            await self._report_missing(records, pods.uids)  # adopted ones are not missing
        await self._sync.mark_synced(self._lease)
        self._had_synced = True
        return pods.resource_version

    def on_event(self, event: WatchEvent[Pod]) -> None:
        """Store the Pod, and mark its uid as changed."""
        uid = event.object.metadata.uid
        cached = self._cache.put(event.object, self._store.now())
        if event.type == "DELETED":
            cached = self._cache.mark_deleted(uid)
        if cached is not None:
            self._queue.add(uid)

    async def on_watch_closed(self) -> None:
        """Write the synced mark: every event so far is in the records."""
        await self.settle()
        await self._sync.mark_synced(self._lease)

    async def reconcile(self, key: str) -> None:
        """Write what the Pod looks like into its record, or adopt the Pod if the record is lost."""
        cached = self._cache.get(key)
        if cached is None:
            return
        record = await self._update_from_pod(cached)
        if cached.is_deleted:
            self._cache.drop(key)
        elif not cached.pod.is_terminating:
            await self._match(cached, record)
        self._unmatched.discard(key)

    async def _take_in(self, pods: ObjectList[Pod], records: dict[str, Sandbox]) -> None:
        """Store the listed Pods, and mark as changed those that differ from their record.

        A Pod that cannot be decoded is not missing. Until it can be, its record stays as it is.
        """
        now = self._store.now()
        for number, pod in enumerate(pods.items, 1):
            cached = self._cache.put(pod, now)
            if cached is None:
                log.warning("ignoring Pod: labels match, but the name does not", pod=pod.metadata.name)
            elif self._differs(cached, records.get(cached.sandbox_id)):
                self._queue.add(cached.uid)
            if number % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        for cached in self._cache.mark_missing(pods.uids) if pods.is_complete else ():
            self._queue.add(cached.uid)

    def _differs(self, cached: CachedPod, record: Sandbox | None) -> bool:
        if record is not None and record.incarnation == cached.incarnation:
            return self._apply(record, cached) != record
        if cached.pod.is_terminating:
            return False
        self._unmatched.add(cached.uid)
        return True

    async def _report_missing(self, records: dict[str, Sandbox], uids: set[str]) -> None:
        """End the incarnations whose Pod is gone and was not seen by this leader."""
        for record in records.values():
            if record.pod_uid and record.pod_uid not in uids and self._cache.get(record.pod_uid) is None:
                await self._end(record.id, record.incarnation, record.pod_uid)

    async def _end(self, sandbox_id: str, incarnation: str, uid: str) -> None:
        def mutate(record: Sandbox) -> Update | None:
            return to_update(record, apply_pod_gone(record, incarnation, uid, deadline=self._retention_end()))

        await self._write(sandbox_id, incarnation, mutate)

    async def _update_from_pod(self, cached: CachedPod) -> Sandbox | None:
        """Write what the Pod looks like into its record. Returns the record of the id, of whichever incarnation."""
        return await self._write(cached.sandbox_id, cached.incarnation, lambda record: self._pod_update(record, cached))

    def _pod_update(self, record: Sandbox, cached: CachedPod) -> Update | None:
        if cached.is_deleted and record.pod_uid not in {"", cached.uid}:
            return None
        outcome = cached.outcome or cached.pod
        if is_rejected(outcome) and self._may_restart(record):
            message = outcome.status.message or outcome.status.reason
            return restart(record, self._settings, now=self._store.now(), reason=Reason.UNSCHEDULABLE, message=message)
        new = self._apply(record, cached)
        if cached.is_deleted:
            return to_update(
                record, apply_pod_gone(new, cached.incarnation, cached.uid, deadline=self._retention_end())
            )
        if new != record and not should_write(record, new):
            self._queue.add_after(cached.uid, self._deferred_seconds)
            return None
        return to_update(record, new)

    def _may_restart(self, record: Sandbox) -> bool:
        """Return True while the create may still succeed in its time."""
        return record.is_active and record.deadline is not None and self._store.now() < record.deadline

    def _apply(self, record: Sandbox, cached: CachedPod) -> Sandbox:
        now, deadline = self._store.now(), self._retention_end()
        for pod in (cached.outcome, cached.pod):
            if pod is not None:
                record = apply_pod(record, pod, now=now, deadline=deadline, first_seen=cached.first_seen)
        if record.is_active and not self._had_synced:  # uses since the data set was saved are lost
            record = touched(record, now)
        return record

    async def _match(self, cached: CachedPod, record: Sandbox | None) -> None:
        """Adopt a Pod whose record is lost. A relist also removes a Pod of an earlier incarnation."""
        if record is not None and record.incarnation == cached.incarnation:
            return
        try:
            await self._adopt_or_remove(cached, record)
        except AnnotationUnreadable as error:  # neither adopted nor removed
            self._unreadable.report(PODS.name, Unreadable(cached.pod.metadata, str(error)))

    async def _adopt_or_remove(self, cached: CachedPod, record: Sandbox | None) -> None:
        if record is None:
            await self._adopt(cached)
        elif cached.uid in self._unmatched:
            if is_record_lost(record, cached.pod, cached.incarnation, has_synced=self._had_synced):
                await self._adopt(cached)
            else:
                await self._remove_leftover(cached)

    async def _remove_leftover(self, cached: CachedPod) -> None:
        """Enqueue a terminate job for a Pod of an earlier incarnation: the job that should have removed it was lost."""
        now = self._store.now()

        def mutate(record: Sandbox) -> Update | None:
            if record.incarnation == cached.incarnation:
                return None
            job = Job(JobKind.TERMINATE, record.id, cached.incarnation, int(now))
            return Update(record, (job,), silent=True)

        await self._write(cached.sandbox_id, None, mutate)
        metrics.REPAIRS.labels("leftover").inc()

    async def _adopt(self, cached: CachedPod) -> None:
        """Create a record from a Pod.

        The Pod is read again: a list or an event may be stale, and the Pod already deleted, with its record. While a
        provision job runs its record cannot be deleted, so a Pod without a record is not being provisioned.
        """
        pod = await self._kubernetes.get_pod(cached.pod.metadata.name)
        if pod is None or pod.is_terminating or pod.metadata.uid != cached.uid or sandbox_of(pod) is None:
            return
        update = await self._adoption_update(cached, pod, await self._service_of(cached))

        def mutate(record: Sandbox | None) -> Update | None:
            if record is not None and record.incarnation == cached.incarnation:  # written since it was read
                return self._pod_update(record, cached)
            return (
                update if is_record_lost(record, cached.pod, cached.incarnation, has_synced=self._had_synced) else None
            )

        result = await self._store.create_or_update(cached.sandbox_id, mutate, precondition=self._lease)
        if result.written:
            log_status(cached.sandbox_id, None, result.record)

    async def _service_of(self, cached: CachedPod) -> Service | None:
        name = service_name(cached.sandbox_id, cached.incarnation)
        return await self._kubernetes.get_service(name) if self._services is None else self._services.get(name)

    async def _adoption_update(self, cached: CachedPod, pod: Pod, service: Service | None) -> Update:
        """Return the record of this Pod, or a terminate job if the record was deleted on purpose.

        Kubernetes may carry out late a create that this service gave up.
        """
        now = self._store.now()
        tombstone = await self._store.tombstone(cached.sandbox_id)
        if tombstone is not None and tombstone.incarnation == cached.incarnation:
            return Update(None, (Job(JobKind.TERMINATE, cached.sandbox_id, cached.incarnation, int(now)),))
        return adoption.adopt(pod, service, self._settings, now)

    async def _write(self, sandbox_id: str, incarnation: str | None, mutate: Mutate) -> Sandbox | None:
        before: Sandbox | None = None

        def remember(record: Sandbox) -> Sandbox | Update | None:
            nonlocal before
            before = record
            return mutate(record)

        result = await self._store.update(sandbox_id, remember, incarnation=incarnation, precondition=self._lease)
        if result.written:
            log_status(sandbox_id, before, result.record)
        return result.record

    def _retention_end(self) -> float:
        return self._store.now() + self._settings.failed_retention_seconds
