"""The order of steps in which a life gets its Pod and Service, and loses them.

Each may die between any two steps and be run again, or twice at once: names follow from the life, so a second run finds
what the first has made; what it writes into the record, it writes only while the record is still of this life.
"""

from collections.abc import Callable

import structlog

from shared.addresses import addressed, node_port_url
from shared.queue import Job, Work
from shared.sandbox import (
    Reason,
    Sandbox,
    Status,
    another_attempt,
    failed,
    next_life,
    object_name,
    provisioned,
    service_name,
    troubled,
)
from shared.settings import ServiceType, Settings
from shared.store import Change, Move, Store
from worker import manifests, retries, seen
from worker.cluster import Cluster
from worker.kubernetes_errors import AlreadyExists, KubernetesError, NamespaceMissing
from worker.manifests import kinds
from worker.manifests.labels import SANDBOX_ID, is_of

log = structlog.get_logger()


class StillProvisioning(Exception):
    """A life that is being ended may still get a Pod from a job that runs: look again when that has ended."""


class NameTaken(Exception):
    """The Pod name of this life belongs to something else; the next life has another name."""


def while_wanted(record: Sandbox, then: Callable[[Sandbox], Change]) -> Move:
    """A move of this very life; none once it is over, being ended, or followed by another."""

    def move(current: Sandbox | None) -> Change | None:
        if current is None or current.life != record.life or not current.wants_pod:
            return None
        return then(current)

    return move


