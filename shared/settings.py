"""Every setting of both processes: one frozen struct, read once from the environment and checked at start.

A setting's environment name is its field's name in capitals. An empty variable counts as not set, so that a compose
file may pass all of them through. Units and reasons stand beside each; the README's table is made from here.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated as A  # noqa: N817 - forty lines read better
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta

from shared import node_paths
from shared.errors import InvalidSettings

TEMPLATE_FIELDS = frozenset({"user_id", "thread_id"})


class ServiceType(StrEnum):
    NODE_PORT = "NodePort"
    CLUSTER_IP = "ClusterIP"


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


def about(text: str, *, secret: bool = False) -> Meta:
    return Meta(description=text, extra={"secret": secret})


COUNT = Meta(ge=0, le=1_000_000)
NOT_NEGATIVE = Meta(ge=0, le=1_000_000_000)
POSITIVE = Meta(gt=0, le=86400)
"""Seconds, a day at most: beyond it is a typing error, or infinity."""
HOST = Meta(pattern=r"^[^\s/]+$(?!\n)")
"""No URL, and no blanks."""
ASCII = Meta(pattern=r"^[!-~]*$(?!\n)")
"""What an HTTP header carries unchanged."""
PORT = Meta(ge=1, le=65535)
DNS_LABEL = Meta(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$(?!\n)")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    # Redis
    redis_url: A[
        str, about("`redis://`, `rediss://` or `unix://`; may hold user, password and database", secret=True)
    ] = "redis://localhost:6379/0"
    redis_sentinels: A[
        str, about("`host:port,…` of the Sentinels; `REDIS_URL` then gives only database and credentials")
    ] = ""
    redis_sentinel_master: A[str, about("name of the master that the Sentinels watch")] = ""
    # API
    provisioner_api_key: A[
        str, ASCII, about("the `X-API-Key` of `/api`; empty: every call is refused", secret=True)
    ] = ""
    provisioner_allow_anonymous: A[bool, about("with no key set: `true` says that an open API is meant")] = False
    deerflow_compat: A[
        bool, about("`true`: answers that today's DeerFlow client needs (it waits for the URL itself)")
    ] = False
    # Cluster
    cluster_name: A[str, DNS_LABEL, about("what records and leases call the one cluster the workers talk to")] = (
        "default"
    )
    k8s_namespace: A[str, DNS_LABEL, about("where Pods and Services are made; created if missing")] = "deer-flow"
    kubeconfig_path: A[str, about("kubeconfig file; when it is missing the in-cluster configuration is used")] = (
        "/root/.kube/config"
    )
    k8s_api_server: A[
        str, about("replaces the kubeconfig's server (its `localhost` cannot be reached from a container)")
    ] = ""
    k8s_verify_tls: A[bool, about("`false` switches certificate checking off")] = True
    k8s_ca_file: A[str, about("PEM file of a private certificate authority")] = ""
    k8s_tls_server_name: A[
        str, about("the name the API server's certificate was issued to, when it is not its address")
    ] = ""
    k8s_timeout_seconds: A[
        float, POSITIVE, about("one call to Kubernetes; longer than a slow admission webhook needs")
    ] = 10.0
    # Sandbox
    sandbox_image: A[str, Meta(pattern=r"^\S+$(?!\n)"), about("the sandbox container's image")] = (
        "enterprise-public-cn-beijing.cr.volces.com/vefaas-public/all-in-one-sandbox:latest"
    )
    sandbox_container_port: A[int, PORT, about("the port the sandbox serves HTTP on, 1–65535")] = 8080
    sandbox_service_type: A[
        ServiceType, about("`NodePort`: URL on `NODE_HOST`; `ClusterIP`: URL on the cluster's DNS")
    ] = ServiceType.NODE_PORT
    node_host: A[str, HOST, about("host in a sandbox's URL with NodePort")] = "host.docker.internal"
    # Skills and user data
    skills_host_path: A[str, about("absolute; one read-only hostPath at `/mnt/skills` (the older layout)")] = ""
    deer_flow_host_base_dir: A[str, about("absolute; root of `skills_view/…`, `users/…` and of extra mounts")] = ""
    threads_host_path: A[str, about("absolute; `{it}/{thread}/user-data` at `/mnt/user-data`")] = ""
    skills_pvc_name: A[str, about("claim mounted at `/mnt/skills`")] = ""
    skills_pvc_subpath_template: A[str, about("subPath in that claim; may use `{user_id}` and `{thread_id}`")] = ""
    userdata_pvc_name: A[str, about("claim mounted at `/mnt/user-data`")] = ""
    # lark-cli
    lark_cli_init_image: A[str, about("image of the lark-cli init container")] = ""
    lark_cli_broker_image: A[str, about("image of the lark-cli broker sidecar")] = ""
    deerflow_lark_broker_deny_subcommands: A[str, about("subcommands that the broker refuses")] = ""
    # Timeouts and limits
    sandbox_idle_timeout_seconds: A[
        float, NOT_NEGATIVE, about("a sandbox that nobody has used for so long is ended; 0: never")
    ] = 14400.0
    sandbox_max_idle_timeout_seconds: A[
        float, NOT_NEGATIVE, about("the longest idle timeout that a create may ask for; 0: any")
    ] = 86400.0
    sandbox_max_lifetime_seconds: A[
        float, NOT_NEGATIVE, about("a sandbox is ended so long after its creation, however busy; 0: never")
    ] = 86400.0
    sandbox_activity_path: A[
        str,
        Meta(pattern=r"^(/[^\s]*)?$(?!\n)"),
        about('path on a sandbox that is asked before it is ended as idle: `{"active": bool}` or `last_activity`'),
    ] = ""
    max_sandboxes: A[int, COUNT, about("sandboxes at once; 0: any number")] = 0
    max_sandboxes_per_user: A[int, COUNT, about("of one user; 0: any number")] = 0
    node_port_capacity: A[
        int, COUNT, about("node ports that sandboxes may take, of the cluster's 2,768; 0: not counted")
    ] = 2768
    rate_limit_per_second: A[float, NOT_NEGATIVE, about("requests a key may make in the long run; 0: any number")] = 0.0
    rate_limit_burst: A[int, Meta(ge=1), about("and how many at once")] = 100
    # Jobs
    provision_timeout_seconds: A[
        float,
        POSITIVE,
        about("to be made and ready; temporary trouble is retried so long, and a slow image pull fits in"),
    ] = 300.0
    failed_retention_seconds: A[float, POSITIVE, about("how long a failed sandbox can be read, for its cause")] = 600.0
    worker_max_jobs: A[
        int, Meta(ge=1, le=1000), about("jobs one worker runs at once; each waits on Kubernetes most of its time")
    ] = 50
    worker_shutdown_seconds: A[
        float, POSITIVE, about("how long a worker finishes jobs after SIGTERM; below the Pod's grace")
    ] = 20.0
    worker_metrics_host: A[str, HOST, about("address on which a worker serves its health and metrics")] = "127.0.0.1"
    worker_metrics_port: A[int, Meta(ge=0, le=65535), about("its port: one for each worker of a host; 0: none")] = 9102
    # Logs
    log_format: A[LogFormat, about("`json`, `console`, or `auto`: JSON unless on a terminal")] = LogFormat.AUTO
    log_level: A[str, Meta(pattern="^(DEBUG|INFO|WARNING|ERROR)$"), about("`DEBUG`, `INFO`, `WARNING` or `ERROR`")] = (
        "INFO"
    )


class Setting(msgspec.Struct, frozen=True):
    """One row of the settings table."""

    name: str
    default: object
    description: str
    secret: bool


def _table() -> Iterator[Setting]:
    for field in msgspec.structs.fields(Settings):
        metas = [m for m in field.type.__metadata__ if m.description is not None]
        yield Setting(field.name.upper(), field.default, metas[0].description, metas[0].extra["secret"])


TABLE: tuple[Setting, ...] = tuple(_table())


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings in force.

    Raises:
        InvalidSettings: names every setting that is wrong, what it expects and what it got, one a line.
    """
    values: dict[str, Any] = {}
    errors: list[str] = []
    for field in msgspec.structs.fields(Settings):
        value = _value(field, environment.get(field.name.upper(), ""), errors)
        if value is not UNSET:
            values[field.name] = value
    settings = Settings(**values)
    errors.extend(_contradictions(settings))
    if errors:
        raise InvalidSettings("\n".join(errors))
    return settings


