"""The order of steps in which a life gets its Pod and Service, and loses them.

Each may die between any two steps and be run again, or twice at once: names follow from the life, so a second run finds
what the first has made; what it writes into the record, it writes only while the record is still of this life.
"""

import asyncio
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from shared.liveness.vitals import Vitals
from shared.queue.job import Job, Work
from shared.sandbox.expiry import Terms
from shared.sandbox.names import is_earlier, object_name, service_name
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import Made, another_attempt, failed, next_life, provisioned, taken_up, troubled
from shared.sandbox.urls import addressed, service_url
from shared.settings import Settings
from shared.store.store import Store
from shared.store.update import Change, Move
from worker import manifests
from worker.kubernetes import manifest_types, objects, retry
from worker.kubernetes.client import Cluster
from worker.kubernetes.errors import AlreadyExists, KubernetesError, NamespaceMissing
from worker.kubernetes.labels import SANDBOX_ID, is_of, is_owned, serves
from worker.reconcile.adoption import identity
from worker.reconcile.pod_status import vanished, written

log = structlog.get_logger()


class NotGone(Exception):
    """A life that is being ended may still get a Pod from a job that runs, or an earlier life has its own still: look
    again soon. A record outlives every Pod of its id, or else that Pod would be taken for one whose record was lost."""


class NotObserved(Exception):
    """Redis was emptied, or is new: what is in the cluster has to be known before anything is made or removed."""


