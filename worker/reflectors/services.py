"""Keeps every Service of ours in view: a sandbox that has lost its own cannot be reached, and gets another one."""

from collections.abc import Sequence

from shared.queue.job import Job, JobKind
from shared.sandbox.record import Sandbox
from shared.sandbox.transitions import next_attempt, without_service
from shared.store.update import Update
from worker.kubernetes import client, objects
from worker.kubernetes.client import PODS, SERVICES
from worker.kubernetes.labels import SANDBOX_ID, is_legacy, legacy_incarnation
from worker.reflectors.reflector import Reflector


class ServiceReflector(Reflector[objects.Service]):
    resource = SERVICES

    async def begin(self) -> str:
        """Records are read first: a Service that one knew of by then, and that the later list lacks, is gone."""
        records = await self._records()
        services = await self._cluster.list_all(SERVICES)
        there = {service.metadata.uid for service in services.items}
        for record in records.values():
            if record.service_uid and record.service_uid not in there:
                await self._lost(record.id, record.service_uid)
        await self._leave_none_over([s for s in services.items if _is_older(s)])
        return services.resource_version

    def about(self, change: client.WatchEvent[objects.Service]) -> str:
        return change.object.metadata.labels.get(SANDBOX_ID, "")

    async def apply(self, changes: Sequence[client.WatchEvent[objects.Service]]) -> None:
        for metadata in (change.object.metadata for change in changes if change.type == "DELETED"):
            await self._lost(metadata.labels.get(SANDBOX_ID, ""), metadata.uid)

    async def _lost(self, sandbox_id: str, uid: str) -> None:
        def mutate(record: Sandbox | None) -> Update | None:
            if record is None or record.service_uid != uid or not record.is_active:
                return None
            again = next_attempt(without_service(record))
            return Update(again, (Job.of(JobKind.PROVISION, again),))

        await self._change(sandbox_id, mutate)

    async def _leave_none_over(self, services: list[objects.Service]) -> None:
        """The older provisioner's Services had no owner, so they stayed when their Pods went: a job removes them."""
        if not services:
            return
        pods = {pod.metadata.labels.get(SANDBOX_ID) for pod in (await self._cluster.list_all(PODS)).items}
        for service in services:
            if service.metadata.labels[SANDBOX_ID] not in pods:
                await self._remove(service)

    async def _remove(self, service: objects.Service) -> None:
        sandbox_id, incarnation = service.metadata.labels[SANDBOX_ID], legacy_incarnation(service.metadata)

        def mutate(record: Sandbox | None) -> Update | None:
            return Update(None, (Job(JobKind.TERMINATE, sandbox_id, incarnation),)) if record is None else None

        await self._change(sandbox_id, mutate)


def _is_older(service: objects.Service) -> bool:
    metadata = service.metadata
    return is_legacy(metadata) and not metadata.owner_references and bool(metadata.labels.get(SANDBOX_ID))
