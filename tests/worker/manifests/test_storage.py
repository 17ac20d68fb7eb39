"""Table of the mounts of every container, by settings and request.

Each line `[container: ]path ro|rw source` is a mount. A source is a path on the node with its type, a PVC with its
subPath, or `empty` for an emptyDir.
"""

from typing import Any

import pytest

from shared.sandbox.record import Sandbox
from shared.settings import Settings
from tests.support.records import record_of, settings_of
from worker import manifests
from worker.kubernetes.manifest_types import Container, PodManifest, Volume, VolumeMount

BASE = "/srv/df"
SKILLS = f"""
/mnt/skills/public ro {BASE}/skills_view/public Directory
/mnt/skills/custom ro {BASE}/users/u1/skills_view/custom Directory
/mnt/skills/legacy ro {BASE}/users/u1/skills_view/legacy Directory
"""
EMPTY_USER_DATA = "/mnt/user-data rw empty"
PVC_USER_DATA = "/mnt/user-data rw PVC home:deer-flow/users/u1/threads/t1/user-data"


def source(volume: Volume, mount: VolumeMount) -> str:
    if volume.host_path:
        return f"{volume.host_path.path} {volume.host_path.type}"
    if volume.persistent_volume_claim:
        pvc = f"PVC {volume.persistent_volume_claim.claim_name}"
        return f"{pvc}:{mount.sub_path}" if mount.sub_path else pvc
    return "empty"


def mounts(pod: PodManifest, container: Container) -> list[str]:
    volumes = {volume.name: volume for volume in pod.spec.volumes}
    prefix = "" if container.name == "sandbox" else f"{container.name}: "
    return [
        f"{prefix}{m.mount_path} {'ro' if m.read_only else 'rw'} {source(volumes[m.name], m)}"
        for m in container.volume_mounts
    ]


def storage(record: Sandbox, settings: Settings) -> list[str]:
    pod = manifests.pod(record, settings)
    containers = [*pod.spec.containers, *pod.spec.init_containers]
    return sorted(line for container in containers for line in mounts(pod, container))


def extra(container_path: str, host_path: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"container_path": container_path, "host_path": host_path, "read_only": read_only}


LARK = [
    extra("/mnt/integrations/lark-cli/config", f"{BASE}/users/u1/lark/config", read_only=True),
    extra("/mnt/integrations/lark-cli/config/locks", f"{BASE}/users/u1/lark/config/locks"),
    extra("/mnt/integrations/lark-cli/data", f"{BASE}/users/u1/lark/data"),
    extra("/mnt/integrations/lark-cli/runtime", f"{BASE}/lark/runtime", read_only=True),
]
LARK_AS_EXTRA_MOUNTS = f"""
/mnt/integrations/lark-cli/config ro {BASE}/users/u1/lark/config Directory
/mnt/integrations/lark-cli/config/locks rw {BASE}/users/u1/lark/config/locks DirectoryOrCreate
/mnt/integrations/lark-cli/data rw {BASE}/users/u1/lark/data DirectoryOrCreate
"""

