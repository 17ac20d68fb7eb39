"""All settings of API and worker: one frozen struct, read once from the environment and checked at start.

The environment variable of a setting has the field's name in capitals. An empty variable counts as not set, so a
compose file can pass all of them through. The table in docs/settings.md is made from the descriptions here.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Annotated as A  # noqa: N817 - forty lines read better
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shared import node_paths
from shared.errors import InvalidSettings
from shared.setting_rules import (
    CLAIM,
    COUNT,
    DNS_LABEL,
    HEADER_VALUE,
    HOST,
    IMAGE,
    INTERVAL,
    JOB_COUNT,
    NAMESPACE,
    NOT_NEGATIVE,
    PORT,
    PORT_OR_NONE,
    POSITIVE,
    REQUEST_COUNT,
    URL_PATH,
    allowed_values,
    doc,
    spelled,
)

TEMPLATE_FIELDS = frozenset({"user_id", "thread_id"})


class ServiceType(StrEnum):
    NODE_PORT = "NodePort"
    CLUSTER_IP = "ClusterIP"


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Each value is checked by its type and its `Meta`; values that contradict each other by `_contradictions`."""

    # Redis
    redis_url: A[
        str, doc("`redis://`, `rediss://` or `unix://` URL; can contain user, password and database", secret=True)
    ] = "redis://localhost:6379/0"
    redis_sentinels: A[
        str, doc("Sentinels as `host:port,host:port`; `REDIS_URL` then gives only database and credentials")
    ] = ""
    redis_sentinel_master: A[str, doc("name of the master that the Sentinels watch")] = ""
    redis_sentinel_username: A[str, doc("user of the Sentinels, which have users of their own")] = ""
    redis_sentinel_password: A[str, doc("password of the Sentinels; TLS as in `REDIS_URL`", secret=True)] = ""
    # API
    provisioner_api_key: A[
        str, HEADER_VALUE, doc("value of `X-API-Key` that `/api` requires; empty: every call is refused", secret=True)
    ] = ""
    provisioner_allow_anonymous: A[bool, doc("`true`: if no key is set, `/api` is open to everybody")] = False
    deerflow_compat: A[bool, doc("`true`: answers that today's DeerFlow client needs; it waits for the URL")] = False
    # Cluster
    cluster_name: A[str, DNS_LABEL, doc("name of the cluster in records, leases and metrics")] = "default"
    k8s_namespace: A[str, NAMESPACE, doc("namespace of Pods and Services; created if missing")] = "deer-flow"
    kubeconfig_path: A[
        str, doc("kubeconfig, or several separated by `:`; if the default is missing: the in-cluster configuration")
    ] = "/root/.kube/config"
    k8s_api_server: A[
        str, doc("URL that replaces the kubeconfig's server, whose `localhost` a container cannot reach")
    ] = ""
    k8s_verify_tls: A[bool, doc("`false`: the API server's certificate is not verified")] = True
    k8s_ca_file: A[str, doc("PEM file of a private certificate authority")] = ""
    k8s_tls_server_name: A[str, doc("name in the API server's certificate, if it is not the server's address")] = ""
    k8s_timeout_seconds: A[
        float, POSITIVE, doc("time limit of one call to Kubernetes; longer than a slow admission webhook takes")
    ] = 10.0
    # Sandbox
    sandbox_image: A[str, IMAGE, doc("image of the sandbox container")] = (
        "enterprise-public-cn-beijing.cr.volces.com/vefaas-public/all-in-one-sandbox:latest"
    )
    sandbox_container_port: A[int, PORT, doc("port on which the sandbox serves HTTP")] = 8080
    sandbox_service_type: A[
        ServiceType, doc("`NodePort`: URL on `NODE_HOST`; `ClusterIP`: URL in the cluster's DNS")
    ] = ServiceType.NODE_PORT
    node_host: A[str, HOST, doc("host in the URL of a NodePort sandbox")] = "host.docker.internal"
    # Skills and user data
    skills_host_path: A[
        str, doc("absolute path on the node; a read-only hostPath at `/mnt/skills` (DeerFlow's older layout)")
    ] = ""
    deer_flow_host_base_dir: A[
        str, doc("absolute path on the node; root of `skills_view/…`, `users/…` and of extra mounts")
    ] = ""
    threads_host_path: A[
        str, doc("absolute path on the node; its `{thread}/user-data` is mounted at `/mnt/user-data`")
    ] = ""
    skills_pvc_name: A[str, CLAIM, doc("PVC mounted at `/mnt/skills`")] = ""
    skills_pvc_subpath_template: A[str, doc("subPath in the skills PVC; can contain `{user_id}` and `{thread_id}`")] = (
        ""
    )
    userdata_pvc_name: A[str, CLAIM, doc("PVC mounted at `/mnt/user-data`")] = ""
    # lark-cli
    lark_cli_init_image: A[str, doc("image of the lark-cli init container")] = ""
    lark_cli_broker_image: A[str, doc("image of the lark-cli broker sidecar")] = ""
    deerflow_lark_broker_deny_subcommands: A[str, doc("subcommands that the lark-cli broker refuses")] = ""
    # Timeouts and limits
    sandbox_idle_timeout_seconds: A[
        float, NOT_NEGATIVE, doc("default idle timeout: an unused sandbox expires after this time; 0: never")
    ] = 14400.0
    sandbox_max_idle_timeout_seconds: A[
        float, NOT_NEGATIVE, doc("longest idle timeout that a create can request; 0: no maximum")
    ] = 86400.0
    sandbox_max_lifetime_seconds: A[
        float, NOT_NEGATIVE, doc("time from the create after which even a busy sandbox expires; 0: never")
    ] = 86400.0
    sandbox_activity_path: A[
        str,
        URL_PATH,
        doc('path of the activity probe; the sandbox answers `{"active": bool}` or `last_activity`; empty: no probe'),
    ] = ""
    max_sandboxes: A[int, COUNT, doc("maximum number of sandboxes; 0: no maximum")] = 0
    max_sandboxes_per_user: A[int, COUNT, doc("maximum number of sandboxes of one user; 0: no maximum")] = 0
    node_port_capacity: A[
        int, COUNT, doc("node ports that sandboxes can take, of the cluster's 2,768; 0: not counted")
    ] = 2768
    rate_limit_per_second: A[float, NOT_NEGATIVE, doc("sustained requests per second of one key; 0: no limit")] = 0.0
    rate_limit_burst: A[int, REQUEST_COUNT, doc("burst size of the rate limit, in requests")] = 100
    # Jobs
    provision_timeout_seconds: A[
        float, POSITIVE, doc("time from the create until Ready; includes retries and a slow image pull")
    ] = 300.0
    failed_retention_seconds: A[float, POSITIVE, doc("time that the record of a failed sandbox can be read")] = 600.0
    sweep_interval_seconds: A[
        float, INTERVAL, doc("time between two sweeps; a sweep enqueues a job for each overdue record")
    ] = 10.0
    worker_max_jobs: A[int, JOB_COUNT, doc("jobs that one worker runs at once; a job mostly waits for Kubernetes")] = 50
    worker_shutdown_seconds: A[
        float, POSITIVE, doc("time for running jobs after SIGTERM; shorter than the Pod's grace period")
    ] = 20.0
    worker_metrics_host: A[str, HOST, doc("address on which a worker serves health and metrics")] = "127.0.0.1"
    worker_metrics_port: A[
        int, PORT_OR_NONE, doc("port of a worker's health and metrics, one for each worker of a host; 0: off")
    ] = 9102
    # Logs
    log_format: A[LogFormat, doc("`json`, `console`, or `auto`: `console` on a terminal, else `json`")] = LogFormat.AUTO
    log_level: A[LogLevel, doc("`DEBUG`, `INFO`, `WARNING` or `ERROR`")] = LogLevel.INFO


