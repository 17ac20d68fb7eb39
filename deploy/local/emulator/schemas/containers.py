"""Containers and their parts."""

from typing import Any

import msgspec

from deploy.local.emulator.schemas.meta import ApiStruct, Quantity


class ContainerPort(ApiStruct):
    name: str = ""
    host_port: int = 0
    container_port: int = 0
    protocol: str = ""
    host_ip: str = msgspec.field(name="hostIP", default="")


class HTTPHeader(ApiStruct, omit_defaults=False):
    name: str = ""
    value: str = ""


class HTTPGetAction(ApiStruct):
    path: str = ""
    port: int | str = 0
    host: str = ""
    scheme: str = ""
    http_headers: list[HTTPHeader] = msgspec.field(default_factory=list)


class ExecAction(ApiStruct):
    command: list[str] = msgspec.field(default_factory=list)


class TCPSocketAction(ApiStruct):
    port: int | str = 0
    host: str = ""


class GRPCAction(ApiStruct):
    port: int = 0
    service: str | None = None


class Probe(ApiStruct):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    grpc: GRPCAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 0
    period_seconds: int = 0
    success_threshold: int = 0
    failure_threshold: int = 0
    termination_grace_period_seconds: int | None = None


class ResourceRequirements(ApiStruct):
    limits: dict[str, Quantity] = msgspec.field(default_factory=dict)
    requests: dict[str, Quantity] = msgspec.field(default_factory=dict)
    claims: list[dict[str, Any]] = msgspec.field(default_factory=list)


class FieldSelector(ApiStruct):
    api_version: str = ""
    field_path: str = ""


class KeySelector(ApiStruct):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class EnvVarSource(ApiStruct):
    field_ref: FieldSelector | None = None
    resource_field_ref: dict[str, Any] | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(ApiStruct):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class VolumeMount(ApiStruct):
    name: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str | None = None


class SleepAction(ApiStruct):
    seconds: int = 0


class LifecycleHandler(ApiStruct):
    exec: ExecAction | None = None
    http_get: HTTPGetAction | None = None
    tcp_socket: TCPSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(ApiStruct):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str | None = None


class SecurityProfile(ApiStruct):
    """A profile of seccomp or AppArmor."""

    type: str = ""
    localhost_profile: str | None = None


class Capabilities(ApiStruct):
    add: list[str] = msgspec.field(default_factory=list)
    drop: list[str] = msgspec.field(default_factory=list)


class SecurityContext(ApiStruct):
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    se_linux_options: dict[str, str] | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    proc_mount: str | None = None
    seccomp_profile: SecurityProfile | None = None
    app_armor_profile: SecurityProfile | None = None


class Container(ApiStruct):
    name: str = ""
    image: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    args: list[str] = msgspec.field(default_factory=list)
    working_dir: str = ""
    ports: list[ContainerPort] = msgspec.field(default_factory=list)
    env_from: list[dict[str, Any]] = msgspec.field(default_factory=list)
    env: list[EnvVar] = msgspec.field(default_factory=list)
    resources: ResourceRequirements | None = None
    volume_mounts: list[VolumeMount] = msgspec.field(default_factory=list)
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    restart_policy: str | None = None
    termination_message_path: str = ""
    termination_message_policy: str = ""
    image_pull_policy: str = ""
    security_context: SecurityContext | None = None
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
