import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from msgspec.structs import replace

from shared.sandbox.request import read_create
from shared.sandbox.transitions import new_record
from tests.support.records import CLUSTER, settings_of
from worker import manifests
from worker.kubernetes.labels import INCARNATION, RECORD

pytestmark = pytest.mark.anyio

PLAIN = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
"""Nothing of the tests' own environment may set anything."""
SECONDS = 30.0
BASE = {"DEER_FLOW_HOST_BASE_DIR": "/srv/deer"}
MOUNT = {"host_path": "/srv/deer/ä: {b}", "container_path": "/mnt/acp-workspace", "read_only": True}


class Ended(NamedTuple):
    code: int | None
    output: str
    errors: str


async def print_manifest(root: Path, body: bytes, environment: dict[str, str]) -> Ended:
    """`python -m worker --print-manifest < body` as a process."""
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
    return Ended(process.returncode, output.decode(), errors.decode())


def sent(thing: msgspec.Struct) -> dict[str, Any]:
    """As Kubernetes would read it."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(thing))
    return document


def timeless(document: dict[str, Any]) -> dict[str, Any]:
    """Without the record in its annotations, which tells times."""
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
async def test_what_would_be_made(root: Path, body: dict[str, Any], environment: dict[str, str]):
    """The YAML is the Pod and the Service that the worker would create for this request, and says first what they are.

    No cluster, no Redis and no kubeconfig is needed for it.
    """
    request = json.dumps(body).encode()
    ended = await print_manifest(root, request, {**environment, "REDIS_URL": "redis://127.0.0.1:1/0"})
    assert ended.code == 0, ended.errors
    pod, service = yaml.safe_load_all(ended.output)
    settings = settings_of(**environment)
    asked = read_create(request)
    record = new_record(body.get("sandbox_id", "server-made-id"), asked.spec(), cluster=CLUSTER, now=0.0)
    record = replace(record, token=pod["metadata"]["labels"][INCARNATION].partition("-")[2])
    uid = service["metadata"]["ownerReferences"][0]["uid"]
    assert timeless(pod) == timeless(sent(manifests.pod(record, settings)))
    assert timeless(service) == timeless(sent(manifests.service(record, uid, settings)))
    assert [list(document)[:2] for document in (pod, service)] == [["apiVersion", "kind"]] * 2
    assert [document["kind"] for document in (pod, service)] == ["Pod", "Service"]
    assert RECORD in pod["metadata"]["annotations"]


@pytest.mark.parametrize(
    ("body", "said"),
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
async def test_refusals(root: Path, body: bytes, said: str):
    """What the API would refuse is refused here too, on standard error and with exit code 1."""
    ended = await print_manifest(root, body, BASE)
    assert (ended.code, ended.output) == (1, "")
    assert said in ended.errors
    assert "Traceback" not in ended.errors


async def test_a_wrong_setting(root: Path):
    """Where the settings are wrong nothing is printed, and the setting is named."""
    ended = await print_manifest(root, b"{}", {"SANDBOX_CONTAINER_PORT": "0"})
    assert (ended.code, ended.output) == (2, "")
    assert "SANDBOX_CONTAINER_PORT" in ended.errors
