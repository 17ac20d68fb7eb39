import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from msgspec.structs import replace

from shared.sandbox.request import read_create
from shared.sandbox.transitions import new_record
from tests.support.manifests import as_json
from tests.support.records import CLUSTER, settings_of
from worker import manifests
from worker.kubernetes.labels import INCARNATION, RECORD

pytestmark = pytest.mark.anyio

PLAIN = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
"""Environment of the process. The tests' own environment must not change a setting."""
SECONDS = 30.0
BASE = {"DEER_FLOW_HOST_BASE_DIR": "/srv/deer"}
MOUNT = {"host_path": "/srv/deer/ä: {b}", "container_path": "/mnt/acp-workspace", "read_only": True}


class Result(NamedTuple):
    exit_code: int | None
    output: str
    errors: str


async def print_manifest(root: Path, body: bytes, environment: dict[str, str]) -> Result:
    """Run `python -m worker --print-manifest < body`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker", "--print-manifest"),
        cwd=root,
        env={**PLAIN, **environment},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, errors = await process.communicate(body)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Result(process.returncode, output.decode(), errors.decode())


def without_annotation_values(document: dict[str, Any]) -> dict[str, Any]:
    """Replace the annotations by their names, because their values contain the time."""
    metadata = {**document["metadata"], "annotations": sorted(document["metadata"].get("annotations", {}))}
    return {**document, "metadata": metadata}


@pytest.mark.parametrize(
    ("body", "environment"),
    [
        ({"sandbox_id": "abc"}, {}),
        ({}, {"SANDBOX_SERVICE_TYPE": "ClusterIP", "K8S_NAMESPACE": "agents", "SANDBOX_CONTAINER_PORT": "9000"}),
        (
            {"sandbox_id": "abc", "user_id": "ada", "thread_id": "t1", "extra_mounts": [MOUNT]},
            {**BASE, "THREADS_HOST_PATH": "/srv/deer/threads"},
        ),
        (
            {"sandbox_id": "abc", "extra_mounts": [MOUNT], "provision_lark_cli_broker": True, "a_newer_field": 1},
            {**BASE, "USERDATA_PVC_NAME": "data", "SKILLS_PVC_NAME": "skills", "LARK_CLI_BROKER_IMAGE": "broker:1"},
        ),
    ],
    ids=str,
)
async def test_preview_equals_pod_and_service_that_worker_creates(
    root: Path, body: dict[str, Any], environment: dict[str, str]
):
    """The preview needs no cluster, no Redis and no kubeconfig."""
    request = json.dumps(body).encode()
    result = await print_manifest(root, request, {**environment, "REDIS_URL": "redis://127.0.0.1:1/0"})
    assert result.exit_code == 0, result.errors
    pod, service = yaml.safe_load_all(result.output)
    settings = settings_of(**environment)
    spec = read_create(request).spec()
    record = new_record(body.get("sandbox_id", "server-made-id"), spec, cluster=CLUSTER, now=0.0)
    record = replace(record, token=pod["metadata"]["labels"][INCARNATION].partition("-")[2])
    uid = service["metadata"]["ownerReferences"][0]["uid"]
    assert without_annotation_values(pod) == without_annotation_values(as_json(manifests.pod(record, settings)))
    assert without_annotation_values(service) == without_annotation_values(
        as_json(manifests.service(record, uid, settings))
    )
    assert [list(document)[:2] for document in (pod, service)] == [["apiVersion", "kind"]] * 2
    assert [document["kind"] for document in (pod, service)] == ["Pod", "Service"]
    assert RECORD in pod["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"\xff\x00", "not JSON"),
        (b'{"other": ' + b"[" * 100_000, "not JSON"),
        (b"[]", "body"),
        (b'{"sandbox_id": "A"}', "sandbox_id"),
        (b'{"user_id": "../a"}', "user_id"),
        (json.dumps({"extra_mounts": [{**MOUNT, "host_path": "/etc"}]}).encode(), "extra_mounts[0].host_path"),
        (json.dumps({"extra_mounts": [{**MOUNT, "container_path": "/"}]}).encode(), "extra_mounts[0].container_path"),
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_preview_of_request_that_api_refuses_ends_with_1_and_message(root: Path, body: bytes, text: str):
    result = await print_manifest(root, body, BASE)
    assert (result.exit_code, result.output) == (1, "")
    assert text in result.errors
    assert "Traceback" not in result.errors


async def test_preview_with_invalid_setting_ends_with_2_and_its_name(root: Path):
    result = await print_manifest(root, b"{}", {"SANDBOX_CONTAINER_PORT": "0"})
    assert (result.exit_code, result.output) == (2, "")
    assert "SANDBOX_CONTAINER_PORT" in result.errors
