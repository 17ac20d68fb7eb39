"""The order of steps in which a life gets its Pod and Service, and loses them.

Each may die between any two steps and be run again, or twice at once: names follow from the life, so a second run finds
what the first has made; what it writes into the record, it writes only while the record is still of this life.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.queue.job import Job, JobKind
from shared.sandbox.expiry import ExpiryPolicy
from shared.sandbox.names import is_older_incarnation, object_name, service_name
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import (
    ProvisionedObjects,
    failed,
    new_incarnation,
    next_attempt,
    provisioned,
    started,
    with_reason,
)
from shared.sandbox.urls import service_url, with_url
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Mutate, Update
from worker import manifests
from worker.kubernetes import manifest_types, objects, retry
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.errors import AlreadyExists, KubernetesError, NamespaceMissing
from worker.kubernetes.labels import SANDBOX_ID, is_owned_by, is_pod_of, is_service_of
from worker.reconcile.adoption import sandbox_of
from worker.reconcile.pod_status import apply_pod_gone, to_update

log = structlog.get_logger()


class CleanupPending(Exception):
    """A life that is being ended may still get a Pod from a job that runs, or an earlier life has its own still: look
    again soon. A record outlives every Pod of its id, or else that Pod would be taken for one whose record was lost."""


class ClusterNotSynced(Exception):
    """Redis was emptied, or is new: what is in the cluster has to be known before anything is made or removed."""


class PodGone(Exception):
    """The Pod that this life had, of this uid, is gone, or going. It has had its one."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


class PodNameTaken(Exception):
    """The Pod name of this life belongs to something else; the next life has another name."""


def if_active(mutate: Callable[[Sandbox], Sandbox | Update]) -> Mutate:
    """Return `mutate` for an active record: a sandbox that is deleted or has failed meanwhile stays so."""
    return lambda record: mutate(record) if record.is_active else None