class PodGone(Exception):
    """The Pod that this life had, of this uid, is gone, or going. It has had its one."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


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
    def __init__(self, store: Store, vitals: Vitals, cluster: Cluster, settings: Settings) -> None:
        self._store = store
        self._vitals = vitals
        self._cluster = cluster
        self._settings = settings

    async def provision(self, sandbox_id: str, life: str, attempt: int) -> None:
        """Give this life its Pod and Service, and the record their URL. Does nothing when that is done or not wanted.

        Raises:
            KubernetesError: a temporary one; try again later.
            NotObserved: try again soon.
        """
        begun = self._store.now()
        record, epoch = await asyncio.gather(self._store.get(sandbox_id), self._vitals.epoch())
        if record is None or record.life != life:
            # An earlier try of this job may have made a Pod, and died, or failed, before it could remove it. The epoch
            # counts as it is after that read: had Redis been emptied by then, the Pod is to be adopted, not removed.
            await self._must_be_observed(None, await self._vitals.epoch())
            await self._remove(sandbox_id, life)
        elif record.attempt != attempt or not record.wants_pod or record.is_provisioned:
            return
        elif record.until is not None and begun >= record.until:
            await self._give_up(record, Reason.PROVISIONING_TIMED_OUT, f"Not made in time. {record.message}".strip())
        else:
            await self._try(record, begun, await self._must_be_observed(record, epoch))

    async def _must_be_observed(self, record: Sandbox | None, epoch: str | None) -> str:
        """The epoch, if the cluster is known in it. Raises NotObserved; the record says so while it waits."""
        if epoch is not None:
            return epoch
        if record is not None and not record.reason:
            message = "What is in the cluster is not known yet: the workers cannot list it, or have not begun."
            noted = while_wanted(record, lambda r: Change(troubled(r, Reason.CLUSTER_UNAVAILABLE, message)))
            await self._store.change(record.id, noted, believed=record)
        raise NotObserved

    async def _try(self, record: Sandbox, begun: float, epoch: str) -> None:
        try:
            await self._make(record, begun, epoch)
        except AlreadyExists:
            raise  # made by a call that seemed to have failed, or by another attempt: the next try finds it
        except PodGone as gone:
            await self._lose(record, gone.uid)
        except NameTaken:
            await self._move_on(record)
        except KubernetesError as error:
            await self._refused(record, begun, error)

    async def terminate(self, sandbox_id: str, life: str, attempt: int) -> None:
        """See to it that nothing of this life is left in the cluster; forget its record if it was being deleted.

        A Pod takes its grace to go. Nobody waits for that here: the observer sees it gone, and forgets the record.

        Raises:
            KubernetesError: try again later.
            NotGone: try again soon.
        """
        record = await self._store.get(sandbox_id)
        mine = record if record is not None and record.life == life else None
        if mine is not None and (mine.wants_pod or mine.attempt != attempt):
            return
        # Asked before looking for the Pod: a job that ends in between has made its Pod by the time we look.
        busy = mine is not None and await self._is_being_made(mine)
        gone = not await self._remove_known(mine) and await self._remove(sandbox_id, life)
        if busy:
            raise NotGone(sandbox_id)
        if gone and mine is not None and mine.status is Status.TERMINATING:
            await self._end_earlier_lives(mine)
            await self._forget(mine)

    async def _make(self, record: Sandbox, begun: float, epoch: str) -> None:
        pod = await self._pod(record)
        service = await self._service(record, pod)
        url = service_url(record, service.node_port, self._settings)
        made = Made(pod.metadata.name, pod.metadata.uid, service.metadata.uid, url)

        def done(current: Sandbox) -> Change:
            return Change(provisioned(taken_up(current, begun), made, now=self._store.now()))

        outcome = await self._store.change(record.id, while_wanted(record, done), believed=record)
        if not outcome.written and outcome.record is None and await self._vitals.epoch() != epoch:
            # Redis was emptied meanwhile, and ours is the only copy.
            outcome = await self._store.change(record.id, lambda r: done(record) if r is None else None)
        if outcome.written:
            log.info("provisioned", url=url, pod=pod.metadata.name)
        else:
            # Deleted, or replaced, while we made it. Should we die here, the next try of this job removes it.
            log.info("no longer wanted", pod=pod.metadata.name)
            await self._remove(record.id, record.life)

    async def _pod(self, record: Sandbox) -> objects.Pod:
        if record.pod_uid:
            return await self._known_pod(record)
        try:
            return await self._create_pod(manifests.pod(record, self._settings))
        except AlreadyExists:
            found = await self._cluster.get_pod(object_name(record.id, record.life))
        if found is None:
            return await self._create_pod(manifests.pod(record, self._settings))
        if not is_of(found.metadata, record.id, record.life):
            raise NameTaken(found.metadata.name)
        if found.is_dying:
            raise PodGone(found.metadata.uid)
        return found

    async def _known_pod(self, record: Sandbox) -> objects.Pod:
        """A life has one Pod: another would be without all that the first one's user did in it."""
        found = await self._cluster.get_pod(object_name(record.id, record.life))
        if found is None or found.is_dying or found.metadata.uid != record.pod_uid:
            raise PodGone(record.pod_uid)
        return found

    async def _create_pod(self, pod: manifest_types.Pod) -> objects.Pod:
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
            if not isinstance(error, AlreadyExists) and retry.reason(error) is not Reason.NODE_PORTS_EXHAUSTED:
                raise
            found = await self._cluster.get_service(wanted.metadata.name)
            if found and is_owned(found.metadata, pod.metadata):
                return found
            if found and found.metadata.labels.get(SANDBOX_ID) != record.id:
                raise KubernetesError(error.http_status, error.reason, f"{error.message}, and is not ours") from error
            if found:  # left by a Pod that is gone, and not yet collected with it
                await self._cluster.delete_service(found.metadata.name, found.metadata.uid)
            return await self._cluster.create_service(wanted)

    async def _refused(self, record: Sandbox, begun: float, error: KubernetesError) -> None:
        if not retry.is_temporary(error):
            await self._give_up(record, retry.reason(error), error.message)
            return
        log.warning("kubernetes refused for now", error=str(error))

        def noted(current: Sandbox) -> Change:
            return Change(troubled(taken_up(current, begun), retry.reason(error), error.message))

        await self._store.change(record.id, while_wanted(record, noted), believed=record)
        raise error

    async def _lose(self, record: Sandbox, uid: str) -> None:
        """The observer sees a Pod go; but it may have been gone before it came to look."""
        pod = await self._cluster.get_pod(object_name(record.id, record.life))
        is_there = pod is not None and pod.metadata.uid == uid

        def lost(current: Sandbox | None) -> Change | None:
            if current is None or not current.wants_pod:
                return None
            if is_there:  # dying: the observer will see its end, if it knows whose it is
                return Change(replace(current, pod_uid=uid)) if not current.pod_uid else None
            until = self._store.now() + self._settings.failed_retention_seconds
            return written(current, vanished(current, record.life, uid, until=until))

        await self._store.change(record.id, lost, believed=record)

    async def _give_up(self, record: Sandbox, reason: Reason, message: str) -> None:
        """Final: the record says why, and a job removes what was half made."""
        log.error("provisioning failed", reason=reason, message=message)

        def given_up(current: Sandbox) -> Change:
            until = self._store.now() + self._settings.failed_retention_seconds
            over = another_attempt(failed(current, reason, message, until=until))
            return Change(over, (Job.of(Work.TERMINATE, over),))

        await self._store.change(record.id, while_wanted(record, given_up), believed=record)

    async def _move_on(self, record: Sandbox) -> None:
        """The time in which it must be made stays what it was."""

        def moved(current: Sandbox) -> Change:
            terms = Terms(current.idle_timeout, current.lifetime)
            again = next_life(current, current.spec, now=self._store.now(), until=current.until, terms=terms)
            following = addressed(again, self._settings)
            return Change(following, (Job.of(Work.PROVISION, following),))

        await self._store.change(record.id, while_wanted(record, moved), believed=record)
        log.warning("pod name taken, going on as the next life", pod=object_name(record.id, record.life))

    async def _remove_known(self, record: Sandbox | None) -> bool:
        """Delete what the record says there is, without looking first. False: its Pod is not there, or not known."""
        if record is None or not record.is_provisioned:
            return False
        await self._cluster.delete_service(service_name(record.id, record.life), record.service_uid)
        return await self._cluster.delete_pod(record.pod_name, record.pod_uid)

    async def _remove(self, sandbox_id: str, life: str) -> bool:
        """Delete this life's Service and Pod, and nobody else's of their names. True: the Pod is gone already."""
        service = await self._cluster.get_service(service_name(sandbox_id, life))
        if service and serves(service.metadata, sandbox_id, life):
            await self._cluster.delete_service(service.metadata.name, service.metadata.uid)
        pod = await self._cluster.get_pod(object_name(sandbox_id, life))
        if pod is None or not is_of(pod.metadata, sandbox_id, life):
            return True
        if pod.is_dying:
            return False
        return not await self._cluster.delete_pod(pod.metadata.name, pod.metadata.uid)

    async def _end_earlier_lives(self, record: Sandbox) -> None:
        """Each has a job of its own, which may be late, or lost. Raises NotGone."""
        if record.generation == 1:
            return
        lives = [of[1] for pod in await self._cluster.pods_of(record.id) if (of := identity(pod))]
        earlier = [life for life in lives if is_earlier(life, record)]
        for life in earlier:
            await self._remove(record.id, life)
        if earlier:
            raise NotGone(record.id)

    async def _is_being_made(self, record: Sandbox) -> bool:
        """A worker that was killed does not make it any more, though its mark lasts for a while."""
        begun = await self._store.provisioning_workers(record)
        return await self._vitals.is_any_alive(begun) if begun else False

    async def _forget(self, record: Sandbox) -> None:
        def forgotten(current: Sandbox | None) -> Change | None:
            if current is None or current.life != record.life or current.status is not Status.TERMINATING:
                return None
            return Change(None)

        await self._store.change(record.id, forgotten, believed=record)
        log.info("gone")