def _value(field: msgspec.structs.FieldInfo, raw: str, errors: list[str]) -> Any:
    if not raw.strip():
        return UNSET
    try:
        return msgspec.convert(raw.strip(), field.type, strict=False)
    except msgspec.ValidationError as error:
        got = "…" if _is_secret(field) else repr(raw)
        errors.append(f"{field.name.upper()}: {error}; got {got}. It is: {TABLE_BY_FIELD[field.name].description}")
        return UNSET


def _is_secret(field: msgspec.structs.FieldInfo) -> bool:
    return TABLE_BY_FIELD[field.name].secret


TABLE_BY_FIELD: Mapping[str, Setting] = {row.name.lower(): row for row in TABLE}


def _contradictions(settings: Settings) -> Iterator[str]:
    yield from _bad_redis(settings)
    yield from _bad_timeouts(settings)
    yield from _bad_paths(settings)
    if settings.k8s_api_server and not settings.k8s_api_server.startswith(("http://", "https://")):
        yield f"K8S_API_SERVER: expected a URL, https://host:port; got {settings.k8s_api_server!r}"
    yield from _bad_template(settings.skills_pvc_subpath_template)


def _bad_timeouts(settings: Settings) -> Iterator[str]:
    longest, usual = settings.sandbox_max_idle_timeout_seconds, settings.sandbox_idle_timeout_seconds
    if 0 < longest < usual:
        yield f"SANDBOX_IDLE_TIMEOUT_SECONDS: at most SANDBOX_MAX_IDLE_TIMEOUT_SECONDS, {longest:g}; got {usual:g}"


