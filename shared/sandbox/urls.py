"""Where DeerFlow reaches a sandbox."""

from msgspec.structs import replace

from shared.sandbox.names import service_name
from shared.sandbox.record import Sandbox
from shared.settings import ServiceType, Settings


def with_url(record: Sandbox, settings: Settings) -> Sandbox:
    """With its URL if that is known before the Service exists: a name in the cluster's DNS is, a node port is not."""
    if settings.sandbox_service_type is not ServiceType.CLUSTER_IP:
        return record
    return replace(record, url=service_url(record, None, settings))


def service_url(record: Sandbox, node_port: int | None, settings: Settings) -> str:
    """Of a Service that has this node port, if any; empty: it has none, and needs one."""
    if settings.sandbox_service_type is ServiceType.CLUSTER_IP:
        name = service_name(record.id, record.incarnation)
        return f"http://{name}.{settings.k8s_namespace}.svc.cluster.local:{settings.sandbox_container_port}"
    return f"http://{settings.node_host}:{node_port}" if node_port else ""
