"""Where DeerFlow reaches a sandbox."""

from msgspec.structs import replace

from shared.sandbox import Sandbox, service_name
from shared.settings import ServiceType, Settings


def addressed(record: Sandbox, settings: Settings) -> Sandbox:
    """With its URL if that is known before the Service exists: a name in the cluster's DNS is, a node port is not."""
    if settings.sandbox_service_type is not ServiceType.CLUSTER_IP:
        return record
    name = service_name(record.id, record.life)
    url = f"http://{name}.{settings.k8s_namespace}.svc.cluster.local:{settings.sandbox_container_port}"
    return replace(record, url=url)


def node_port_url(node_port: int, settings: Settings) -> str:
    return f"http://{settings.node_host}:{node_port}"
