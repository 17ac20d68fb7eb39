"""Keeps every Pod of ours in view: what it looks like is what its record says."""

import asyncio
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

import structlog
from msgspec import UNSET, UnsetType

from shared import metrics
from shared.liveness.sync import ClusterSync
from shared.queue.job import Job, JobKind
from shared.sandbox.names import service_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition, Update
from worker.kubernetes import client, objects
from worker.kubernetes.client import PODS, SERVICES, KubernetesClient
from worker.kubernetes.labels import SANDBOX_ID
from worker.reconcile import adoption
from worker.reconcile.adoption import is_record_lost, sandbox_of
from worker.reconcile.pod_status import apply_pod, apply_pod_gone, should_write, to_update
from worker.reflectors.reflector import Reflector

log = structlog.get_logger()

Ours = dict[str, str]
"""uid of each Pod of ours that is there → its sandbox' id: for whoever hears of a Pod by its uid."""
BREATH = 100
"""Pods that are compared before this worker's jobs have their turn."""
AT_ONCE = 16
"""Pods that are adopted at a time: an emptied Redis has lost them all, and Kubernetes is asked for each."""


class PodReflector(Reflector[objects.Pod]):
    resource = PODS

    def __init__(
        self,
        sync: ClusterSync,
        ours: Ours,
        store: Store,
        cluster: KubernetesClient,
        settings: Settings,
        precondition: Precondition,
    ) -> None:
        super().__init__(store, cluster, settings, precondition)
        self._sync = sync
        self._ours = ours
        self._scheduled: dict[str, float] = {}
        """When Pods were first seen to have a node, by uid: of those whose record did not say so at once."""
        self._held_back: dict[str, objects.Pod] = {}
        """As they look, by uid: of those whose record does not say all of it yet."""
        self._retention = settings.failed_retention_seconds

    async def begin(self) -> str:
        """Hold every record against every Pod.

        Records are read first: a Pod that a record knew of by then, and that the later list lacks, is gone. The mark
        that the records are complete comes last: should we die before, the next leader does all of it again.
        """
        records = await self._records()
        is_complete = await self._sync.has_synced()
        pods = await self._cluster.list_all(PODS)
        self._ours.clear()
        self._ours.update((pod.metadata.uid, of[0]) for pod in pods.items if (of := sandbox_of(pod)))
        self._held_back.clear()
        self._scheduled = {uid: at for uid, at in self._scheduled.items() if uid in self._ours}
        orphans = []
        for number, pod in enumerate(pods.items, 1):
            known = records.get(pod.metadata.labels.get(SANDBOX_ID, ""))
            if not await self._compare(pod, known, is_complete=is_complete):
                orphans.append(pod)
            if number % BREATH == 0:
                await asyncio.sleep(0)
        await self._adopt_all(orphans, is_complete=is_complete)
        await self._miss(records.values(), {pod.metadata.uid for pod in pods.items})
        await self._sync.mark_synced(self._guard)
        return pods.resource_version

    async def watched(self) -> None:
        for pod in list(self._held_back.values()):
            await self._see(*(sandbox_of(pod) or ("", "")), pod)
        await self._sync.mark_synced(self._guard)

    def about(self, change: client.WatchEvent[objects.Pod]) -> str:
        return change.object.metadata.labels.get(SANDBOX_ID, "")

    async def apply(self, changes: Sequence[client.WatchEvent[objects.Pod]]) -> None:
        for change, then in zip(changes, [*changes[1:], None], strict=True):
            if not _is_outdated(change, then):
                await self._apply(change)

    async def _apply(self, change: client.WatchEvent[objects.Pod]) -> None:
        pod = change.object
        of = sandbox_of(pod)
        if of is None:
            return
        if change.type == "DELETED":
            self._ours.pop(pod.metadata.uid, None)
            self._scheduled.pop(pod.metadata.uid, None)
            self._held_back.pop(pod.metadata.uid, None)
            await self._lost(*of, pod.metadata.uid)
            return
        self._ours[pod.metadata.uid] = of[0]
        if not await self._see(*of, pod) and not pod.is_terminating:
            await self._adopt(pod, await self._cluster.get_service(service_name(*of)))

    async def _compare(self, pod: objects.Pod, record: Sandbox | None, *, is_complete: bool) -> bool:
        """False: no record knows this Pod, and one should."""
        of = sandbox_of(pod)
        if of is None:
            log.warning("a Pod with our label is none of ours, and left alone", pod=pod.metadata.name)
        elif record is not None and record.incarnation == of[1]:
            await self._see(*of, pod, record)
        elif pod.is_terminating:
            pass
        elif is_record_lost(record, of[1], is_complete=is_complete):
            return False
        else:
            await self._outlived(*of)
        return True

    async def _see(
        self, sandbox_id: str, incarnation: str, pod: objects.Pod, believed: Sandbox | UnsetType = UNSET
    ) -> bool:
        """False: there is no record of that id. When the one believed to be there says it all, none is read."""

        def mutate(record: Sandbox | None) -> Update | None:
            return self._shown(record, pod) if record is not None and record.incarnation == incarnation else None

        if believed is not UNSET and mutate(believed) is None:
            return True
        return await self._change(sandbox_id, mutate, believed)

    def _shown(self, record: Sandbox, pod: objects.Pod) -> Update | None:
        """What its own Pod makes of a record."""
        now, uid = self._store.now(), pod.metadata.uid
        deadline, scheduled = now + self._retention, self._scheduled.get(uid)
        new = apply_pod(record, pod, now=now, deadline=deadline, scheduled=scheduled)
        if new == record or should_write(record, new):
            self._held_back.pop(uid, None)
            return to_update(record, new)
        self._held_back[uid] = pod
        if new.timings.scheduled:
            self._scheduled.setdefault(uid, new.timings.scheduled)
        return None

    async def _outlived(self, sandbox_id: str, incarnation: str) -> None:
        """Its sandbox is in a later life, and the job that should have removed this Pod was lost: here is another."""

        def mutate(record: Sandbox | None) -> Update | None:
            if record is None or record.incarnation == incarnation:
                return None
            return Update(
                record, (Job(JobKind.TERMINATE, record.id, incarnation, int(self._store.now())),), silent=True
            )

        await self._change(sandbox_id, mutate)
        metrics.REPAIRS.labels("leftover").inc()

    async def _adopt_all(self, orphans: Sequence[objects.Pod], *, is_complete: bool) -> None:
        """A few at a time. Raises KubernetesError: the rest is for the next time."""
        if not orphans:
            return
        services = {s.metadata.name: s for s in (await self._cluster.list_all(SERVICES)).items}

        async def adopt(pod: objects.Pod) -> None:
            service = services.get(service_name(*(sandbox_of(pod) or ("", ""))))
            await self._adopt(pod, service, is_complete=is_complete)

        for start in range(0, len(orphans), AT_ONCE):
            done = await asyncio.gather(*map(adopt, orphans[start : start + AT_ONCE]), return_exceptions=True)
            for outcome in done:
                if outcome is not None:
                    raise outcome

    async def _adopt(self, pod: objects.Pod, service: objects.Service | None, *, is_complete: bool = True) -> None:
        """Asked for once more: a list or an event may be late, and tell of a Pod that was removed since, and its record
        with it. While jobs make a Pod its record cannot go, so one without a record is nobody's work in progress."""
        there = await self._cluster.get_pod(pod.metadata.name)
        if there is None or there.is_terminating or there.metadata.uid != pod.metadata.uid:
            return
        sandbox_id, incarnation = sandbox_of(there) or ("", "")
        wanted = await self._wanted(sandbox_id, incarnation, there, service)

        def mutate(record: Sandbox | None) -> Update | None:
            if record is not None and record.incarnation == incarnation:  # written since the records were read
                return self._shown(record, there)
            return wanted if is_record_lost(record, incarnation, is_complete=is_complete) else None

        await self._change(sandbox_id, mutate)

    async def _wanted(
        self, sandbox_id: str, incarnation: str, pod: objects.Pod, service: objects.Service | None
    ) -> Update:
        """Its record or, if that was forgotten on purpose, a job: Kubernetes may carry out late what we gave up."""
        ended = await self._store.tombstone(sandbox_id)
        if ended is not None and ended.incarnation == incarnation:
            return Update(None, (Job(JobKind.TERMINATE, sandbox_id, incarnation, int(self._store.now())),))
        return adoption.adopt(pod, service, self._settings, self._store.now())

    async def _miss(self, records: Iterable[Sandbox], there: AbstractSet[str]) -> None:
        for record in records:
            if record.pod_uid and record.pod_uid not in there:
                await self._lost(record.id, record.incarnation, record.pod_uid)

    async def _lost(self, sandbox_id: str, incarnation: str, uid: str) -> None:
        def mutate(record: Sandbox | None) -> Update | None:
            if record is None:
                return None
            return to_update(
                record, apply_pod_gone(record, incarnation, uid, deadline=self._store.now() + self._retention)
            )

        await self._change(sandbox_id, mutate)


def _is_outdated(change: client.WatchEvent[objects.Pod], then: client.WatchEvent[objects.Pod] | None) -> bool:
    """What a Pod looked like before it looked as it does now is worth nothing; that it was ready once is, and how it
    looked at its end."""
    if then is None or "DELETED" in {change.type, then.type}:
        return False
    was_ready = change.object.is_condition_true("Ready") and not then.object.is_condition_true("Ready")
    return then.object.metadata.uid == change.object.metadata.uid and not was_ready
