"""Settings that are valid and still need attention."""

from pathlib import Path

import pytest

from deploy.doctor.findings import Verdict
from tests.deploy.doctor.conftest import RunCheck

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", ["settings", "paths"])
async def test_settings_without_contradiction_are_ok(run_check: RunCheck, check: str):
    assert (await run_check(check)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("check", "settings", "detail", "advice"),
    [
        ("settings", {"PROVISIONER_API_KEY": ""}, "no PROVISIONER_API_KEY", "Set it for the API"),
        (
            "settings",
            {"PROVISIONER_API_KEY": "", "PROVISIONER_ALLOW_ANONYMOUS": "true"},
            "anyone who reaches the API",
            "Set PROVISIONER_API_KEY",
        ),
        ("settings", {"K8S_VERIFY_TLS": "false"}, "K8S_VERIFY_TLS=false", "K8S_CA_FILE"),
        ("paths", {"SKILLS_HOST_PATH": "C:\\skills"}, "SKILLS_HOST_PATH for Windows", "in the style of the nodes"),
        ("paths", {"THREADS_HOST_PATH": ""}, "lost with the Pod", "USERDATA_PVC_NAME"),
        ("paths", {"SKILLS_PVC_NAME": "a", "SKILLS_HOST_PATH": "/b"}, "SKILLS_HOST_PATH has no effect", "Unset"),
        ("paths", {"SKILLS_PVC_SUBPATH_TEMPLATE": "a"}, "has no effect without SKILLS_PVC_NAME", "Unset"),
        (
            "paths",
            {"USERDATA_PVC_NAME": "a", "DEER_FLOW_HOST_BASE_DIR": "/srv"},
            "THREADS_HOST_PATH has no effect",
            "Unset",
        ),
    ],
)
async def test_valid_settings_with_a_risk_are_a_warning(run_check: RunCheck, check, settings, detail, advice):
    result = await run_check(check, **settings)
    assert result.verdict is Verdict.WARNING
    assert detail in result.detail
    assert advice in result.advice


async def test_each_of_several_problems_has_its_own_line(run_check: RunCheck):
    result = await run_check("settings", PROVISIONER_API_KEY="", K8S_VERIFY_TLS="false")
    assert len(result.detail.splitlines()) == len(result.advice.splitlines()) == 2


def mount_account_token(root: Path) -> None:
    token = root / "var/run/secrets/kubernetes.io/serviceaccount/token"
    token.parent.mkdir(parents=True)
    token.write_text("token")


async def test_missing_api_key_in_the_pod_of_a_worker_is_ok(run_check: RunCheck, tmp_path: Path):
    """Only the API's Pods have the key."""
    mount_account_token(tmp_path)
    variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    result = await run_check("settings", variables=variables, root=tmp_path, PROVISIONER_API_KEY="")
    assert (result.verdict, result.detail) == (Verdict.OK, "valid")


async def test_missing_api_key_in_the_pod_of_an_api_is_a_warning(run_check: RunCheck, tmp_path: Path):
    variables = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    result = await run_check("settings", variables=variables, root=tmp_path, PROVISIONER_API_KEY="")
    assert "no PROVISIONER_API_KEY" in result.detail


async def test_misspelled_setting_is_a_warning_with_the_nearest_name(run_check: RunCheck):
    result = await run_check("settings", variables={"MAX_SANDBOX": "5"})
    assert result.verdict is Verdict.WARNING
    assert "MAX_SANDBOX has no effect" in result.detail
    assert "MAX_SANDBOXES" in result.detail


async def test_windows_paths_are_ok_if_all_paths_are(run_check: RunCheck):
    result = await run_check("paths", THREADS_HOST_PATH="C:\\threads", SKILLS_HOST_PATH="\\\\server\\skills")
    assert result.verdict is Verdict.OK


async def test_volume_claims_without_paths_are_ok(run_check: RunCheck):
    result = await run_check("paths", THREADS_HOST_PATH="", USERDATA_PVC_NAME="data")
    assert (result.verdict, result.detail) == (Verdict.OK, "no paths: volume claims only")
