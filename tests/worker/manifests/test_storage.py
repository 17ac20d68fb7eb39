"""Where a sandbox's files come from, by settings and request: every mount of every container, written out.

One line a mount: `[container: ]path ro|rw source`. A source is a path on the node with its type, a claim with its
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
EMPTY_HOME = "/mnt/user-data rw empty"
CLAIMED_HOME = "/mnt/user-data rw claim home:deer-flow/users/u1/threads/t1/user-data"


def source(volume: Volume, mount: VolumeMount) -> str:
    if volume.host_path:
        return f"{volume.host_path.path} {volume.host_path.type}"
    if volume.persistent_volume_claim:
        claim = f"claim {volume.persistent_volume_claim.claim_name}"
        return f"{claim}:{mount.sub_path}" if mount.sub_path else claim
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
    "nothing is configured: user data goes with the Pod": ({}, {}, EMPTY_HOME),
    "skills below the base, of this user": ({"DEER_FLOW_HOST_BASE_DIR": BASE}, {}, f"{SKILLS}{EMPTY_HOME}"),
    "without a user, the default one's skills": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE},
        {"user_id": "default"},
        f"{SKILLS.replace('u1', 'default')}{EMPTY_HOME}",
    ),
    "a claim for skills wins over paths": (
        {"SKILLS_PVC_NAME": "skills", "SKILLS_HOST_PATH": "/srv/skills", "DEER_FLOW_HOST_BASE_DIR": BASE},
        {},
        f"/mnt/skills ro claim skills\n{EMPTY_HOME}",
    ),
    "the older layout's path wins over the base": (
        {"SKILLS_HOST_PATH": "/srv/skills", "DEER_FLOW_HOST_BASE_DIR": BASE},
        {},
        f"/mnt/skills ro /srv/skills Directory\n{EMPTY_HOME}",
    ),
    "the claim's subPath knows user and thread": (
        {"SKILLS_PVC_NAME": "skills", "SKILLS_PVC_SUBPATH_TEMPLATE": "of/{user_id}/{thread_id}/skills"},
        {},
        f"/mnt/skills ro claim skills:of/u1/t1/skills\n{EMPTY_HOME}",
    ),
    "the claim's subPath of a request without thread has the sandbox id": (
        {"SKILLS_PVC_NAME": "skills", "SKILLS_PVC_SUBPATH_TEMPLATE": "{thread_id}"},
        {"thread_id": None},
        f"/mnt/skills ro claim skills:0123456789abcdef\n{EMPTY_HOME}",
    ),
    "only THREADS_HOST_PATH: user data on the node, no skills": (
        {"THREADS_HOST_PATH": "/srv/threads"},
        {},
        "/mnt/user-data rw /srv/threads/t1/user-data DirectoryOrCreate",
    ),
    "no thread: the sandbox id stands for it on the node": (
        {"THREADS_HOST_PATH": "/srv/threads"},
        {"thread_id": None},
        "/mnt/user-data rw /srv/threads/0123456789abcdef/user-data DirectoryOrCreate",
    ),
    "no thread: the sandbox id stands for it in the claim": (
        {"USERDATA_PVC_NAME": "home"},
        {"thread_id": None},
        "/mnt/user-data rw claim home:deer-flow/users/u1/threads/0123456789abcdef/user-data",
    ),
    "a claim for user data wins over the node's path": (
        {"USERDATA_PVC_NAME": "home", "THREADS_HOST_PATH": "/srv/threads"},
        {},
        CLAIMED_HOME,
    ),
    "an extra mount wins over the usual one of its path": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE},
        {"extra_mounts": [extra("/mnt/skills/custom", f"{BASE}/users/u1/custom", read_only=True)]},
        f"""
        /mnt/skills/public ro {BASE}/skills_view/public Directory
        /mnt/skills/custom ro {BASE}/users/u1/custom Directory
        /mnt/skills/legacy ro {BASE}/users/u1/skills_view/legacy Directory
        {EMPTY_HOME}
        """,
    ),
    "an extra mount is normalised, and made when it is written to": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE, "SKILLS_PVC_NAME": "skills"},
        {"extra_mounts": [extra("/mnt/acp-workspace", f"{BASE}/a/../users//u1/acp/")]},
        f"/mnt/skills ro claim skills\n{EMPTY_HOME}\n/mnt/acp-workspace rw {BASE}/users/u1/acp DirectoryOrCreate",
    ),
    "with a claim an extra mount is the same path in it": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE, "SKILLS_PVC_NAME": "skills", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/acp-workspace", f"{BASE}/users/u1/acp", read_only=True)]},
        f"/mnt/skills ro claim skills\n{CLAIMED_HOME}\n/mnt/acp-workspace ro claim home:deer-flow/users/u1/acp",
    ),
    "with a claim, below a base that THREADS_HOST_PATH implies": (
        {"THREADS_HOST_PATH": f"{BASE}/threads", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/acp-workspace", f"{BASE}/threads/t1/acp")]},
        f"{CLAIMED_HOME}\n/mnt/acp-workspace rw claim home:deer-flow/threads/t1/acp",
    ),
    "with claims, an extra mount over a part of the skills": (
        {"DEER_FLOW_HOST_BASE_DIR": BASE, "SKILLS_PVC_NAME": "skills", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/skills/custom", f"{BASE}/users/u1/custom", read_only=True)]},
        f"/mnt/skills ro claim skills\n{CLAIMED_HOME}\n/mnt/skills/custom ro claim home:deer-flow/users/u1/custom",
    ),
    "with claims, the broker gets subPaths and the sandbox none of them": (
        {
            "DEER_FLOW_HOST_BASE_DIR": BASE,
            "SKILLS_PVC_NAME": "skills",
            "USERDATA_PVC_NAME": "home",
            "LARK_CLI_BROKER_IMAGE": "broker:1",
        },
        {"provision_lark_cli_broker": True, "extra_mounts": [*LARK, extra("/mnt/acp-workspace", f"{BASE}/acp")]},
        f"""
        /mnt/skills ro claim skills
        {CLAIMED_HOME}
        /mnt/acp-workspace rw claim home:deer-flow/acp
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-shim-init: /mnt/integrations/lark-cli/runtime rw empty
        lark-cli-broker: /var/lark/config ro claim home:deer-flow/users/u1/lark/config
        lark-cli-broker: /var/lark/config/locks rw claim home:deer-flow/users/u1/lark/config/locks
        lark-cli-broker: /var/lark/data rw claim home:deer-flow/users/u1/lark/data
        """,
    ),
    "both asked for and both configured: the broker wins": (
        {"LARK_CLI_INIT_IMAGE": "init:1", "LARK_CLI_BROKER_IMAGE": "broker:1"},
        {"provision_lark_cli_runtime": True, "provision_lark_cli_broker": True, "extra_mounts": LARK},
        f"""
        {EMPTY_HOME}
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-shim-init: /mnt/integrations/lark-cli/runtime rw empty
        lark-cli-broker: /var/lark/config ro {BASE}/users/u1/lark/config Directory
        lark-cli-broker: /var/lark/config/locks rw {BASE}/users/u1/lark/config/locks DirectoryOrCreate
        lark-cli-broker: /var/lark/data rw {BASE}/users/u1/lark/data DirectoryOrCreate
        """,
    ),
    "both asked for, only the init image configured: the runtime": (
        {"LARK_CLI_INIT_IMAGE": "init:1"},
        {"provision_lark_cli_runtime": True, "provision_lark_cli_broker": True, "extra_mounts": LARK},
        f"""
        {EMPTY_HOME}{LARK_AS_EXTRA_MOUNTS}
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-init: /mnt/integrations/lark-cli/runtime rw empty
        """,
    ),
    "asked for without images: extra mounts like any other": (
        {},
        {"provision_lark_cli_runtime": True, "provision_lark_cli_broker": True, "extra_mounts": LARK},
        f"""
        {EMPTY_HOME}{LARK_AS_EXTRA_MOUNTS}
        /mnt/integrations/lark-cli/runtime ro {BASE}/lark/runtime Directory
        """,
    ),
    "images that nobody asked for": (
        {"LARK_CLI_INIT_IMAGE": "init:1", "LARK_CLI_BROKER_IMAGE": "broker:1"},
        {"extra_mounts": LARK},
        f"""
        {EMPTY_HOME}{LARK_AS_EXTRA_MOUNTS}
        /mnt/integrations/lark-cli/runtime ro {BASE}/lark/runtime Directory
        """,
    ),
    "the broker without any credentials of the user": (
        {"LARK_CLI_BROKER_IMAGE": "broker:1"},
        {"provision_lark_cli_broker": True},
        f"""
        {EMPTY_HOME}
        /mnt/integrations/lark-cli/runtime ro empty
        lark-cli-shim-init: /mnt/integrations/lark-cli/runtime rw empty
        """,
    ),
    "a Windows node with a drive": (
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
    "a Windows share": (
        {"SKILLS_HOST_PATH": "\\\\server\\share\\skills", "THREADS_HOST_PATH": "\\\\server\\share\\threads"},
        {},
        r"""
        /mnt/skills ro \\server\share\skills Directory
        /mnt/user-data rw \\server\share\threads\t1\user-data DirectoryOrCreate
        """,
    ),
    "a claim's subPaths have slashes, whatever the node's style": (
        {"THREADS_HOST_PATH": "C:\\df\\threads", "USERDATA_PVC_NAME": "home"},
        {"extra_mounts": [extra("/mnt/acp-workspace", "C:\\DF\\users\\u1\\acp")]},
        f"{CLAIMED_HOME}\n/mnt/acp-workspace rw claim home:deer-flow/users/u1/acp",
    ),
}


@pytest.mark.parametrize(("environment", "request_fields", "expected"), CASES.values(), ids=CASES)
def test_mounts(environment: dict[str, str], request_fields: dict[str, Any], expected: str):
    """Every container mounts what settings and request ask for, and nothing else."""
    record = record_of(spec={"user_id": "u1", "thread_id": "t1", **request_fields})
    lines = [line.strip() for line in expected.splitlines() if line.strip()]
    assert storage(record, settings_of(**environment)) == sorted(lines)
