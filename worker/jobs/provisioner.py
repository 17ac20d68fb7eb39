"""The provision job and the terminate job: the order of steps that creates or deletes Pod and Service.

A worker may die between any two steps. Each job may run again, or twice at once: a second run finds the objects of the
first one by their names. A job writes into the record only while the record is still of the job's incarnation.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.queue.job import Job, JobKind
from shared.sandbox.names import is_older_incarnation
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import (
    ProvisionedObjects,
    failed,
    next_attempt,
    provisioned,
    started,
    with_reason,
)
from shared.sandbox.urls import service_url
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Mutate, Update
from worker.jobs.cluster_objects import ClusterObjects, NameTaken, PodGone
from worker.kubernetes import retry
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.errors import AlreadyExists, KubernetesError
from worker.reconcile.pod_status import apply_pod_gone, to_update
from worker.reconcile.restart import restart

log = structlog.get_logger()


class CleanupPending(Exception):
    """The record must not be deleted yet: a provision job still runs, or an older Pod of this id still exists.

    A Pod without a record would be adopted.
    """


class ClusterNotSynced(Exception):
    """Redis is new or was emptied. Until a leader has listed the cluster, nothing is created or deleted."""


def if_active(mutate: Callable[[Sandbox], Sandbox | Update]) -> Mutate:
    """Return `mutate` for an active record: a sandbox that is deleted or has failed meanwhile stays so."""
    return lambda record: mutate(record) if record.is_active else None


class Provisioner:
    """Runs provision jobs and terminate jobs of one cluster."""

    def __init__(
        self, store: Store, sync: ClusterSync, workers: WorkerRegistry, kubernetes: KubernetesClient, settings: Settings
    ) -> None:
        self._store = store
        self._sync = sync
        self._workers = workers
        self._objects = ClusterObjects(kubernetes, settings)
        self._settings = settings

    async def provision(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """Create this incarnation's Pod and Service, and write the URL into its record. Do nothing if that is done.

        Raises:
            KubernetesError: a temporary error; try again later.
            ClusterNotSynced: try again soon.
        """
        started_at = self._store.now()
        record, dataset_id = await asyncio.gather(self._store.get(sandbox_id), self._sync.dataset_id())
        if record is None or record.incarnation != incarnation:
            await self._remove_leftovers(sandbox_id, incarnation)
        elif record.attempt != attempt or not record.is_active or record.is_provisioned:
            return
        elif record.deadline is not None and started_at >= record.deadline:
            message = f"Not provisioned in time. {record.message}".strip()
            await self._fail(record, record.reason or Reason.PROVISIONING_TIMED_OUT, message)
        elif dataset_id is None:
            await self._report_not_synced(record)
            raise ClusterNotSynced
        else:
            await self._provision_or_fail(record, started_at, dataset_id)

    async def terminate(self, sandbox_id: str, incarnation: str, attempt: int) -> None:
        """Delete all objects of this incarnation. Delete its record, too, if the sandbox was deleted.

        This job does not wait for a Pod's grace period: the leader sees the Pod's end, and deletes the record.

        Raises:
            KubernetesError: try again later.
            CleanupPending: try again soon.
        """
        record = await self._store.get(sandbox_id)
        if record is None or record.incarnation != incarnation:
            await self._objects.delete(sandbox_id, incarnation)
        elif not record.is_active and record.attempt == attempt:
            await self._terminate(record)

    async def _terminate(self, record: Sandbox) -> None:
        # Read before the look-up of the Pod: a provision job that ends in between has created its Pod by then.
        is_provisioning = await self._is_provisioning(record)
        is_deleted = await self._objects.delete_recorded(record)
        is_gone = not is_deleted and await self._objects.delete(record.id, record.incarnation)
        if is_provisioning:
            raise CleanupPending(record.id)
        if is_gone and record.status is Status.TERMINATING:
            if await self._objects.delete_older(record):  # each has its own job, which may be late or lost
                raise CleanupPending(record.id)
            await self._delete_record(record)

    async def _remove_leftovers(self, sandbox_id: str, incarnation: str) -> None:
        """Remove what an earlier try of this job created before it died or failed. The record is gone.

        The dataset id is read after the record: if Redis was emptied before, the Pod must be adopted, not removed.

        Raises:
            ClusterNotSynced: Redis was emptied.
        """
        if await self._sync.dataset_id() is None:
            raise ClusterNotSynced
        await self._objects.delete(sandbox_id, incarnation)

    async def _report_not_synced(self, record: Sandbox) -> None:
        if record.reason:
            return
        message = "The cluster is not synced: no worker has listed it yet, or the workers cannot list it."
        await self._store.update_cached(
            record, if_active(lambda current: with_reason(current, Reason.CLUSTER_UNAVAILABLE, message))
        )

    async def _provision_or_fail(self, record: Sandbox, started_at: float, dataset_id: str) -> None:
        try:
            await self._create_objects(record, started_at, dataset_id)
        except AlreadyExists:
            raise  # created by a call that seemed to fail, or by another attempt: the next try finds the object
        except PodGone as error:
            await self._record_pod_lost(record, error.uid)
        except NameTaken as error:
            await self._restart_under_new_name(record, str(error))
        except KubernetesError as error:
            await self._handle_api_error(record, started_at, error)

    async def _create_objects(self, record: Sandbox, started_at: float, dataset_id: str) -> None:
        pod = await self._objects.ensure_pod(record)
        service = await self._objects.ensure_service(record, pod)
        url = service_url(record, service.node_port, self._settings)
        created = ProvisionedObjects(pod.metadata.name, pod.metadata.uid, service.metadata.uid, url, service.node_port)

        def mutate(current: Sandbox) -> Update:
            # An Update is written even if another run of this job wrote the same: unwritten means not needed.
            return Update(provisioned(started(current, started_at), created, now=self._store.now()))

        result = await self._store.update_cached(record, if_active(mutate))
        if not result.written and result.record is None and await self._is_record_lost(record, dataset_id):
            # This job holds the only copy of the record.
            result = await self._store.create_or_update(record.id, lambda r: mutate(record) if r is None else None)
        if not result.written and result.record is not None and await self._sync.dataset_id() != dataset_id:
            raise ClusterNotSynced  # Redis went back in time: the leader adopts the newer Pod
        if result.written:
            log.info("sandbox provisioned", url=url, pod=pod.metadata.name)
        else:
            # The record was deleted or replaced meanwhile. If this worker dies here, the job's next try removes them.
            log.info("sandbox not needed any more; removing its objects", pod=pod.metadata.name)
            await self._objects.delete(record.id, record.incarnation)

    async def _is_record_lost(self, record: Sandbox, dataset_id: str) -> bool:
        """Return True if Redis lost the missing record since this job began. A delete leaves a tombstone instead."""
        if await self._sync.dataset_id() == dataset_id:
            return False
        tombstone = await self._store.tombstone(record.id)
        return tombstone is None or is_older_incarnation(tombstone.incarnation, record)

    async def _handle_api_error(self, record: Sandbox, started_at: float, error: KubernetesError) -> None:
        """Fail the record if the error is permanent. Otherwise write the reason and raise the error again."""
        if not retry.is_retryable(error):
            await self._fail(record, retry.reason_for(error), error.message)
            return
        log.warning("kubernetes call failed; job retries", error=str(error))

        def mutate(current: Sandbox) -> Update:
            return Update(with_reason(started(current, started_at), retry.reason_for(error), error.message))

        await self._store.update_cached(record, if_active(mutate))
        raise error

    async def _record_pod_lost(self, record: Sandbox, uid: str) -> None:
        """Write that the Pod is gone. The leader did not see that if the Pod ended before the leader's first list."""
        exists = await self._objects.has_pod(record, uid)

        def mutate(current: Sandbox) -> Update | None:
            if not current.is_active:
                return None
            if exists:  # terminating: the leader sees its end, if the record names it
                return Update(replace(current, pod_uid=uid)) if not current.pod_uid else None
            deadline = self._store.now() + self._settings.failed_retention_seconds
            return to_update(current, apply_pod_gone(current, record.incarnation, uid, deadline=deadline))

        await self._store.update_cached(record, mutate)

    async def _fail(self, record: Sandbox, reason: str, message: str) -> None:
        """Write a final failure with its reason, and a job that removes what was created."""
        log.error("provisioning failed", reason=reason, message=message)

        def mutate(current: Sandbox) -> Update:
            deadline = self._store.now() + self._settings.failed_retention_seconds
            failure = next_attempt(failed(current, reason, message, deadline=deadline))
            return Update(failure, (Job.of(JobKind.TERMINATE, failure),))

        await self._store.update_cached(record, if_active(mutate))

    async def _restart_under_new_name(self, record: Sandbox, name: str) -> None:
        """Continue with the next incarnation: an object of another program has the name of this incarnation's Pod."""
        log.warning("name taken; continuing with the next incarnation", name=name)
        await self._store.update_cached(
            record, if_active(lambda current: restart(current, self._settings, now=self._store.now()))
        )

    async def _is_provisioning(self, record: Sandbox) -> bool:
        """Return True if a running worker has a provision job of this incarnation. A dead worker leaves its mark."""
        workers = await self._store.provisioning_workers(record)
        return await self._workers.any_alive(workers) if workers else False

    async def _delete_record(self, record: Sandbox) -> None:
        await self._store.update_cached(
            record, lambda current: Update(None) if current.status is Status.TERMINATING else None
        )
        log.info("record deleted")
