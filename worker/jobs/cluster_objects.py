"""The Pod and the Service of one incarnation in the cluster: created, found again, and deleted.

Names follow from the incarnation. So a second run of a job, after a crash or beside the first, finds what the first one
has created.
"""

from msgspec.structs import replace

from shared.sandbox.names import is_older_incarnation, object_name, service_name
from shared.sandbox.record import Reason, Sandbox
from shared.settings import Settings
from worker import manifests
from worker.kubernetes import manifest_types, objects, retry
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.errors import AlreadyExists, KubernetesError, NamespaceMissing
from worker.kubernetes.labels import SANDBOX_ID, is_owned_by, is_pod_of, is_service_of
from worker.reconcile.adoption import sandbox_of


class PodGone(Exception):
    """The incarnation's Pod with this uid is deleted or terminating. An incarnation never gets a second Pod."""

    def __init__(self, uid: str) -> None:
        super().__init__(uid)
        self.uid = uid


class NameTaken(Exception):
    """The Pod name of this incarnation belongs to another object. The next incarnation has another name."""


class ClusterObjects:
    """Pods and Services in one namespace. Every method raises KubernetesError if Kubernetes refuses or fails."""

    def __init__(self, kubernetes: KubernetesClient, settings: Settings) -> None:
        self._kubernetes = kubernetes
        self._settings = settings

    async def ensure_pod(self, record: Sandbox) -> objects.Pod:
        """Return the incarnation's Pod: the one that the record names, that an earlier try created, or a new one.

        Raises:
            PodGone: the incarnation had its Pod, which is deleted or terminating.
            NameTaken: another object has the name.
            KubernetesError: Kubernetes refuses or fails.
        """
        if record.pod_uid:
            return await self._known_pod(record)
        try:
            return await self._create_pod(manifests.pod(record, self._settings))
        except AlreadyExists:
            pod = await self._get_pod(record)
        if pod is None:
            return await self._create_pod(manifests.pod(record, self._settings))
        if not is_pod_of(pod.metadata, record.id, record.incarnation):
            raise NameTaken(pod.metadata.name)
        if pod.is_terminating:
            raise PodGone(pod.metadata.uid)
        return pod

    async def ensure_service(self, record: Sandbox, pod: objects.Pod) -> objects.Service:
        """Return the Pod's Service: a new one, or the one that an earlier try created.

        Raises:
            NameTaken: an object of another program has the name.
            KubernetesError: Kubernetes refuses or fails.
        """
        try:
            return await self._create_or_find_service(record, pod)
        except KubernetesError as error:
            if record.node_port is None or not retry.is_node_port_refused(error):
                raise
            return await self._create_or_find_service(replace(record, node_port=None), pod)

    async def _create_or_find_service(self, record: Sandbox, pod: objects.Pod) -> objects.Service:
        """Create the Service, or return the one that exists.

        If no node port is free, Kubernetes reports that and not that the name exists. Both errors lead to a look-up.
        """
        manifest = manifests.service(record, pod.metadata.uid, self._settings)
        try:
            return await self._kubernetes.create_service(manifest)
        except KubernetesError as error:
            if not isinstance(error, AlreadyExists) and retry.reason_for(error) is not Reason.NODE_PORTS_EXHAUSTED:
                raise
            service = await self._kubernetes.get_service(manifest.metadata.name)
            if service and is_owned_by(service.metadata, pod.metadata):
                return service
            if service:
                await self._delete_stale_service(service, record)
            return await self._kubernetes.create_service(manifest)

    async def has_pod(self, record: Sandbox, uid: str) -> bool:
        """Return True if the incarnation's Pod with this uid exists, terminating or not."""
        pod = await self._get_pod(record)
        return pod is not None and pod.metadata.uid == uid

    async def delete_recorded(self, record: Sandbox) -> bool:
        """Delete the Service and the Pod that the record names, without a look-up.

        Return False if the Pod is gone already, or if the record names none.
        """
        if not record.is_provisioned:
            return False
        await self._kubernetes.delete_service(service_name(record.id, record.incarnation), record.service_uid)
        return await self._kubernetes.delete_pod(record.pod_name, record.pod_uid)

    async def delete(self, sandbox_id: str, incarnation: str) -> bool:
        """Delete this incarnation's Service and Pod, and no other object of those names.

        Return True if the Pod is gone already.
        """
        service = await self._kubernetes.get_service(service_name(sandbox_id, incarnation))
        if service and is_service_of(service.metadata, sandbox_id, incarnation):
            await self._kubernetes.delete_service(service.metadata.name, service.metadata.uid)
        pod = await self._kubernetes.get_pod(object_name(sandbox_id, incarnation))
        if pod is None or not is_pod_of(pod.metadata, sandbox_id, incarnation):
            return True
        if pod.is_terminating:
            return False
        return not await self._kubernetes.delete_pod(pod.metadata.name, pod.metadata.uid)

    async def delete_older(self, record: Sandbox) -> bool:
        """Delete the Pods and Services of older incarnations of this id. Return True if there were any."""
        if record.generation == 1:
            return False
        pods = await self._kubernetes.pods_of(record.id)
        incarnations = [sandbox[1] for pod in pods if (sandbox := sandbox_of(pod))]
        older = [incarnation for incarnation in incarnations if is_older_incarnation(incarnation, record)]
        for incarnation in older:
            await self.delete(record.id, incarnation)
        return bool(older)

    async def _get_pod(self, record: Sandbox) -> objects.Pod | None:
        return await self._kubernetes.get_pod(object_name(record.id, record.incarnation))

    async def _known_pod(self, record: Sandbox) -> objects.Pod:
        """Return the Pod that the record names. A second Pod would lack all that the user did in the first one."""
        pod = await self._get_pod(record)
        if pod is None or pod.is_terminating or pod.metadata.uid != record.pod_uid:
            raise PodGone(record.pod_uid)
        return pod

    async def _create_pod(self, manifest: manifest_types.PodManifest) -> objects.Pod:
        """Create the Pod, and first its namespace if that is missing.

        So nothing depends on an order of starting, and a worker needs no permission for a namespace that exists.
        """
        try:
            return await self._kubernetes.create_pod(manifest)
        except NamespaceMissing:
            await self._kubernetes.create_namespace()
            return await self._kubernetes.create_pod(manifest)

    async def _delete_stale_service(self, service: objects.Service, record: Sandbox) -> None:
        """Delete a Service that an earlier Pod of this id left, and that garbage collection has not reached.

        Raises:
            NameTaken: the Service belongs to no sandbox, and stays.
        """
        if service.metadata.labels.get(SANDBOX_ID) != record.id:
            raise NameTaken(service.metadata.name)
        await self._kubernetes.delete_service(service.metadata.name, service.metadata.uid)
