"""Builds a sandbox's Service manifest from its record and the settings. Pure."""

from shared.sandbox.names import object_name, service_name
from shared.sandbox.record import Sandbox
from shared.settings import ServiceType, Settings
from worker.kubernetes.labels import labels, selector
from worker.kubernetes.manifest_types import (
    ObjectMetaManifest,
    OwnerReferenceManifest,
    ServiceManifest,
    ServicePortManifest,
    ServiceSpecManifest,
)


def service(record: Sandbox, pod_uid: str, settings: Settings) -> ServiceManifest:
    """Build the Service. Its Pod owns the Service, so any deletion of the Pod deletes the Service as well.

    A Service that replaces a lost one asks for the same node port, so that the URL stays.
    The Service publishes the addresses of Pods that are not ready. DeerFlow polls the URL, and can reach a sandbox as
    soon as the sandbox listens.
    """
    port = settings.sandbox_container_port
    node_port = record.node_port if settings.sandbox_service_type is ServiceType.NODE_PORT else None
    spec = ServiceSpecManifest(
        type=settings.sandbox_service_type.value,
        selector=selector(record),
        ports=(ServicePortManifest(name="http", port=port, target_port=port, protocol="TCP", node_port=node_port),),
        publish_not_ready_addresses=True,
    )
    return ServiceManifest(api_version="v1", kind="Service", metadata=_metadata(record, pod_uid, settings), spec=spec)


def _metadata(record: Sandbox, pod_uid: str, settings: Settings) -> ObjectMetaManifest:
    owner = OwnerReferenceManifest(
        api_version="v1",
        kind="Pod",
        name=object_name(record.id, record.incarnation),
        uid=pod_uid,
        controller=False,
        block_owner_deletion=False,
    )
    return ObjectMetaManifest(
        name=service_name(record.id, record.incarnation),
        namespace=settings.k8s_namespace,
        labels=labels(record),
        owner_references=(owner,),
    )