class Provisioner:
    def __init__(self, store: Store, cluster: Cluster, settings: Settings) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings

    async def provision(self, sandbox_id: str, life: str, attempt: int) -> None:
        """Give this life its Pod and Service, and the record their URL. Does nothing when that is done or not wanted.

        Raises:
            KubernetesError: a temporary one; try again later.
        """
        record = await self._store.get(sandbox_id)
        if record is None or record.life != life:
            # An earlier try of this job may have made a Pod, and died, or failed, before it could remove it.
            await self._remove(sandbox_id, life)
            return
        if record.attempt != attempt or not record.wants_pod or record.is_provisioned:
            return
        if self._store.now() >= record.created_at + self._settings.provision_timeout_seconds:
            await self._give_up(record, Reason.PROVISIONING_TIMED_OUT, f"Not made in time. {record.message}".strip())
            return
        try:
            await self._make(record)
        except NameTaken:
            await self._move_on(record)
        except KubernetesError as error:
            await self._refused(record, error)

    async def terminate(self, sandbox_id: str, life: str, attempt: int) -> None:
        """See to it that nothing of this life is left in the cluster; forget its record if it was being deleted.

        A Pod takes its grace to go. Nobody waits for that here: the observer sees it gone, and forgets the record.

        Raises:
            KubernetesError: try again later.
            StillProvisioning: try again soon.
        """
        record = await self._store.get(sandbox_id)
        mine = record if record is not None and record.life == life else None
        if mine is not None and (mine.wants_pod or mine.attempt != attempt):
            return
        # Asked before looking for the Pod: a job that ends in between has made its Pod by the time we look.
        busy = mine is not None and await self._store.is_provisioning(mine)
        gone = await self._remove(sandbox_id, life)
        if busy:
            raise StillProvisioning(sandbox_id)
        if gone and mine is not None and mine.status is Status.TERMINATING:
            await self._forget(mine)

    async def _make(self, record: Sandbox) -> None:
        pod = await self._pod(record)
        service = await self._service(record, pod)
        url = record.url
        if self._settings.sandbox_service_type is ServiceType.NODE_PORT and service.node_port:
            url = node_port_url(service.node_port, self._settings)

        names = {"pod_name": pod.metadata.name, "pod_uid": pod.metadata.uid}
        made = while_wanted(record, lambda r: Change(provisioned(r, url=url, now=self._store.now(), **names)))
        outcome = await self._store.change(record.id, made, believed=record)
        if outcome.written:
            log.info("provisioned", url=url, pod=pod.metadata.name)
        else:
            # Deleted, or replaced, while we made it. Should we die here, the next try of this job removes it.
            log.info("no longer wanted", pod=pod.metadata.name)
            await self._remove(record.id, record.life)

    async def _pod(self, record: Sandbox) -> seen.Pod:
        try:
            return await self._create_pod(manifests.pod(record, self._settings))
        except AlreadyExists:
            found = await self._cluster.get_pod(object_name(record.id, record.life))
        if found is None:
            return await self._create_pod(manifests.pod(record, self._settings))
        if found.is_dying or not is_of(found.metadata.labels, record.id, record.life):
            raise NameTaken(found.metadata.name)
        return found

    async def _create_pod(self, pod: kinds.Pod) -> seen.Pod:
        """The namespace is made when the first Pod misses it: no order of starting, no permission if it is there."""
        try:
            return await self._cluster.create_pod(pod)
        except NamespaceMissing:
            await self._cluster.create_namespace()
            return await self._cluster.create_pod(pod)

    async def _service(self, record: Sandbox, pod: seen.Pod) -> seen.Service:
        """Made now, or by an earlier try. A full range of node ports hides that one: it is found before the name is."""
        wanted = manifests.service(record, pod.metadata.uid, self._settings)
        try:
            return await self._cluster.create_service(wanted)
        except KubernetesError as error:
            if not isinstance(error, AlreadyExists) and retries.reason(error) is not Reason.NODE_PORTS_EXHAUSTED:
                raise
            found = await self._cluster.get_service(wanted.metadata.name)
            if found and any(owner.uid == pod.metadata.uid for owner in found.metadata.owner_references):
                return found
            if found and found.metadata.labels.get(SANDBOX_ID) != record.id:
                raise KubernetesError(error.http_status, error.reason, f"{error.message}, and is not ours") from error
            if found:  # left by a Pod that is gone, and not yet collected with it
                await self._cluster.delete_service(found.metadata.name, found.metadata.uid)
            return await self._cluster.create_service(wanted)

    async def _refused(self, record: Sandbox, error: KubernetesError) -> None:
        if not retries.is_temporary(error):
            await self._give_up(record, retries.reason(error), error.message)
            return
        log.warning("kubernetes refused for now", error=str(error))

        noted = while_wanted(record, lambda r: Change(troubled(r, retries.reason(error), error.message)))
        await self._store.change(record.id, noted, believed=record)
        raise error

    async def _give_up(self, record: Sandbox, reason: Reason, message: str) -> None:
        """Final: the record says why, and a job removes what was half made."""
        log.error("provisioning failed", reason=reason, message=message)

        def given_up(current: Sandbox) -> Change:
            until = self._store.now() + self._settings.failed_retention_seconds
            over = another_attempt(failed(current, reason, message, until=until))
            return Change(over, (Job.of(Work.TERMINATE, over),))

        await self._store.change(record.id, while_wanted(record, given_up), believed=record)

    async def _move_on(self, record: Sandbox) -> None:
        def moved(current: Sandbox) -> Change:
            now = self._store.now()
            until = now + self._settings.provision_timeout_seconds
            following = addressed(next_life(current, current.spec, now=now, until=until), self._settings)
            return Change(following, (Job.of(Work.PROVISION, following),))

        await self._store.change(record.id, while_wanted(record, moved), believed=record)
        log.warning("pod name taken, going on as the next life", pod=object_name(record.id, record.life))

    async def _remove(self, sandbox_id: str, life: str) -> bool:
        """Delete this life's Service and Pod, and nobody else's of their names. True: the Pod is gone already."""
        service = await self._cluster.get_service(service_name(sandbox_id, life))
        if service and is_of(service.metadata.labels, sandbox_id, life):
            await self._cluster.delete_service(service.metadata.name, service.metadata.uid)
        pod = await self._cluster.get_pod(object_name(sandbox_id, life))
        if pod is None or not is_of(pod.metadata.labels, sandbox_id, life):
            return True
        if pod.is_dying:
            return False
        return not await self._cluster.delete_pod(pod.metadata.name, pod.metadata.uid)

    async def _forget(self, record: Sandbox) -> None:
        def forgotten(current: Sandbox | None) -> Change | None:
            if current is None or current.life != record.life or current.status is not Status.TERMINATING:
                return None
            return Change(None)

        await self._store.change(record.id, forgotten, believed=record)
        log.info("gone")
