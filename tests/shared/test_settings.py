from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidSettings
from shared.settings import TABLE, Setting, Settings, describe, read_settings

HOST_PATHS = ["SKILLS_HOST_PATH", "DEER_FLOW_HOST_BASE_DIR", "THREADS_HOST_PATH"]
CLAIMS = ["SKILLS_PVC_NAME", "USERDATA_PVC_NAME"]
SECRETS = [row.name for row in TABLE if row.secret]
PATTERNS = {row: meta.pattern for row in TABLE for meta in row.type.__metadata__ if meta.pattern}


def wrong(environment: dict[str, str]) -> str:
    """Return the error message for an environment that is refused."""
    with pytest.raises(InvalidSettings) as refusal:
        read_settings(environment)
    return refusal.value.detail


def nonsense(row: Setting) -> str | None:
    """Return a value that no setting of this type can have; None if any text is allowed."""
    match row.default:
        case bool():
            return "yes"
        case int():
            return "8080.5"
        case float():
            return "soon"
        case StrEnum():
            return "Neither"
    return None


def test_empty_environment_gives_the_defaults_of_the_contract():
    settings = read_settings({})
    assert settings == Settings()
    assert settings.k8s_namespace == "deer-flow"
    assert settings.sandbox_image == (
        "enterprise-public-cn-beijing.cr.volces.com/vefaas-public/all-in-one-sandbox:latest"
    )
    assert (settings.sandbox_container_port, settings.sandbox_service_type) == (8080, "NodePort")
    assert settings.node_host == "host.docker.internal"
    assert settings.kubeconfig_path == "/root/.kube/config"
    assert settings.provisioner_api_key == ""
    assert settings.provisioner_allow_anonymous is False
    assert settings.k8s_verify_tls is True


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
@pytest.mark.parametrize("nothing", ["", " ", "\n"])
def test_empty_variable_counts_as_not_set(row: Setting, nothing: str):
    """A compose file passes all variables through."""
    assert read_settings({row.name: nothing}) == read_settings({})


@pytest.mark.parametrize("row", [row for row in TABLE if nonsense(row)], ids=lambda row: row.name)
def test_value_of_wrong_type_is_refused_with_name_allowed_values_and_meaning(row: Setting):
    message = wrong({row.name: nonsense(row) or ""})
    assert message.startswith(f"{row.name}: expected {row.expected}; got ")
    assert row.description in message
    assert repr(nonsense(row)) in message


