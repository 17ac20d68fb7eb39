"""Reflects lost Services: a sandbox without its Service cannot be reached, and gets another one."""

from shared.queue.job import Job, JobKind
from shared.sandbox.record import Sandbox
from shared.sandbox.transitions import next_attempt, without_service
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Precondition, Update
from worker.kubernetes.client import PODS, SERVICES, KubernetesClient, WatchEvent
from worker.kubernetes.labels import SANDBOX_ID, is_legacy, legacy_incarnation
from worker.kubernetes.objects import ObjectMeta, Service
from worker.reflectors.reflector import Reflector


class ServiceReflector(Reflector[Service]):
    """Keeps the deleted Services that are not reconciled yet. Its keys are uids."""

    resource = SERVICES

    def __init__(self, store: Store, kubernetes: KubernetesClient, settings: Settings, lease: Precondition) -> None:
        super().__init__(store, kubernetes, settings, lease)
        self._deleted: dict[str, str] = {}
        """uid → the id of the sandbox that lost this Service."""

    async def relist(self) -> str:
        """Compare every record with every Service.

        Records are read before Services are listed: a Service that a record names, and that the later list lacks, is
        gone.
        """
        records = await self.records()
        services = await self._kubernetes.list_all(SERVICES)
        uids = services.uids
        for record in records.values() if services.is_complete else ():
            if record.service_uid and record.service_uid not in uids:
                self._lose(record.id, record.service_uid)
        await self._remove_legacy_leftovers([s.metadata for s in services.items if _is_unowned_legacy(s.metadata)])
        await self.settle()
        return services.resource_version

    def on_event(self, event: WatchEvent[Service]) -> None:
        """Mark the sandbox of a deleted Service as changed."""
        if event.type == "DELETED":
            self._lose(event.object.metadata.labels.get(SANDBOX_ID, ""), event.object.metadata.uid)

    async def reconcile(self, key: str) -> None:
        """Take the Service out of its record, and enqueue the job that creates another one."""
        sandbox_id = self._deleted.get(key)
        if sandbox_id is None:
            return

        def mutate(record: Sandbox) -> Update | None:
            if record.service_uid != key or not record.is_active:
                return None
            retried = next_attempt(without_service(record))
            return Update(retried, (Job.of(JobKind.PROVISION, retried),))

        await self._store.update(sandbox_id, mutate, precondition=self._lease)
        del self._deleted[key]

    def _lose(self, sandbox_id: str, uid: str) -> None:
        self._deleted[uid] = sandbox_id
        self._queue.add(uid)

    async def _remove_legacy_leftovers(self, services: list[ObjectMeta]) -> None:
        """Enqueue a job for each Service of the legacy provisioner whose Pod is gone.

        Such a Service has no owner, so Kubernetes does not remove it with its Pod.
        """
        if not services:
            return
        pods = await self._kubernetes.list_all(PODS)
        with_pod = {metadata.labels.get(SANDBOX_ID) for metadata in pods.metadata}
        for service in services if pods.is_complete else ():
            if service.labels[SANDBOX_ID] not in with_pod:
                await self._remove(service)

    async def _remove(self, service: ObjectMeta) -> None:
        sandbox_id = service.labels[SANDBOX_ID]
        job = Job(JobKind.TERMINATE, sandbox_id, legacy_incarnation(service))
        await self._store.create_or_update(
            sandbox_id, lambda record: Update(None, (job,)) if record is None else None, precondition=self._lease
        )


def _is_unowned_legacy(service: ObjectMeta) -> bool:
    return is_legacy(service) and not service.owner_references and bool(service.labels.get(SANDBOX_ID))
