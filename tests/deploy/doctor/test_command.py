"""The command `python -m deploy.doctor`, beside real processes."""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from deploy.doctor.api_server import OPTIONAL, REQUIRED
from deploy.doctor.checks import CHECKS
from deploy.local.processes import show_nothing
from deploy.local.stack import Options, Stack
from tests.support.emulator import SYSTEM_TESTS, node_address
from tests.support.eventually import eventually

pytestmark = pytest.mark.anyio

SECONDS = 60


async def run(environment: Mapping[str, str], *arguments: str) -> tuple[int | None, str]:
    """Run the doctor; return its exit code and its output."""
    inherited = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.doctor", *arguments),
        env={**inherited, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, output.decode()


async def test_invalid_settings_are_the_only_result():
    code, output = await run({"SANDBOX_CONTAINER_PORT": "0", "THREADS_HOST_PATH": "threads", "COLUMNS": "100"})
    assert code == 1
    assert output.startswith("failed  settings  SANDBOX_CONTAINER_PORT: ")
    assert "THREADS_HOST_PATH: expected an absolute path on the node" in output
    assert output.endswith("\n\n1 failed\n")


async def test_invalid_settings_are_the_only_result_in_json():
    code, output = await run({"WORKER_MAX_JOBS": "many"}, "--json")
    assert code == 1
    (result,) = msgspec.json.decode(output)["checks"]
    assert (result["check"], result["verdict"]) == ("settings", "failed")


class Deployment:
    """A whole stack: Valkey, the emulated cluster, an API and a worker."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.namespace = stack.settings["K8S_NAMESPACE"]
        self.api = httpx.AsyncClient(base_url=stack.urls[0], headers={"X-API-Key": stack.key}, timeout=30)

    async def read(self, sandbox_id: str) -> dict[str, Any]:
        record: dict[str, Any] = (await self.api.get(f"/api/sandboxes/{sandbox_id}")).json()
        return record

    async def wait_until_ready(self, sandbox_id: str) -> None:
        async def is_ready() -> bool:
            return bool((await self.read(sandbox_id)).get("ready"))

        await eventually(is_ready, f"{sandbox_id} is ready", seconds=SECONDS, actual=partial(self.read, sandbox_id))

    async def delete(self, sandbox_id: str) -> None:
        await self.api.delete(f"/api/sandboxes/{sandbox_id}")

        async def is_gone() -> bool:
            return bool((await self.read(sandbox_id))["status"] != "Terminating")

        await eventually(is_gone, f"{sandbox_id} is gone", seconds=SECONDS)

    async def calls(self) -> set[str]:
        """Return verb and resource of all calls to the cluster."""
        return set((await self._emulator("GET")).json())

    async def forget_calls(self) -> None:
        await self._emulator("DELETE")

    async def delete_pod(self, sandbox_id: str) -> None:
        """Delete a sandbox's Pod behind the worker's back, and wait until the sandbox has failed."""
        await self._emulator("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/sandbox-{sandbox_id}")

        async def has_failed() -> bool:
            return bool((await self.read(sandbox_id))["status"] == "Failed")

        await eventually(has_failed, f"{sandbox_id} has failed", seconds=SECONDS)

    async def _emulator(self, method: str, path: str = "/emulator/calls") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.stack.emulator_token}"}
        async with httpx.AsyncClient(base_url=self.stack.emulator_url, headers=headers) as emulator:
            return await emulator.request(method, path)


@pytest.fixture
async def deployment(worker_id: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    address = node_address(worker_id, SYSTEM_TESTS)
    environment = {
        "K8S_NAMESPACE": f"doctor-{secrets.token_hex(4)}",
        "NODE_HOST": address,
        "THREADS_HOST_PATH": "/srv/threads",
        "LOG_FORMAT": "json",
    }
    options = Options(
        workers=1,
        port=0,
        data=tmp_path / "data",
        emulator=("--node-address", address),
        environment=environment,
        show=show_nothing,
    )
    async with Stack(options) as stack:
        deployed = Deployment(stack)
        async with deployed.api:
            yield deployed


async def test_working_deployment_passes_all_checks(deployment: Deployment):
    """A permission is checked if, and only if, a worker needs it while sandboxes are created, deleted and lost.

    The permission to create namespaces belongs to another check.
    """
    for sandbox_id in ("hello", "lost"):
        await deployment.api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        await deployment.wait_until_ready(sandbox_id)
    calls = await deployment.calls()

    code, output = await run(deployment.stack.settings, "--json")
    report = msgspec.json.decode(output)
    assert (code, report["ok"]) == (0, True), output
    assert [result["check"] for result in report["checks"]] == [check.name for check in CHECKS]
    not_ok = {result["check"] for result in report["checks"] if result["verdict"] != "ok"}
    assert not_ok <= {"redis", "cluster"}, f"only these may be slow, on a busy machine: {output}"

    await deployment.forget_calls()
    await deployment.delete("hello")
    await deployment.delete_pod("lost")
    await deployment.delete("lost")
    checked = {f"{verb} {resource}" for resource, verbs in (REQUIRED | OPTIONAL).items() for verb in verbs}
    assert calls | await deployment.calls() == checked | {"create namespaces"}


async def test_table_fits_the_terminal(environment: dict[str, str]):
    """The Valkey of this test saves nothing, and has no worker."""
    code, output = await run({**environment, "COLUMNS": "100"})
    assert code == 1
    assert re.search(r"^failed +redis persistence +Redis saves nothing to disk: ", output, re.MULTILINE)
    assert re.search(r"^ok +cluster +v1", output, re.MULTILINE)
    assert all(len(line) <= 100 for line in output.splitlines())
    assert "\x1b" not in output