def _bad_redis(settings: Settings) -> Iterator[str]:
    if not _is_redis_url(settings.redis_url):
        yield "REDIS_URL: expected redis://host:port/database, rediss://… or unix:///path/to/socket"
    if bool(settings.redis_sentinels) != bool(settings.redis_sentinel_master):
        yield "REDIS_SENTINELS and REDIS_SENTINEL_MASTER: expected both or neither"
    for part in settings.redis_sentinels.split(",") if settings.redis_sentinels else ():
        host, _, port = part.strip().rpartition(":")
        if not host or not _is_port(port):
            yield f"REDIS_SENTINELS: expected host:port,host:port,…; got {part.strip()!r}"


def _is_redis_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme == "unix":
        return bool(parts.path)
    return parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and port != 0


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535  # noqa: PLR2004 - the range of TCP ports


def _bad_paths(settings: Settings) -> Iterator[str]:
    for field in ("skills_host_path", "deer_flow_host_base_dir", "threads_host_path"):
        path: str = getattr(settings, field)
        if path and not node_paths.is_absolute(path):
            yield f"{field.upper()}: expected an absolute path on the node (/srv/… or C:\\…); got {path!r}"
        elif path and ".." in path.replace("\\", "/").split("/"):
            yield f"{field.upper()}: expected a path without `..`, which Kubernetes refuses; got {path!r}"


def _bad_template(template: str) -> Iterator[str]:
    """It becomes a subPath, which Kubernetes wants relative and without `..`."""
    rest = template
    for name in TEMPLATE_FIELDS:
        rest = rest.replace(f"{{{name}}}", "x")
    if "{" in rest or "}" in rest:
        allowed = ", ".join(f"{{{name}}}" for name in sorted(TEMPLATE_FIELDS))
        yield f"SKILLS_PVC_SUBPATH_TEMPLATE: expected no fields but {allowed}; got {template!r}"
    elif rest.startswith("/") or ".." in rest.split("/"):
        yield f"SKILLS_PVC_SUBPATH_TEMPLATE: expected a relative path without `..`; got {template!r}"


def describe(settings: Settings) -> str:
    """`NAME=value` a line, secrets masked: what `--print-settings` shows."""
    return "\n".join(f"{row.name}={_shown(row, getattr(settings, row.name.lower()))}" for row in TABLE)


def _shown(row: Setting, value: object) -> str:
    if row.secret and value and value != row.default:
        return "********"
    return str(value).lower() if isinstance(value, bool) else str(value)