CASES: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
    "no settings: user data in an emptyDir": ({}, {}, EMPTY_USER_DATA),
    "base: skills of this user below it": ({"DEER_FLOW_HOST_BASE_DIR": BASE}, {}, f"{SKILLS}{EMPTY_USER_DATA}"),
    "base, user default: skills of that user": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE},
        {"user_id": "default"},
        f"{SKILLS.replace('u1', 'default')}{EMPTY_USER_DATA}",
    ),
    "skills PVC: replaces both paths": (
        {"SKILLS_PVC_NAME": "skills", "SKILLS_HOST_PATH": "/srv/skills", "DEER_FLOW_HOST_BASE_DIR": BASE},
        {},
        f"/mnt/skills ro PVC skills\n{EMPTY_USER_DATA}",
    ),
    "SKILLS_HOST_PATH: replaces the base": (
        {"SKILLS_HOST_PATH": "/srv/skills", "DEER_FLOW_HOST_BASE_DIR": BASE},
        {},
        f"/mnt/skills ro /srv/skills Directory\n{EMPTY_USER_DATA}",
    ),
    "skills PVC: subPath with user and thread": (
        {"SKILLS_PVC_NAME": "skills", "SKILLS_PVC_SUBPATH_TEMPLATE": "of/{user_id}/{thread_id}/skills"},
        {},
        f"/mnt/skills ro PVC skills:of/u1/t1/skills\n{EMPTY_USER_DATA}",
    ),
    "skills PVC, no thread: subPath with the sandbox id": (
        {"SKILLS_PVC_NAME": "skills", "SKILLS_PVC_SUBPATH_TEMPLATE": "{thread_id}"},
        {"thread_id": None},
        f"/mnt/skills ro PVC skills:0123456789abcdef\n{EMPTY_USER_DATA}",
    ),
    "THREADS_HOST_PATH only: user data on the node, no skills": (
        {"THREADS_HOST_PATH": "/srv/threads"},
        {},
        "/mnt/user-data rw /srv/threads/t1/user-data DirectoryOrCreate",
    ),
    "THREADS_HOST_PATH, no thread: path with the sandbox id": (
        {"THREADS_HOST_PATH": "/srv/threads"},
        {"thread_id": None},
        "/mnt/user-data rw /srv/threads/0123456789abcdef/user-data DirectoryOrCreate",
    ),
    "user data PVC, no thread: subPath with the sandbox id": (
        {"USERDATA_PVC_NAME": "home"},
        {"thread_id": None},
        "/mnt/user-data rw PVC home:deer-flow/users/u1/threads/0123456789abcdef/user-data",
    ),
    "user data PVC: replaces THREADS_HOST_PATH": (
        {"USERDATA_PVC_NAME": "home", "THREADS_HOST_PATH": "/srv/threads"},
        {},
        PVC_USER_DATA,
    ),
    "extra mount: replaces the default mount of its path": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE},
        {"extra_mounts": [extra("/mnt/skills/custom", f"{BASE}/users/u1/custom", read_only=True)]},
        f"""
        /mnt/skills/public ro {BASE}/skills_view/public Directory
        /mnt/skills/custom ro {BASE}/users/u1/custom Directory
        /mnt/skills/legacy ro {BASE}/users/u1/skills_view/legacy Directory
        {EMPTY_USER_DATA}
        """,
    ),
    "extra mount, writable: path normalised and created": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE, "SKILLS_PVC_NAME": "skills"},
        {"extra_mounts": [extra("/mnt/acp-workspace", f"{BASE}/a/../users//u1/acp/")]},
        f"/mnt/skills ro PVC skills\n{EMPTY_USER_DATA}\n/mnt/acp-workspace rw {BASE}/users/u1/acp DirectoryOrCreate",
    ),
    "user data PVC: an extra mount is the same path in it": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE, "SKILLS_PVC_NAME": "skills", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/acp-workspace", f"{BASE}/users/u1/acp", read_only=True)]},
        f"/mnt/skills ro PVC skills\n{PVC_USER_DATA}\n/mnt/acp-workspace ro PVC home:deer-flow/users/u1/acp",
    ),
    "user data PVC: extra mount below the base that THREADS_HOST_PATH implies": (
        {"THREADS_HOST_PATH": f"{BASE}/threads", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/acp-workspace", f"{BASE}/threads/t1/acp")]},
        f"{PVC_USER_DATA}\n/mnt/acp-workspace rw PVC home:deer-flow/threads/t1/acp",
    ),
    "both PVCs: an extra mount over a part of the skills": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE, "SKILLS_PVC_NAME": "skills", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/skills/custom", f"{BASE}/users/u1/custom", read_only=True)]},
        f"/mnt/skills ro PVC skills\n{PVC_USER_DATA}\n/mnt/skills/custom ro PVC home:deer-flow/users/u1/custom",
    ),
    "both PVCs: the broker gets the lark subPaths, the sandbox does not": (
        {
            "DEER_FLOW_HOST_BASE_DIR": BASE,
            "SKILLS_PVC_NAME": "skills",
            "USERDATA_PVC_NAME": "home",
            "LARK_CLI_BROKER_IMAGE": "broker:1",
        },
        {"provision_lark_cli_broker": True, "extra_mounts": [*LARK, extra("/mnt/acp-workspace", f"{BASE}/acp")]},
        f"""
        /mnt/skills ro PVC skills
        {PVC_USER_DATA}
        /mnt/acp-workspace rw PVC home:deer-flow/acp
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-shim-init: /mnt/integrations/lark-cli/runtime rw empty
        lark-cli-broker: /var/lark/config ro PVC home:deer-flow/users/u1/lark/config
        lark-cli-broker: /var/lark/config/locks rw PVC home:deer-flow/users/u1/lark/config/locks
        lark-cli-broker: /var/lark/data rw PVC home:deer-flow/users/u1/lark/data
        """,
    ),
    "runtime and broker, both configured: the broker": (
        {"LARK_CLI_INIT_IMAGE": "init:1", "LARK_CLI_BROKER_IMAGE": "broker:1"},
        {"provision_lark_cli_runtime": True, "provision_lark_cli_broker": True, "extra_mounts": LARK},
        f"""
        {EMPTY_USER_DATA}
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-shim-init: /mnt/integrations/lark-cli/runtime rw empty
        lark-cli-broker: /var/lark/config ro {BASE}/users/u1/lark/config Directory
        lark-cli-broker: /var/lark/config/locks rw {BASE}/users/u1/lark/config/locks DirectoryOrCreate
        lark-cli-broker: /var/lark/data rw {BASE}/users/u1/lark/data DirectoryOrCreate
        """,
    ),
    "runtime and broker, init image configured: the runtime": (
        {"LARK_CLI_INIT_IMAGE": "init:1"},
        {"provision_lark_cli_runtime": True, "provision_lark_cli_broker": True, "extra_mounts": LARK},
        f"""
        {EMPTY_USER_DATA}{LARK_AS_EXTRA_MOUNTS}
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-init: /mnt/integrations/lark-cli/runtime rw empty
        """,
    ),
    "runtime and broker, no image: ordinary extra mounts": (
        {},
        {"provision_lark_cli_runtime": True, "provision_lark_cli_broker": True, "extra_mounts": LARK},
        f"""
        {EMPTY_USER_DATA}{LARK_AS_EXTRA_MOUNTS}
        /mnt/integrations/lark-cli/runtime ro {BASE}/lark/runtime Directory
        """,
    ),
    "images configured, not requested: ordinary extra mounts": (
        {"LARK_CLI_INIT_IMAGE": "init:1", "LARK_CLI_BROKER_IMAGE": "broker:1"},
        {"extra_mounts": LARK},
        f"""
        {EMPTY_USER_DATA}{LARK_AS_EXTRA_MOUNTS}
        /mnt/integrations/lark-cli/runtime ro {BASE}/lark/runtime Directory
        """,
    ),
    "broker without extra mounts": (
        {"LARK_CLI_BROKER_IMAGE": "broker:1"},
        {"provision_lark_cli_broker": True},
        f"""
        {EMPTY_USER_DATA}
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-shim-init: /mnt/integrations/lark-cli/runtime rw empty
        """,
    ),
    "Windows node with a drive": (
        {"DEER_FLOW_HOST_BASE_DIR": "C:\\df", "THREADS_HOST_PATH": "C:\\df\\threads"},
        {"extra_mounts": [extra("/mnt/acp-workspace", "C:\\df\\users\\u1\\acp")]},
        r"""
        /mnt/skills/public ro C:\df\skills_view\public Directory
        /mnt/skills/custom ro C:\df\users\u1\skills_view\custom Directory
        /mnt/skills/legacy ro C:\df\users\u1\skills_view\legacy Directory
        /mnt/user-data rw C:\df\threads\t1\user-data DirectoryOrCreate
        /mnt/acp-workspace rw C:\df\users\u1\acp DirectoryOrCreate
        """,
    ),
    "Windows share": (
        {"SKILLS_HOST_PATH": "\\\\server\\share\\skills", "THREADS_HOST_PATH": "\\\\server\\share\\threads"},
        {},
        r"""
        /mnt/skills ro \\server\share\skills Directory
        /mnt/user-data rw \\server\share\threads\t1\user-data DirectoryOrCreate
        """,
    ),
    "user data PVC on Windows: subPaths with slashes": (
        {"THREADS_HOST_PATH": "C:\\df\\threads", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/acp-workspace", "C:\\DF\\users\\u1\\acp")]},
        f"{PVC_USER_DATA}\n/mnt/acp-workspace rw PVC home:deer-flow/users/u1/acp",
    ),
}


@pytest.mark.parametrize(("environment", "request_fields", "expected"), CASES.values(), ids=CASES)
def test_containers_have_exactly_the_mounts_of_settings_and_request(
    environment: dict[str, str], request_fields: dict[str, Any], expected: str
):
    record = record_of(spec={"user_id": "u1", "thread_id": "t1", **request_fields})
    lines = [line.strip() for line in expected.splitlines() if line.strip()]
    assert storage(record, settings_of(**environment)) == sorted(lines)
