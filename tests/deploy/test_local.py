"""`make dev`: what it prints when the stack runs, what it refuses, and what stays when it is stopped or killed."""

import asyncio
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from deploy.local.introduction import introduction
from deploy.local.stack import free_port
from shared.version import VERSION
from tests.support.eventually import eventually

pytestmark = pytest.mark.anyio

URL = "http://127.0.0.1:8002"
SECONDS = 60


def test_doctor_command_is_valid_in_a_shell_for_any_settings():
    settings = {
        "REDIS_URL": "redis://127.0.0.1:40001/0",
        "KUBECONFIG_PATH": "/a directory/kubeconfig",
        "K8S_NAMESPACE": "deer-flow",
        "LARK_CLI_INIT_IMAGE": "$(reboot)",
        "LOG_LEVEL": "DEBUG",
    }
    text = introduction(URL, "a-key", settings)
    (line,) = (line for line in text.splitlines() if line.endswith("-m deploy.doctor"))
    *variables, _python, _option, _module = shlex.split(line)
    assert variables == [f"{name}={value}" for name, value in settings.items() if name != "LOG_LEVEL"]


def test_introduction_ends_with_url_key_and_three_calls():
    export, *calls = introduction(URL, "a key", {}).strip().splitlines()[-4:]
    assert shlex.split(export) == ["export", f"URL={URL}", "KEY=a key"]
    assert all("curl" in line and "$URL/api/sandboxes" in line and "X-API-Key: $KEY" in line for line in calls)


class Launcher:
    """A running `python -m deploy.local` and the lines that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def api(self) -> httpx.AsyncClient:
        (url, key) = re.findall(r"export URL=(\S+) KEY=(\S+)", self.text)[0]
        return httpx.AsyncClient(base_url=url, headers={"X-API-Key": key})

    async def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(SECONDS):
            while not (self.lines and "curl -s -X DELETE" in self.lines[-1]):
                line = await self.process.stdout.readline()
                assert line, self.text
                self.lines.append(line.decode().rstrip())

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(SECONDS):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode


async def run(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.local", *arguments),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


@asynccontextmanager
async def launched(*arguments: str) -> AsyncIterator[Launcher]:
    launcher = Launcher(await run("--workers", "1", "--port", str(free_port()), *arguments))
    try:
        await launcher.wait_until_ready()
        yield launcher
    finally:
        if launcher.process.returncode is None:
            await launcher.stop()


async def refused(*arguments: str, **environment: str) -> str:
    """Return the one line with which the command refuses to start."""
    process = await run(*arguments, **environment)
    async with asyncio.timeout(SECONDS):
        output, _ = await process.communicate()
    assert process.returncode == 2, output.decode()
    (line,) = output.decode().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "expects"),
    [
        (("--workers", "0"), "--workers: expected a whole number from 1 to 64; got 0"),
        (("--workers", "two"), "invalid int value: 'two'"),
        (("--port", "99999"), "--port: expected a whole number from 0 to 65535; got 99999"),
        (("--data", "/proc/data"), "--data: /proc/data is no directory to write to"),
        (("--data", "/dev/null"), "--data: /dev/null is no directory to write to"),
        (("--kubeconfig", "/missing"), "--kubeconfig: /missing is not a file"),
        (("--demo", "--kubeconfig", "/missing"), "--kubeconfig: /missing is not a file"),
    ],
    ids=" ".join,
)
async def test_unusable_argument_is_refused_at_once_in_one_line(arguments: tuple[str, ...], expects: str):
    assert expects in await refused(*arguments)


async def test_kubeconfig_without_cluster_is_refused_with_the_cause(tmp_path: Path):
    file = tmp_path / "kubeconfig"
    file.write_text("clusters: [")
    assert "--kubeconfig: " in await refused("--kubeconfig", str(file))


async def test_port_in_use_is_refused(unused_port_server: int):
    assert f"port {unused_port_server} is in use" in await refused("--port", str(unused_port_server))


async def test_wrong_setting_is_refused():
    assert "NODE_HOST: expected" in await refused(NODE_HOST="10.0.0.7:80")


@pytest.fixture
async def unused_port_server() -> AsyncIterator[int]:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("module", ["worker", "deploy.local", "deploy.doctor"])
async def test_version_is_printed(module: str):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--version"), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert (process.returncode, output.decode()) == (0, f"{VERSION}\n")


@pytest.mark.process
async def test_stack_hides_the_output_of_valkey_and_the_token_of_the_cluster(tmp_path: Path):
    async with launched("--data", str(tmp_path / "new")) as launcher:
        assert "valkey |" not in launcher.text
        assert "token" not in launcher.text
        assert "forgets" not in launcher.text
        assert await launcher.stop() == 0


@pytest.mark.process
async def test_data_directory_keeps_key_and_records_and_says_what_the_cluster_forgets(tmp_path: Path):
    async with launched("--data", str(tmp_path)) as first, first.api as api:
        (await api.post("/api/sandboxes", json={"sandbox_id": "kept"})).raise_for_status()
    assert (tmp_path / "api-key").stat().st_mode & 0o077 == 0
    async with launched("--data", str(tmp_path)) as second, second.api as api:
        assert "The emulated cluster forgets its Pods" in second.text
        assert second.api.headers["X-API-Key"] == first.api.headers["X-API-Key"]
        assert (await api.get("/api/sandboxes/kept")).json()["sandbox_id"] == "kept"


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals children of a killed process")
async def test_killed_launcher_leaves_no_processes():
    async with launched() as launcher:
        children = launcher.children()
        assert len(children) == 4  # Valkey, cluster, API, worker
        launcher.process.kill()
        await launcher.process.wait()

        async def gone() -> bool:
            return not any(is_running(child) for child in children)

        await eventually(gone, "all children ended", seconds=10)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
