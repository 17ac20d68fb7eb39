"""A container and all that belongs to it."""

from typing import Any

import msgspec

from deploy.local.emulator.schemas.meta import Quantity, Shape


class ContainerPort(Shape):
    name: str = ""
    host_port: int = 0
    container_port: int = 0
    protocol: str = ""
    host_ip: str = msgspec.field(name="hostIP", default="")


class HttpHeader(Shape, omit_defaults=False):
    name: str = ""
    value: str = ""


class HttpGet(Shape):
    path: str = ""
    port: int | str = 0
    host: str = ""
    scheme: str = ""
    http_headers: list[HttpHeader] = msgspec.field(default_factory=list)


class Exec(Shape):
    command: list[str] = msgspec.field(default_factory=list)


class TcpSocket(Shape):
    port: int | str = 0
    host: str = ""


class Grpc(Shape):
    port: int = 0
    service: str | None = None


class Probe(Shape):
    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    grpc: Grpc | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 0
    period_seconds: int = 0
    success_threshold: int = 0
    failure_threshold: int = 0
    termination_grace_period_seconds: int | None = None


class Resources(Shape):
    limits: dict[str, Quantity] = msgspec.field(default_factory=dict)
    requests: dict[str, Quantity] = msgspec.field(default_factory=dict)
    claims: list[dict[str, Any]] = msgspec.field(default_factory=list)


class FieldReference(Shape):
    api_version: str = ""
    field_path: str = ""


class KeyReference(Shape):
    name: str = ""
    key: str = ""
    optional: bool | None = None


class EnvironmentSource(Shape):
    field_ref: FieldReference | None = None
    resource_field_ref: dict[str, Any] | None = None
    config_map_key_ref: KeyReference | None = None
    secret_key_ref: KeyReference | None = None


class EnvironmentVariable(Shape):
    name: str = ""
    value: str = ""
    value_from: EnvironmentSource | None = None


class VolumeMount(Shape):
    name: str = ""
    read_only: bool = False
    recursive_read_only: str | None = None
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str | None = None


class SleepAction(Shape):
    seconds: int = 0


class LifecycleHandler(Shape):
    exec: Exec | None = None
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    sleep: SleepAction | None = None


class Lifecycle(Shape):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None
    stop_signal: str | None = None


class Profile(Shape):
    """Of seccomp or AppArmor."""

    type: str = ""
    localhost_profile: str | None = None


class Capabilities(Shape):
    add: list[str] = msgspec.field(default_factory=list)
    drop: list[str] = msgspec.field(default_factory=list)


class SecurityContext(Shape):
    capabilities: Capabilities | None = None
    privileged: bool | None = None
    se_linux_options: dict[str, str] | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    proc_mount: str | None = None
    seccomp_profile: Profile | None = None
    app_armor_profile: Profile | None = None


class Container(Shape):
    name: str = ""
    image: str = ""
    command: list[str] = msgspec.field(default_factory=list)
    args: list[str] = msgspec.field(default_factory=list)
    working_dir: str = ""
    ports: list[ContainerPort] = msgspec.field(default_factory=list)
    env_from: list[dict[str, Any]] = msgspec.field(default_factory=list)
    env: list[EnvironmentVariable] = msgspec.field(default_factory=list)
    resources: Resources | None = None
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
