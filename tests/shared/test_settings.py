from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidSettings
from shared.settings import TABLE, Setting, Settings, describe, read_settings

HOST_PATHS = ["SKILLS_HOST_PATH", "DEER_FLOW_HOST_BASE_DIR", "THREADS_HOST_PATH"]
SECRETS = [row.name for row in TABLE if row.secret]


def wrong(environment: dict[str, str]) -> str:
    """What is said of an environment that is refused."""
    with pytest.raises(InvalidSettings) as refused:
        read_settings(environment)
    return refused.value.detail


def nonsense(row: Setting) -> str | None:
    """A value that no setting of this type can have; None: any text will do."""
    match row.default:
        case bool():
            return "perhaps"
        case int():
            return "8080.5"
        case float():
            return "soon"
        case StrEnum():
            return "Neither"
    return None


def test_defaults():
    """An empty environment is enough, and gives what the contract says."""
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
def test_empty_is_unset(row: Setting, nothing: str):
    """An empty variable is as good as none: a compose file may pass all of them through."""
    assert read_settings({row.name: nothing}) == read_settings({})


@pytest.mark.parametrize("row", [row for row in TABLE if nonsense(row)], ids=lambda row: row.name)
def test_nonsense_is_refused(row: Setting):
    """A value of the wrong type is refused, with the setting's name, what it is for, and what it got."""
    said = wrong({row.name: nonsense(row) or ""})
    assert said.startswith(f"{row.name}: ")
    assert row.description in said
    assert repr(nonsense(row)) in said


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_default_is_a_value(row: Setting):
    """The default of each setting, written down as `describe` shows it, is a value that it takes."""
    shown = dict(line.split("=", 1) for line in describe(Settings()).splitlines())[row.name]
    assert read_settings({row.name: shown}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "expects"),
    [
        ("SANDBOX_CONTAINER_PORT", "0", ">= 1"),
        ("SANDBOX_CONTAINER_PORT", "-1", ">= 1"),
        ("SANDBOX_CONTAINER_PORT", "65536", "<= 65535"),
        ("SANDBOX_SERVICE_TYPE", "LoadBalancer", "`ClusterIP`"),
        ("SANDBOX_SERVICE_TYPE", "nodeport", "`NodePort`"),
        ("K8S_TIMEOUT_SECONDS", "0", "> 0"),
        ("K8S_TIMEOUT_SECONDS", "nan", "> 0"),
        ("PROVISION_TIMEOUT_SECONDS", "-5", "> 0"),
        ("K8S_NAMESPACE", "Deer_Flow", "`str` matching"),
        ("K8S_NAMESPACE", "a" * 64, "`str` matching"),
        ("CLUSTER_NAME", "-east", "`str` matching"),
        ("LOG_LEVEL", "LOUD", "`WARNING`"),
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
def test_refused(name: str, value: str, expects: str):
    """A value against the rules is refused, with the setting's name and what it expects."""
    said = wrong({name: value})
    assert said.startswith(name)
    assert expects in said


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("SANDBOX_CONTAINER_PORT", "1", "sandbox_container_port", 1),
        ("SANDBOX_CONTAINER_PORT", " 65535\n", "sandbox_container_port", 65535),
        ("SANDBOX_SERVICE_TYPE", "ClusterIP", "sandbox_service_type", "ClusterIP"),
        ("PROVISIONER_ALLOW_ANONYMOUS", "true", "provisioner_allow_anonymous", True),
        ("K8S_VERIFY_TLS", "false", "k8s_verify_tls", False),
        ("K8S_TIMEOUT_SECONDS", "2.5", "k8s_timeout_seconds", 2.5),
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
def test_accepted(name: str, value: str, field: str, read: object):
    """A value within the rules is in force, paths and templates as they are written."""
    assert getattr(read_settings({name: value}), field) == (value if read is None else read)


@pytest.mark.parametrize("name", HOST_PATHS)
@given(path=st.text(st.characters(exclude_characters="/\\")).filter(str.strip))
def test_no_relative_path_is_accepted(name: str, path: str):
    """A path with no separator in it cannot be absolute, and none is accepted."""
    assert wrong({name: path}).startswith(f"{name}: expected an absolute path")


def test_every_error_is_reported():
    """All that is wrong is said at once, one setting a line, so that nobody starts five times to find five mistakes."""
    bad = {row.name: text for row in TABLE if (text := nonsense(row))}
    said = wrong(bad).splitlines()
    assert [line.split(":")[0] for line in said] == list(bad)


def test_every_contradiction_is_reported():
    """The same is true of values that are wrong for their meaning."""
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
def test_sentinels_refused(environment: dict[str, str]):
    """Sentinels come with the name of their master, and each has a host and a port."""
    assert "REDIS_SENTINELS" in wrong(environment)


def test_sentinels_accepted():
    """Several Sentinels may be named, with spaces between them."""
    environment = {"REDIS_SENTINELS": "a:26379, b:26380", "REDIS_SENTINEL_MASTER": "deer"}
    assert read_settings(environment).redis_sentinel_master == "deer"


def test_unknown_variables_are_none_of_ours():
    """What else is in the environment, as Kubernetes puts there, is not looked at."""
    assert read_settings({"REDIS_PORT": "tcp://10.0.0.1:6379", "PATH": "/bin", "redis_url": "x"}) == Settings()


@pytest.mark.parametrize("name", SECRETS)
@given(secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=12))
def test_secrets_are_not_shown(name: str, secret: str):
    """A secret is in nothing that is shown: neither in the settings in force nor in what is said of wrong ones."""
    fine = {name: f"redis://:{secret}@localhost/1" if name == "REDIS_URL" else secret}
    shown = describe(read_settings(fine))
    assert secret not in shown
    assert f"{name}=********" in shown
    said = wrong({**fine, "SANDBOX_CONTAINER_PORT": "0", "K8S_NAMESPACE": "_"})
    assert secret not in said
    assert secret not in wrong({**fine, "SKILLS_HOST_PATH": "relative"})


@given(secret=st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=12))
def test_a_wrong_secret_is_not_shown(secret: str):
    """A URL that is refused is not repeated: it may hold a password."""
    assert secret not in wrong({"REDIS_URL": f"http://:{secret}@localhost"})


def test_describe():
    """The settings in force are shown one a line, in the names and in the spelling of the environment."""
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
def test_what_would_fail_later_is_refused_at_start(environment: dict[str, str]):
    """A value that no library could use is refused when settings are read, by the setting's name."""
    with pytest.raises(InvalidSettings, match=next(iter(environment))):
        read_settings(environment)