class Setting(msgspec.Struct, frozen=True):
    """A row of the settings table."""

    name: str
    type: Any
    default: object
    description: str
    secret: bool

    @property
    def field(self) -> str:
        return self.name.lower()

    @property
    def expected(self) -> str:
        return allowed_values(self.type)


TABLE: tuple[Setting, ...] = tuple(
    Setting(field.name.upper(), field.type, field.default, meta.description, meta.extra["secret"])
    for field in msgspec.structs.fields(Settings)
    for meta in field.type.__metadata__
    if meta.description is not None
)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Return the settings in force.

    Raises:
        InvalidSettings: names each wrong setting with what is allowed and what was given, one a line.
    """
    errors: list[str] = []
    settings = Settings(**{row.field: _value(row, environment.get(row.name, ""), errors) for row in TABLE})
    errors.extend(_contradictions(settings))
    if errors:
        raise InvalidSettings("\n".join(errors))
    return settings


def _value(row: Setting, raw: str, errors: list[str]) -> Any:
    """Return the value of one setting, or its default after adding a line to `errors`."""
    if not raw.strip():
        return row.default
    try:
        return msgspec.convert(spelled(row.type, raw.strip()), row.type, strict=False)
    except msgspec.ValidationError:
        given = "…" if row.secret else repr(raw)
        errors.append(f"{row.name}: expected {row.expected}; got {given}. Meaning: {row.description}")
        return row.default


def _contradictions(settings: Settings) -> Iterator[str]:
    yield from _bad_redis(settings)
    yield from _bad_timeouts(settings)
    yield from _bad_paths(settings)
    if settings.k8s_api_server and not settings.k8s_api_server.lower().startswith(("http://", "https://")):
        yield f"K8S_API_SERVER: expected a URL, https://host:port; got {settings.k8s_api_server!r}"
    yield from _bad_template(settings.skills_pvc_subpath_template)


def _bad_timeouts(settings: Settings) -> Iterator[str]:
    maximum, default = settings.sandbox_max_idle_timeout_seconds, settings.sandbox_idle_timeout_seconds
    if 0 < maximum < default:
        limit = f"SANDBOX_MAX_IDLE_TIMEOUT_SECONDS, which is {maximum:g}"
        yield f"SANDBOX_IDLE_TIMEOUT_SECONDS: expected at most {limit}; got {default:g}"


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
    """Check the template as a subPath, which Kubernetes requires to be relative and without `..`."""
    rest = template
    for name in TEMPLATE_FIELDS:
        rest = rest.replace(f"{{{name}}}", "x")
    if "{" in rest or "}" in rest:
        allowed = ", ".join(f"{{{name}}}" for name in sorted(TEMPLATE_FIELDS))
        yield f"SKILLS_PVC_SUBPATH_TEMPLATE: expected no placeholders but {allowed}; got {template!r}"
    elif rest.startswith("/") or ".." in rest.split("/"):
        yield f"SKILLS_PVC_SUBPATH_TEMPLATE: expected a relative path without `..`; got {template!r}"


def describe(settings: Settings) -> str:
    """Return `NAME=value` lines with secrets masked, as `--print-settings` shows them."""
    return "\n".join(f"{row.name}={_masked(row, getattr(settings, row.field))}" for row in TABLE)


def _masked(row: Setting, value: object) -> str:
    if row.secret and value and value != row.default:
        return "********"
    return str(value).lower() if isinstance(value, bool) else str(value)
