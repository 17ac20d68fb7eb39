"""Kubernetes objects that the worker creates: typed structs with the fields in use, encoded in microseconds.

The client library's models cost milliseconds each and have no types. Field names are those of Kubernetes in snake
case. Fields with their default value are not sent. A type that `worker.kubernetes.objects` has as well, for reading,
ends in `Manifest` here.
"""

from collections.abc import Mapping

import msgspec


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    pass


class OwnerReferenceManifest(_Manifest, frozen=True):
    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool
    block_owner_deletion: bool


class ObjectMetaManifest(_Manifest, frozen=True):
    name: str
    namespace: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = {}
    owner_references: tuple[OwnerReferenceManifest, ...] = ()


class HostPath(_Manifest, frozen=True):
    path: str
    type: str


class PersistentVolumeClaimSource(_Manifest, frozen=True):
    claim_name: str
    read_only: bool = False


class EmptyDir(_Manifest, frozen=True):
    pass


class Volume(_Manifest, frozen=True):
    name: str
    host_path: HostPath | None = None
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    empty_dir: EmptyDir | None = None


class VolumeMount(_Manifest, frozen=True):
    name: str
    mount_path: str
    read_only: bool
    sub_path: str = ""


class EnvVar(_Manifest, frozen=True):
    name: str
    value: str


class ContainerPort(_Manifest, frozen=True):
    name: str
    container_port: int
    protocol: str


class HttpGet(_Manifest, frozen=True):
    path: str
    port: int


class Probe(_Manifest, frozen=True):
    """Period and timeout are in seconds."""

    http_get: HttpGet
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int


class ResourceRequirements(_Manifest, frozen=True):
    requests: Mapping[str, str]
    limits: Mapping[str, str]


class SecurityContext(_Manifest, frozen=True):
    privileged: bool
    allow_privilege_escalation: bool


class Container(_Manifest, frozen=True):
    name: str
    image: str
    image_pull_policy: str
    security_context: SecurityContext
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    startup_probe: Probe | None = None
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    resources: ResourceRequirements | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()


class PodSpecManifest(_Manifest, frozen=True):
    containers: tuple[Container, ...]
    restart_policy: str
    automount_service_account_token: bool
    enable_service_links: bool
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    active_deadline_seconds: int | None = None


class PodManifest(_Manifest, frozen=True):
    api_version: str
    kind: str
    metadata: ObjectMetaManifest
    spec: PodSpecManifest


class ServicePortManifest(_Manifest, frozen=True):
    name: str
    port: int
    target_port: int
    protocol: str
    node_port: int | None = None


class ServiceSpecManifest(_Manifest, frozen=True):
    type: str
    selector: Mapping[str, str]
    ports: tuple[ServicePortManifest, ...]
    publish_not_ready_addresses: bool


class ServiceManifest(_Manifest, frozen=True):
    api_version: str
    kind: str
    metadata: ObjectMetaManifest
    spec: ServiceSpecManifest


class NamespaceManifest(_Manifest, frozen=True):
    api_version: str
    kind: str
    metadata: Mapping[str, str]
