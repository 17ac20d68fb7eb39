"""Pods."""

from typing import Any

import msgspec

from deploy.local.emulator.schemas.containers import Container, ResourceRequirements, SecurityProfile
from deploy.local.emulator.schemas.meta import ApiStruct, ObjectMeta, Quantity


class PodSecurityContext(ApiStruct):
    se_linux_options: dict[str, str] | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    supplemental_groups: list[int] = msgspec.field(default_factory=list)
    supplemental_groups_policy: str | None = None
    fs_group: int | None = None
    fs_group_change_policy: str | None = None
    sysctls: list[dict[str, str]] = msgspec.field(default_factory=list)
    seccomp_profile: SecurityProfile | None = None
    app_armor_profile: SecurityProfile | None = None


class HostPathVolumeSource(ApiStruct):
    path: str = ""
    type: str | None = None


class EmptyDirVolumeSource(ApiStruct):
    medium: str = ""
    size_limit: Quantity | None = None


class PersistentVolumeClaimSource(ApiStruct):
    claim_name: str = ""
    read_only: bool = False


class NFSVolumeSource(ApiStruct):
    server: str = ""
    path: str = ""
    read_only: bool = False


class KeyToPath(ApiStruct):
    key: str = ""
    path: str = ""
    mode: int | None = None


class SecretVolumeSource(ApiStruct):
    secret_name: str = ""
    items: list[KeyToPath] = msgspec.field(default_factory=list)
    default_mode: int | None = None
    optional: bool | None = None


class ConfigMapVolumeSource(ApiStruct):
    name: str = ""
    items: list[KeyToPath] = msgspec.field(default_factory=list)
    default_mode: int | None = None
    optional: bool | None = None


class Volume(ApiStruct):
    name: str = ""
    empty_dir: EmptyDirVolumeSource | None = None
    host_path: HostPathVolumeSource | None = None
    persistent_volume_claim: PersistentVolumeClaimSource | None = None
    nfs: NFSVolumeSource | None = None
    secret: SecretVolumeSource | None = None
    config_map: ConfigMapVolumeSource | None = None
    projected: dict[str, Any] | None = None
    downward_api: dict[str, Any] | None = msgspec.field(name="downwardAPI", default=None)
    csi: dict[str, Any] | None = None
    ephemeral: dict[str, Any] | None = None
    image: dict[str, Any] | None = None


class LocalObjectReference(ApiStruct):
    name: str = ""


class Toleration(ApiStruct):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class PodSpec(ApiStruct):
    volumes: list[Volume] = msgspec.field(default_factory=list)
    init_containers: list[Container] = msgspec.field(default_factory=list)
    containers: list[Container] = msgspec.field(default_factory=list)
    restart_policy: str = ""
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    dns_policy: str = ""
    node_selector: dict[str, str] = msgspec.field(default_factory=dict)
    service_account_name: str = ""
    service_account: str = ""
    automount_service_account_token: bool | None = None
    node_name: str = ""
    host_network: bool = False
    host_pid: bool = msgspec.field(name="hostPID", default=False)
    host_ipc: bool = msgspec.field(name="hostIPC", default=False)
    share_process_namespace: bool | None = None
    security_context: PodSecurityContext | None = None
    image_pull_secrets: list[LocalObjectReference] = msgspec.field(default_factory=list)
    hostname: str = ""
    subdomain: str = ""
    affinity: dict[str, Any] | None = None
    scheduler_name: str = ""
    tolerations: list[Toleration] = msgspec.field(default_factory=list)
    host_aliases: list[dict[str, Any]] = msgspec.field(default_factory=list)
    priority_class_name: str = ""
    priority: int | None = None
    dns_config: dict[str, Any] | None = None
    readiness_gates: list[dict[str, Any]] = msgspec.field(default_factory=list)
    runtime_class_name: str | None = None
    enable_service_links: bool | None = None
    preemption_policy: str | None = None
    overhead: dict[str, Quantity] = msgspec.field(default_factory=dict)
    topology_spread_constraints: list[dict[str, Any]] = msgspec.field(default_factory=list)
    set_hostname_as_fqdn: bool | None = msgspec.field(name="setHostnameAsFQDN", default=None)
    os: dict[str, Any] | None = None
    host_users: bool | None = None
    scheduling_gates: list[dict[str, Any]] = msgspec.field(default_factory=list)
    resources: ResourceRequirements | None = None


class Pod(ApiStruct):
    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: dict[str, Any] | None = None
