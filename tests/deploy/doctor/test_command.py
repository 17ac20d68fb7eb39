"""The command, beside real processes."""

import asyncio
import os
import re
import secrets
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from deploy.doctor.api_server import HELPFUL, NEEDED
from deploy.doctor.checks import CHECKS
from deploy.local.processes import quiet
from deploy.local.stack import Options, Stack
from tests.system.conftest import eventually, node_address

pytestmark = pytest.mark.anyio

SECONDS = 60


async def run(environment: Mapping[str, str], *arguments: str) -> tuple[int | None, str]:
    """Exit code and what was written."""
    inherited = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.doctor", *arguments),
        env={**inherited, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(SECONDS):
            written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode, written.decode()


async def test_settings_that_cannot_be_read():
    """All that is wrong with them, and nothing else: there is nothing to look at."""
    code, written = await run({"SANDBOX_CONTAINER_PORT": "0", "THREADS_HOST_PATH": "threads", "COLUMNS": "100"})
    assert code == 1
    assert written.startswith("must be mended  settings  SANDBOX_CONTAINER_PORT: ")
    assert "THREADS_HOST_PATH: expected an absolute path on the node" in written
    assert written.endswith("\n\n1 must be mended\n")


async def test_settings_that_cannot_be_read_for_machines():
    code, written = await run({"WORKER_MAX_JOBS": "many"}, "--json")
    assert code == 1
    (found,) = msgspec.json.decode(written)["checks"]
    assert (found["check"], found["verdict"]) == ("settings", "must_be_mended")


class Deployment:
    """A whole one: Valkey, the emulated cluster, an API and a worker."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.namespace = stack.settings["K8S_NAMESPACE"]
        self.api = httpx.AsyncClient(base_url=stack.urls[0], headers={"X-API-Key": stack.key}, timeout=30)

    async def status(self, sandbox_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.api.get(f"/api/sandboxes/{sandbox_id}")).json()
        return answer

    async def until_ready(self, sandbox_id: str) -> None:
        async def ready() -> Any:
            return (await self.status(sandbox_id)).get("ready")

        await eventually(ready, f"{sandbox_id} is ready")

    async def until_gone(self, sandbox_id: str) -> None:
        async def gone() -> bool:
            return (await self.status(sandbox_id))["status"] != "Terminating"

        await eventually(gone, f"{sandbox_id} is gone")

    async def calls(self) -> set[str]:
        """What the cluster was asked for: verb and resource."""
        return set((await self._emulator("GET")).json())

    async def forget_calls(self) -> None:
        await self._emulator("DELETE")

    async def lose(self, sandbox_id: str) -> None:
        """Somebody deletes its Pod: what may be left of it is looked for."""
        await self._emulator("DELETE", f"/api/v1/namespaces/{self.namespace}/pods/sandbox-{sandbox_id}")

        async def lost() -> bool:
            return (await self.status(sandbox_id))["status"] == "Failed"

        await eventually(lost, f"{sandbox_id} is lost")

    async def _emulator(self, method: str, path: str = "/emulator/calls") -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.stack.emulator_token}"}
        async with httpx.AsyncClient(base_url=self.stack.emulator_url, headers=headers) as emulator:
            return await emulator.request(method, path)


@pytest.fixture
async def deployment(worker_id: str, tmp_path: Path) -> AsyncIterator[Deployment]:
    given = {
        "K8S_NAMESPACE": f"doctor-{secrets.token_hex(4)}",
        "NODE_HOST": node_address(worker_id),
        "THREADS_HOST_PATH": "/srv/threads",
        "LOG_FORMAT": "json",
    }
    options = Options(
        workers=1,
        port=0,
        data=tmp_path / "data",
        emulator=("--node-address", node_address(worker_id)),
        environment=given,
        show=quiet,
    )
    async with Stack(options) as stack:
        deployed = Deployment(stack)
        async with deployed.api:
            yield deployed


async def test_a_deployment_that_is_well(deployment: Deployment):
    """All of it is found so. And what the permissions are asked about is what a worker asks the cluster for, no more
    and no less, while sandboxes come, go, and are lost; but for the namespace, which is another check's."""
    for sandbox_id in ("hello", "lost"):
        await deployment.api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        await deployment.until_ready(sandbox_id)
    before = await deployment.calls()

    code, written = await run(deployment.stack.settings, "--json")
    told = msgspec.json.decode(written)
    assert (code, told["well"]) == (0, True), written
    assert [found["check"] for found in told["checks"]] == [check.name for check in CHECKS]
    not_well = {found["check"] for found in told["checks"] if found["verdict"] != "ok"}
    assert not_well <= {"redis", "cluster"}, f"these may be slow, on a busy machine: {written}"

    await deployment.forget_calls()
    await deployment.api.delete("/api/sandboxes/hello")
    await deployment.until_gone("hello")
    await deployment.lose("lost")
    await deployment.api.delete("/api/sandboxes/lost")
    await deployment.until_gone("lost")
    asked_about = {f"{verb} {resource}" for resource, verbs in (NEEDED | HELPFUL).items() for verb in verbs}
    assert before | await deployment.calls() == asked_about | {"create namespaces"}


async def test_a_table_for_people(environment: dict[str, str]):
    """Here of a Redis that keeps nothing, and has no worker."""
    code, written = await run({**environment, "COLUMNS": "100"})
    assert code == 1
    assert re.search(r"^must be mended +redis persistence +keeps nothing: ", written, re.MULTILINE)
    assert re.search(r"^ok +cluster +v1", written, re.MULTILINE)
    assert all(len(line) <= 100 for line in written.splitlines())
    assert "\x1b" not in written