class Provisioner:
    def __init__(
        self, store: Store, sync: ClusterSync, workers: WorkerRegistry, cluster: KubernetesClient, settings: Settings
    ) -> None:
        self._store = store
        self._sync = sync
        self._workers = workers
        self._cluster = cluster
        self._settings = settings

    async def provision(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """Give this life its Pod and Service, and the record their URL. Does nothing when that is done or not wanted.

        Raises:
            KubernetesError: a temporary one; try again later.
            NotObserved: try again soon.
        """
        begun = self._store.now()
        record, epoch = await asyncio.gather(self._store.get(sandbox_id), self._sync.dataset_id())
        if record is None or record.incarnation != incarnation:
            # An earlier try of this job may have made a Pod, and died, or failed, before it could remove it. The epoch
            # counts as it is after that read: had Redis been emptied by then, the Pod is to be adopted, not removed.
            await self._require_synced(None, await self._sync.dataset_id())
            await self._remove(sandbox_id, incarnation)
        elif record.attempt != attempt or not record.is_active or record.is_provisioned:
            return
        elif record.deadline is not None and begun >= record.deadline:
            await self._fail(record, Reason.PROVISIONING_TIMED_OUT, f"Not made in time. {record.message}".strip())
        else:
            await self._provision_or_fail(record, begun, await self._require_synced(record, epoch))

    async def _require_synced(self, record: Sandbox | None, epoch: str | None) -> str:
        """The epoch, if the cluster is known in it. Raises NotObserved; the record says so while it waits."""
        if epoch is not None:
            return epoch
        if record is not None and not record.reason:
            message = "What is in the cluster is not known yet: the workers cannot list it, or have not begun."
            noted = if_active(lambda r: with_reason(r, Reason.CLUSTER_UNAVAILABLE, message))
            await self._store.update_cached(record, noted)
        raise ClusterNotSynced

    async def _provision_or_fail(self, record: Sandbox, begun: float, epoch: str) -> None:
        try:
            await self._create_objects(record, begun, epoch)
        except AlreadyExists:
            raise  # made by a call that seemed to have failed, or by another attempt: the next try finds it
        except PodGone as gone:
            await self._record_pod_lost(record, gone.uid)
        except PodNameTaken:
            await self._restart_under_new_name(record)
        except KubernetesError as error:
            await self._handle_api_error(record, begun, error)

    async def terminate(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """See to it that nothing of this life is left in the cluster; forget its record if it was being deleted.

        A Pod takes its grace to go. Nobody waits for that here: the observer sees it gone, and forgets the record.

        Raises:
            KubernetesError: try again later.
            NotGone: try again soon.
        """
        record = await self._store.get(sandbox_id)
        mine = record if record is not None and record.incarnation == incarnation else None
        if mine is not None and (mine.is_active or mine.attempt != attempt):
            return
        # Asked before looking for the Pod: a job that ends in between has made its Pod by the time we look.
        busy = mine is not None and await self._is_being_made(mine)
        gone = not await self._remove_known(mine) and await self._remove(sandbox_id, incarnation)
        if busy:
            raise CleanupPending(sandbox_id)
        if gone and mine is not None and mine.status is Status.TERMINATING:
            await self._end_earlier_lives(mine)
            await self._delete_record(mine)

    async def _create_objects(self, record: Sandbox, begun: float, epoch: str) -> None:
        pod = await self._pod(record)
        service = await self._service(record, pod)
        url = service_url(record, service.node_port, self._settings)
        made = ProvisionedObjects(pod.metadata.name, pod.metadata.uid, service.metadata.uid, url)

        def done(current: Sandbox) -> Sandbox:
            return provisioned(started(current, begun), made, now=self._store.now())

        outcome = await self._store.update_cached(record, if_active(done))
        if not outcome.written and outcome.record is None and await self._sync.dataset_id() != epoch:
            # Redis was emptied meanwhile, and ours is the only copy.
            outcome = await self._store.create_or_update(record.id, lambda r: done(record) if r is None else None)
        if outcome.written:
            log.info("provisioned", url=url, pod=pod.metadata.name)
        else:
            # Deleted, or replaced, while we made it. Should we die here, the next try of this job removes it.
            log.info("no longer wanted", pod=pod.metadata.name)
            await self._remove(record.id, record.incarnation)

    async def _pod(self, record: Sandbox) -> objects.Pod:
        if record.pod_uid:
            return await self._known_pod(record)
        try:
            return await self._create_pod(manifests.pod(record, self._settings))
        except AlreadyExists:
            found = await self._cluster.get_pod(object_name(record.id, record.incarnation))
        if found is None:
            return await self._create_pod(manifests.pod(record, self._settings))
        if not is_pod_of(found.metadata, record.id, record.incarnation):
            raise PodNameTaken(found.metadata.name)
        if found.is_terminating:
            raise PodGone(found.metadata.uid)
        return found

    async def _known_pod(self, record: Sandbox) -> objects.Pod:
        """A life has one Pod: another would be without all that the first one's user did in it."""
        found = await self._cluster.get_pod(object_name(record.id, record.incarnation))
        if found is None or found.is_terminating or found.metadata.uid != record.pod_uid:
            raise PodGone(record.pod_uid)
        return found

    async def _create_pod(self, pod: manifest_types.PodManifest) -> objects.Pod:
        """The namespace is made when the first Pod misses it: no order of starting, no permission if it is there."""
        try:
            return await self._cluster.create_pod(pod)
        except NamespaceMissing:
            await self._cluster.create_namespace()
            return await self._cluster.create_pod(pod)

    async def _service(self, record: Sandbox, pod: objects.Pod) -> objects.Service:
        """Made now, or by an earlier try. A full range of node ports hides that one: it is found before the name is."""
        wanted = manifests.service(record, pod.metadata.uid, self._settings)
        try:
            return await self._cluster.create_service(wanted)
        except KubernetesError as error:
            if not isinstance(error, AlreadyExists) and retry.reason_for(error) is not Reason.NODE_PORTS_EXHAUSTED:
                raise
            found = await self._cluster.get_service(wanted.metadata.name)
            if found and is_owned_by(found.metadata, pod.metadata):
                return found
            if found and found.metadata.labels.get(SANDBOX_ID) != record.id:
                raise KubernetesError(error.http_status, error.reason, f"{error.message}, and is not ours") from error
            if found:  # left by a Pod that is gone, and not yet collected with it
                await self._cluster.delete_service(found.metadata.name, found.metadata.uid)
            return await self._cluster.create_service(wanted)

    async def _handle_api_error(self, record: Sandbox, begun: float, error: KubernetesError) -> None:
        if not retry.is_retryable(error):
            await self._fail(record, retry.reason_for(error), error.message)
            return
        log.warning("kubernetes refused for now", error=str(error))

        def noted(current: Sandbox) -> Update:
            return Update(with_reason(started(current, begun), retry.reason_for(error), error.message))

        await self._store.update_cached(record, if_active(noted))
        raise error

    async def _record_pod_lost(self, record: Sandbox, uid: str) -> None:
        """The observer sees a Pod go; but it may have been gone before it came to look."""
        pod = await self._cluster.get_pod(object_name(record.id, record.incarnation))
        is_there = pod is not None and pod.metadata.uid == uid

        def lost(current: Sandbox) -> Update | None:
            if not current.is_active:
                return None
            if is_there:  # dying: the observer will see its end, if it knows whose it is
                return Update(replace(current, pod_uid=uid)) if not current.pod_uid else None
            deadline = self._store.now() + self._settings.failed_retention_seconds
            return to_update(current, apply_pod_gone(current, record.incarnation, uid, deadline=deadline))

        await self._store.update_cached(record, lost)

    async def _fail(self, record: Sandbox, reason: Reason, message: str) -> None:
        """Final: the record says why, and a job removes what was half made."""
        log.error("provisioning failed", reason=reason, message=message)

        def given_up(current: Sandbox) -> Update:
            deadline = self._store.now() + self._settings.failed_retention_seconds
            over = next_attempt(failed(current, reason, message, deadline=deadline))
            return Update(over, (Job.of(JobKind.TERMINATE, over),))

        await self._store.update_cached(record, if_active(given_up))

    async def _restart_under_new_name(self, record: Sandbox) -> None:
        """The time in which it must be made stays what it was."""

        def moved(current: Sandbox) -> Update:
            policy = ExpiryPolicy(current.idle_timeout, current.lifetime)
            again = new_incarnation(
                current, current.spec, now=self._store.now(), deadline=current.deadline, policy=policy
            )
            following = with_url(again, self._settings)
            return Update(following, (Job.of(JobKind.PROVISION, following),))

        await self._store.update_cached(record, if_active(moved))
        log.warning("pod name taken, going on as the next life", pod=object_name(record.id, record.incarnation))

    async def _remove_known(self, record: Sandbox | None) -> bool:
        """Delete what the record says there is, without looking first. False: its Pod is not there, or not known."""
        if record is None or not record.is_provisioned:
            return False
        await self._cluster.delete_service(service_name(record.id, record.incarnation), record.service_uid)
        return await self._cluster.delete_pod(record.pod_name, record.pod_uid)

    async def _remove(self, sandbox_id: str, incarnation: str) -> bool:
        """Delete this life's Service and Pod, and nobody else's of their names. True: the Pod is gone already."""
        service = await self._cluster.get_service(service_name(sandbox_id, incarnation))
        if service and is_service_of(service.metadata, sandbox_id, incarnation):
            await self._cluster.delete_service(service.metadata.name, service.metadata.uid)
        pod = await self._cluster.get_pod(object_name(sandbox_id, incarnation))
        if pod is None or not is_pod_of(pod.metadata, sandbox_id, incarnation):
            return True
        if pod.is_terminating:
            return False
        return not await self._cluster.delete_pod(pod.metadata.name, pod.metadata.uid)

    async def _end_earlier_lives(self, record: Sandbox) -> None:
        """Each has a job of its own, which may be late, or lost. Raises NotGone."""
        if record.generation == 1:
            return
        incarnations = [of[1] for pod in await self._cluster.pods_of(record.id) if (of := sandbox_of(pod))]
        earlier = [incarnation for incarnation in incarnations if is_older_incarnation(incarnation, record)]
        for incarnation in earlier:
            await self._remove(record.id, incarnation)
        if earlier:
            raise CleanupPending(record.id)

    async def _is_being_made(self, record: Sandbox) -> bool:
        """A worker that was killed does not make it any more, though its mark lasts for a while."""
        begun = await self._store.provisioning_workers(record)
        return await self._workers.any_alive(begun) if begun else False

    async def _delete_record(self, record: Sandbox) -> None:
        def delete(current: Sandbox) -> Update | None:
            return Update(None) if current.status is Status.TERMINATING else None

        await self._store.update_cached(record, delete)
        log.info("gone")