@pytest.mark.parametrize(("row", "pattern"), PATTERNS.items(), ids=lambda part: getattr(part, "name", ""))
def test_message_for_a_wrong_text_has_words_and_no_regular_expression(row: Setting, pattern: str):
    message = wrong({row.name: "a b/ü"})
    assert message.startswith(f"{row.name}: expected {row.expected}; got ")
    assert "regex" not in message
    assert pattern not in message


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_default_as_described_is_accepted(row: Setting):
    shown = dict(line.split("=", 1) for line in describe(Settings()).splitlines())[row.name]
    assert read_settings({row.name: shown}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expects"),
    [
        ("SANDBOX_CONTAINER_PORT", "0", "a whole number from 1 to 65535"),
        ("SANDBOX_CONTAINER_PORT", "-1", "from 1"),
        ("SANDBOX_CONTAINER_PORT", "65536", "to 65535"),
        ("SANDBOX_SERVICE_TYPE", "LoadBalancer", "`ClusterIP`"),
        ("K8S_TIMEOUT_SECONDS", "0", "a number above 0"),
        ("K8S_TIMEOUT_SECONDS", "nan", "above 0, at most 86400"),
        ("PROVISION_TIMEOUT_SECONDS", "-5", "above 0"),
        ("SWEEP_INTERVAL_SECONDS", "0", "from 0.1 to 3600"),
        ("K8S_VERIFY_TLS", "yes", "`true` or `false`"),
        ("K8S_NAMESPACE", "Deer_Flow", "a DNS label: lowercase letters, digits and `-`, at most 63 characters"),
        ("K8S_NAMESPACE", "a" * 64, "at most 63 characters"),
        ("CLUSTER_NAME", "-east", "no `-` at either end"),
        ("LOG_LEVEL", "LOUD", "`WARNING`"),
        *(
            ("K8S_NAMESPACE", f"kube-{name}", "not a namespace of Kubernetes")
            for name in ("system", "public", "node-lease")
        ),
        *(("NODE_HOST", host, "without scheme, brackets, port") for host in ("10.0.0.7:80", "node:80", "[fd00::7]")),
        *(("NODE_HOST", host, "a host name or IP address") for host in ("http://node", "fd00::7%eth0", "-node", "a b")),
        *(
            (name, claim, "a PersistentVolumeClaim")
            for name in CLAIMS
            for claim in ("Data", "a_b", "-a", "a..b", "a/b")
        ),
        *((name, "a" * 254, "at most 253 characters") for name in CLAIMS),
        ("REDIS_URL", "http://localhost", "redis://"),
        ("REDIS_URL", "localhost:6379", "unix://"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "{user}", "{user_id}"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "{}", "{thread_id}"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "{0}", "{thread_id}"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "{user_id.__class__}", "{user_id}"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "{user_id", "{user_id}"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "user_id}", "{user_id}"),
        *((name, "srv/data", "absolute") for name in HOST_PATHS),
        *((name, "./data", "absolute") for name in HOST_PATHS),
        *((name, "C:data", "absolute") for name in HOST_PATHS),
        *((name, "/srv/../etc", "..") for name in HOST_PATHS),
        *((name, "C:\\srv\\..\\etc", "..") for name in HOST_PATHS),
    ],
)
def test_value_against_the_rules_is_refused_with_name_and_allowed_values(name: str, value: str, expects: str):
    message = wrong({name: value})
    assert message.startswith(name)
    assert expects in message


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("SANDBOX_CONTAINER_PORT", "1", "sandbox_container_port", 1),
        ("SANDBOX_CONTAINER_PORT", " 65535\n", "sandbox_container_port", 65535),
        ("SANDBOX_SERVICE_TYPE", "ClusterIP", "sandbox_service_type", "ClusterIP"),
        ("PROVISIONER_ALLOW_ANONYMOUS", "true", "provisioner_allow_anonymous", True),
        ("K8S_VERIFY_TLS", "false", "k8s_verify_tls", False),
        ("K8S_TIMEOUT_SECONDS", "2.5", "k8s_timeout_seconds", 2.5),
        ("SWEEP_INTERVAL_SECONDS", "0.1", "sweep_interval_seconds", 0.1),
        ("LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("LOG_LEVEL", "warning", "log_level", "WARNING"),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("SANDBOX_SERVICE_TYPE", "clusterip", "sandbox_service_type", "ClusterIP"),
        ("K8S_VERIFY_TLS", "FALSE", "k8s_verify_tls", False),
        ("PROVISIONER_ALLOW_ANONYMOUS", "True", "provisioner_allow_anonymous", True),
        ("K8S_NAMESPACE", "kube-systems", "k8s_namespace", None),
        *(("NODE_HOST", host, "node_host", None) for host in ("10.0.0.7", "Node_1.example", "fd00::7", "::1")),
        ("WORKER_METRICS_HOST", "::", "worker_metrics_host", None),
        *((name, "data.team-1", name.lower(), None) for name in CLAIMS),
        (
            "REDIS_URL",
            "rediss://user:word@redis.example:6380/3",
            "redis_url",
            "rediss://user:word@redis.example:6380/3",
        ),
        ("REDIS_URL", "unix:///run/valkey.sock", "redis_url", "unix:///run/valkey.sock"),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "u/{user_id}/{thread_id}", "skills_pvc_subpath_template", None),
        ("SKILLS_PVC_SUBPATH_TEMPLATE", "skills", "skills_pvc_subpath_template", None),
        *((name, "/srv/data", name.lower(), None) for name in HOST_PATHS),
        *((name, "C:\\deer-flow\\data", name.lower(), None) for name in HOST_PATHS),
        *((name, "d:/deer-flow", name.lower(), None) for name in HOST_PATHS),
        *((name, "\\\\server\\share", name.lower(), None) for name in HOST_PATHS),
        *((name, "/srv/a..b/...", name.lower(), None) for name in HOST_PATHS),
    ],
)
def test_value_within_the_rules_is_in_force(name: str, value: str, field: str, read: object):
    """Paths and templates stay as they are written."""
    assert getattr(read_settings({name: value}), field) == (value if read is None else read)


@pytest.mark.parametrize("name", HOST_PATHS)
@given(path=st.text(st.characters(exclude_characters="/\\")).filter(str.strip))
def test_path_without_separator_is_refused_as_not_absolute(name: str, path: str):
    assert wrong({name: path}).startswith(f"{name}: expected an absolute path")


def test_several_wrong_values_are_reported_at_once_one_a_line():
    """A person with five mistakes need not start the process five times."""
    bad = {row.name: text for row in TABLE if (text := nonsense(row))}
    lines = wrong(bad).splitlines()
    assert [line.split(":")[0] for line in lines] == list(bad)


