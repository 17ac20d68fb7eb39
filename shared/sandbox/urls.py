"""URLs under which DeerFlow reaches a sandbox."""

from msgspec.structs import replace

from shared.sandbox.names import service_name
from shared.sandbox.record import Sandbox
from shared.settings import ServiceType, Settings


def with_url(record: Sandbox, settings: Settings) -> Sandbox:
    """Add the URL if it is known before the Service exists. A DNS name is known, a node port is not."""
    if settings.sandbox_service_type is not ServiceType.CLUSTER_IP:
        return record
    return replace(record, url=service_url(record, None, settings))


def service_url(record: Sandbox, node_port: int | None, settings: Settings) -> str:
    """Return the URL of a Service; empty if the URL needs a node port and the Service has none yet."""
    if settings.sandbox_service_type is ServiceType.CLUSTER_IP:
        name = service_name(record.id, record.incarnation)
        return f"http://{name}.{settings.k8s_namespace}.svc.cluster.local:{settings.sandbox_container_port}"
    host = f"[{settings.node_host}]" if ":" in settings.node_host else settings.node_host
    return f"http://{host}:{node_port}" if node_port else ""
