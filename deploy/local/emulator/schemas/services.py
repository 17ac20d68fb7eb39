"""Services."""

from typing import Any

import msgspec

from deploy.local.emulator.schemas.meta import ApiStruct, ObjectMeta


class ServicePort(ApiStruct):
    name: str = ""
    protocol: str = ""
    app_protocol: str | None = None
    port: int = 0
    target_port: int | str = 0
    node_port: int = 0


class ServiceSpec(ApiStruct):
    ports: list[ServicePort] = msgspec.field(default_factory=list)
    selector: dict[str, str] = msgspec.field(default_factory=dict)
    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] = msgspec.field(name="clusterIPs", default_factory=list)
    type: str = ""
    external_ips: list[str] = msgspec.field(name="externalIPs", default_factory=list)
    session_affinity: str = ""
    session_affinity_config: dict[str, Any] | None = None
    external_name: str = ""
    external_traffic_policy: str = ""
    publish_not_ready_addresses: bool = False
    ip_families: list[str] = msgspec.field(default_factory=list)
    ip_family_policy: str | None = None
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None


class Service(ApiStruct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: dict[str, Any] | None = None
