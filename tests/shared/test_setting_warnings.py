import pytest

from shared import cli
from shared.setting_warnings import misspelled, without_effect
from shared.settings import TABLE, Settings, read_settings


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("MAX_SANDBOX", "MAX_SANDBOXES"),
        ("K8S_NAMESPACES", "K8S_NAMESPACE"),
        ("SANDBOX_TIMEOUT_SECONDS", "SANDBOX_IDLE_TIMEOUT_SECONDS"),
        ("SANDBOX_MAX_LIFETIME", "SANDBOX_MAX_LIFETIME_SECONDS"),
        ("PROVISIONER_APIKEY", "PROVISIONER_API_KEY"),
        ("REDIS_URI", "REDIS_URL"),
        ("NODEHOST", "NODE_HOST"),
        ("redis_url", "REDIS_URL"),
    ],
)
def test_variable_like_a_setting_is_named_with_the_nearest_setting(name: str, nearest: str):
    (sentence,) = misspelled({name: "1", "PATH": "/bin"})
    assert sentence.startswith(f"{name} has no effect")
    assert sentence.endswith(f"The nearest name is {nearest}.")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("SANDBOX_CONTAINER_SERVICE_PORT", "8080"),
        ("SANDBOX_CONTAINER_SERVICE_PORT_HTTP", "8080"),
        ("K8S_API_SERVICE_HOST", "10.0.0.1"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
        ("KUBECONFIG", "/root/.kube/config"),
        ("REDIS_PASSWORD", "secret"),
        ("REDISCLI_AUTH", "secret"),
        ("PROVISIONER_UID", "1000"),
        ("PROVISIONER_API_KEY_FILE", "/run/secrets/key"),
        ("DEER_FLOW_HOME", "/srv"),
        ("DEER_FLOW_CONFIG_PATH", "/srv/config.yaml"),
        ("TEST_KUBECONFIG", "/root/.kube/config"),
        ("MAX_SANDBOX", " "),
    ],
)
def test_variable_of_kubernetes_or_another_program_causes_no_warning(name: str, value: str):
    assert list(misspelled({name: value})) == []


def test_every_setting_causes_no_warning():
    assert list(misspelled({row.name: "1" for row in TABLE})) == []
    assert list(without_effect(Settings())) == []


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SKILLS_PVC_NAME": "a", "SKILLS_HOST_PATH": "/b"}, "SKILLS_HOST_PATH has no effect beside SKILLS_PVC_NAME"),
        (
            {"USERDATA_PVC_NAME": "a", "THREADS_HOST_PATH": "/b", "DEER_FLOW_HOST_BASE_DIR": "/c"},
            "THREADS_HOST_PATH has no effect beside USERDATA_PVC_NAME and DEER_FLOW_HOST_BASE_DIR",
        ),
        (
            {"SKILLS_PVC_SUBPATH_TEMPLATE": "{user_id}"},
            "SKILLS_PVC_SUBPATH_TEMPLATE has no effect without SKILLS_PVC_NAME",
        ),
    ],
)
def test_setting_without_effect_is_named(environment: dict[str, str], sentence: str):
    assert list(without_effect(read_settings(environment))) == [sentence]


def test_process_prints_warnings_at_start(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("MAX_SANDBOX", "5")
    monkeypatch.setenv("SKILLS_PVC_NAME", "skills")
    monkeypatch.setenv("SKILLS_HOST_PATH", "/srv/skills")
    cli.settings_or_exit(show=False)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[:2] for line in lines] == [["Warning:", "MAX_SANDBOX"], ["Warning:", "SKILLS_HOST_PATH"]]