def test_several_contradictions_are_reported_at_once():
    bad = {**dict.fromkeys(HOST_PATHS, "data"), "SKILLS_PVC_SUBPATH_TEMPLATE": "{x}", "REDIS_URL": "x"}
    assert {line.split(":")[0] for line in wrong(bad).splitlines()} == set(bad)


@pytest.mark.parametrize(
    "environment",
    [
        {"REDIS_SENTINELS": "a:26379"},
        {"REDIS_SENTINEL_MASTER": "deer"},
        {"REDIS_SENTINELS": "a", "REDIS_SENTINEL_MASTER": "deer"},
        {"REDIS_SENTINELS": "a:x", "REDIS_SENTINEL_MASTER": "deer"},
        {"REDIS_SENTINELS": ":26379", "REDIS_SENTINEL_MASTER": "deer"},
        {"REDIS_SENTINELS": "a:0", "REDIS_SENTINEL_MASTER": "deer"},
        {"REDIS_SENTINELS": "a:26379,b:65536", "REDIS_SENTINEL_MASTER": "deer"},
    ],
)
def test_sentinels_without_master_host_or_port_are_refused(environment: dict[str, str]):
    assert "REDIS_SENTINELS" in wrong(environment)


def test_sentinels_with_spaces_between_them_are_accepted():
    environment = {"REDIS_SENTINELS": "a:26379, b:26380", "REDIS_SENTINEL_MASTER": "deer"}
    assert read_settings(environment).redis_sentinel_master == "deer"


def test_unknown_variables_are_ignored():
    """Kubernetes injects variables such as REDIS_PORT into each Pod."""
    assert read_settings({"REDIS_PORT": "tcp://10.0.0.1:6379", "PATH": "/bin", "redis_url": "x"}) == Settings()


@pytest.mark.parametrize("name", SECRETS)
@given(secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12))
def test_secret_is_neither_in_the_description_nor_in_error_messages(name: str, secret: str):
    environment = {name: f"redis://:{secret}@localhost/1" if name == "REDIS_URL" else secret}
    description = describe(read_settings(environment))
    assert secret not in description
    assert f"{name}=********" in description
    assert secret not in wrong({**environment, "SANDBOX_CONTAINER_PORT": "0", "K8S_NAMESPACE": "_"})
    assert secret not in wrong({**environment, "SKILLS_HOST_PATH": "relative"})


@given(secret=st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=12))
def test_refused_redis_url_is_not_in_the_error_message(secret: str):
    """The URL can contain a password."""
    assert secret not in wrong({"REDIS_URL": f"http://:{secret}@localhost"})


def test_describe_shows_names_and_spelling_of_the_environment_one_a_line():
    lines = describe(read_settings({"K8S_VERIFY_TLS": "0", "NODE_HOST": "10.0.0.7"})).splitlines()
    assert [line.partition("=")[0] for line in lines] == [row.name for row in TABLE]
    assert "K8S_VERIFY_TLS=false" in lines
    assert "NODE_HOST=10.0.0.7" in lines
    assert "PROVISIONER_API_KEY=" in lines


@pytest.mark.parametrize(
    "environment",
    [
        {"REDIS_URL": "redis://h:xx/0"},
        {"REDIS_URL": "redis://h:99999/0"},
        {"REDIS_URL": "redis://[::1"},
        {"REDIS_URL": "unix://"},
        {"REDIS_SENTINELS": "h:²", "REDIS_SENTINEL_MASTER": "m"},
        {"REDIS_SENTINELS": ",", "REDIS_SENTINEL_MASTER": "m"},
        {"K8S_TIMEOUT_SECONDS": "inf"},
        {"PROVISIONER_API_KEY": "k\udcff"},
        {"PROVISIONER_API_KEY": "schlüssel"},
        {"SKILLS_PVC_SUBPATH_TEMPLATE": "{user_id:{x}}"},
        {"SKILLS_PVC_SUBPATH_TEMPLATE": "{user_id:d}"},
        {"SKILLS_PVC_SUBPATH_TEMPLATE": "../{user_id}"},
        {"SKILLS_PVC_SUBPATH_TEMPLATE": "/abs"},
    ],
    ids=str,
)
def test_value_that_no_library_can_use_is_refused_at_start(environment: dict[str, str]):
    with pytest.raises(InvalidSettings, match=next(iter(environment))):
        read_settings(environment)
