"""What the settings alone show."""

import pytest

from deploy.doctor.findings import Verdict
from tests.deploy.doctor.conftest import Look

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("check", ["settings", "paths"])
async def test_all_is_well(look: Look, check: str):
    assert (await look(check)).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("check", "settings", "seen", "advice"),
    [
        ("settings", {"PROVISIONER_API_KEY": ""}, "no PROVISIONER_API_KEY", "Set the API's"),
        (
            "settings",
            {"PROVISIONER_API_KEY": "", "PROVISIONER_ALLOW_ANONYMOUS": "true"},
            "anyone who reaches the API",
            "Set PROVISIONER_API_KEY",
        ),
        ("settings", {"K8S_VERIFY_TLS": "false"}, "K8S_VERIFY_TLS=false", "K8S_CA_FILE"),
        ("paths", {"SKILLS_HOST_PATH": "C:\\skills"}, "SKILLS_HOST_PATH: a path of Windows", "in one style"),
        ("paths", {"THREADS_HOST_PATH": ""}, "goes with it", "USERDATA_PVC_NAME"),
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
async def test_what_is_valid_and_yet_doubtful(look: Look, check, settings, seen, advice):
    found = await look(check, **settings)
    assert found.verdict is Verdict.WARNING
    assert seen in found.seen
    assert advice in found.advice


async def test_several_doubts_have_a_line_each(look: Look):
    found = await look("settings", PROVISIONER_API_KEY="", K8S_VERIFY_TLS="false")
    assert len(found.seen.splitlines()) == len(found.advice.splitlines()) == 2


async def test_paths_of_windows_are_well_when_all_are(look: Look):
    found = await look("paths", THREADS_HOST_PATH="C:\\threads", SKILLS_HOST_PATH="\\\\server\\skills")
    assert found.verdict is Verdict.OK


async def test_claims_only(look: Look):
    found = await look("paths", THREADS_HOST_PATH="", USERDATA_PVC_NAME="data")
    assert (found.verdict, found.seen) == (Verdict.OK, "none: claims only")
