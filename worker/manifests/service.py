"""record and settings → Service. Pure, as `worker.manifests.pod` is."""

from shared.sandbox.names import object_name, service_name
from shared.sandbox.record import Sandbox
from shared.settings import Settings
from worker.kubernetes.labels import labels, selector
from worker.kubernetes.manifest_types import ObjectMeta, OwnerReference, ServiceManifest, ServicePort, ServiceSpec


def service(record: Sandbox, pod_uid: str, settings: Settings) -> ServiceManifest:
    """Owned by its Pod, so that it goes when the Pod goes, whoever deletes it.

    It publishes addresses that are not ready: DeerFlow polls the URL itself, and may as well see the sandbox start.
    """
    port = settings.sandbox_container_port
    spec = ServiceSpec(
        type=settings.sandbox_service_type.value,
        selector=selector(record),
        ports=(ServicePort(name="http", port=port, target_port=port, protocol="TCP"),),
        publish_not_ready_addresses=True,
    )
    return ServiceManifest(api_version="v1", kind="Service", metadata=_metadata(record, pod_uid, settings), spec=spec)


def _metadata(record: Sandbox, pod_uid: str, settings: Settings) -> ObjectMeta:
    owner = OwnerReference(
        api_version="v1",
        kind="Pod",
        name=object_name(record.id, record.incarnation),
        uid=pod_uid,
        controller=False,
        block_owner_deletion=False,
    )
    return ObjectMeta(
        name=service_name(record.id, record.incarnation),
        namespace=settings.k8s_namespace,
        labels=labels(record),
        owner_references=(owner,),
    )
