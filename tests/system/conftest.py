"""Real processes: the local stack, on the emulated cluster or on the real one that TEST_KUBECONFIG names."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest
from kubernetes_asyncio import client, config
from redis.asyncio import Redis

from deploy.local.stack import Options, Stack
from worker.kubernetes.labels import SANDBOX_ID, SELECTOR

REAL = os.environ.get("TEST_KUBECONFIG")
SECONDS = 120.0 if REAL else 60.0
"""An upper bound for anything to come true; what is waited for comes as soon as it does."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL and not item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.skip(reason="needs the emulator's misbehaviour"))


async def eventually(
    check: Callable[[], Awaitable[Any]], what: str, seen: Callable[[], Awaitable[object]] | None = None
) -> Any:
    """The first truthy answer of `check`. What was seen instead is in the failure."""
    try:
        async with asyncio.timeout(SECONDS):
            while not (answer := await check()):
                await asyncio.sleep(0.05)
            return answer
    except TimeoutError:
        pytest.fail(f"not within {SECONDS:.0f} s: {what}; instead: {await seen() if seen else 'no more is known'}")


class System:
    """One stack as its users see it: over HTTP, in the cluster, and in Redis."""

    def __init__(self, stack: Stack, api: httpx.AsyncClient, core: client.CoreV1Api, redis: Redis) -> None:
        self.stack = stack
        self.api = api
        self.core = core
        self.redis = redis
        self.namespace = stack.options.environment["K8S_NAMESPACE"]

    async def create(self, sandbox_id: str, **fields: object) -> dict[str, Any]:
        response = await self.api.post("/api/sandboxes", json={"sandbox_id": sandbox_id, **fields})
        assert response.status_code in {200, 202}, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def delete(self, sandbox_id: str) -> None:
        response = await self.api.delete(f"/api/sandboxes/{sandbox_id}")
        assert response.status_code == 200, response.text

    async def read(self, sandbox_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.api.get(f"/api/sandboxes/{sandbox_id}")).json()
        return answer

    async def until_ready(self, sandbox_id: str) -> dict[str, Any]:
        async def ready() -> dict[str, Any] | None:
            answer = await self.read(sandbox_id)
            return answer if answer.get("ready") and answer.get("sandbox_url") else None

        return await eventually(ready, f"{sandbox_id} is ready with a URL", lambda: self.read(sandbox_id))

    async def fetch(self, url: str) -> dict[str, Any]:
        """What answers at a sandbox's URL."""
        async with httpx.AsyncClient(timeout=10) as outside:
            response = await outside.get(f"{url}/v1/sandbox")
        assert response.status_code == 200, response.text
        if "json" not in response.headers.get("Content-Type", ""):
            return {}
        body: dict[str, Any] = response.json()
        return body

    async def pods(self, sandbox_id: str = "") -> list[Any]:
        selector = f"{SELECTOR},{SANDBOX_ID}={sandbox_id}" if sandbox_id else SELECTOR
        items: list[Any] = (await self.core.list_namespaced_pod(self.namespace, label_selector=selector)).items
        return items

    async def services(self, sandbox_id: str = "") -> list[Any]:
        selector = f"{SELECTOR},{SANDBOX_ID}={sandbox_id}" if sandbox_id else SELECTOR
        items: list[Any] = (await self.core.list_namespaced_service(self.namespace, label_selector=selector)).items
        return items

    async def until_empty(self) -> None:
        """No Pod, no Service, and no key but the worker's own."""

        async def left() -> list[str]:
            pods, services = await self.pods(), await self.services()
            keys = [key.decode() for key in await self.redis.keys() if not is_housekeeping(key.decode())]
            return [*(p.metadata.name for p in pods), *(s.metadata.name for s in services), *keys]

        async def empty() -> bool:
            return not await left()

        await eventually(empty, "nothing is left", left)

    async def faults(self, *rules: dict[str, object]) -> None:
        """Make the emulated cluster misbehave; none: behave."""
        async with self.emulator() as emulator:
            (await emulator.put("/emulator/faults", json=list(rules))).raise_for_status()

    def emulator(self) -> httpx.AsyncClient:
        """The emulated cluster, as whoever may tell it what to do; to be closed."""
        headers = {"Authorization": f"Bearer {self.stack.emulator_token}"}
        return httpx.AsyncClient(base_url=self.stack.emulator_url, headers=headers)

    until = staticmethod(eventually)


def is_housekeeping(key: str) -> bool:
    """What belongs to the processes and not to a sandbox: lease and signs of life, the sweep's marks, arq's health; and
    what is kept for a while of those that went."""
    own = key in {"arq:queue", "workers", "sandboxes:freed", "cleanup:slots"} or "cron:sweep" in key
    return own or key.startswith(("leader:", "synced:", "arq:queue:")) or key.endswith(":tombstone")


Start = Callable[..., Awaitable[System]]


@pytest.fixture
async def start(tmp_path: Path, worker_id: str) -> AsyncIterator[Start]:
    """Starts systems of any shape; they and all they made in a cluster go at the end. A failing test shows the logs."""
    async with AsyncExitStack() as exit_stack:

        async def started(
            *,
            workers: int = 2,
            apis: int = 1,
            emulator: tuple[str, ...] = (),
            valkey: tuple[str, ...] = (),
            **environment: str,
        ) -> System:
            options = Options(
                workers=workers,
                apis=apis,
                kubeconfig=Path(REAL) if REAL else None,
                port=0,
                data=tmp_path / secrets.token_hex(2),
                emulator=("--node-address", node_address(worker_id), *emulator),
                valkey=valkey,
                environment=await _environment(worker_id, environment),
            )
            return await exit_stack.enter_async_context(_system(options))

        yield started


def node_address(worker_id: str) -> str:
    """Emulators that run at once share the range of node ports, so each has an address of its own."""
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 0
    return f"127.0.0.{101 + number}"


async def _environment(worker_id: str, extra: dict[str, str]) -> dict[str, str]:
    host = await _real_node() if REAL else node_address(worker_id)
    return {"K8S_NAMESPACE": f"deer-flow-test-{secrets.token_hex(4)}", "NODE_HOST": host, "LOG_FORMAT": "json", **extra}


async def _real_node() -> str:
    """Where node ports answer: what NODE_HOST says, or else the first node's own address."""
    if host := os.environ.get("NODE_HOST"):
        return host
    configuration = client.Configuration()
    await config.load_kube_config(config_file=REAL, client_configuration=configuration)
    async with client.ApiClient(configuration) as kubernetes:
        nodes = await client.CoreV1Api(kubernetes).list_node()
    return str(next(a.address for a in nodes.items[0].status.addresses if a.type == "InternalIP"))


@asynccontextmanager
async def _system(options: Options) -> AsyncIterator[System]:
    async with Stack(options) as stack:
        configuration = client.Configuration()
        await config.load_kube_config(config_file=str(stack.kubeconfig), client_configuration=configuration)
        headers = {"X-API-Key": stack.key}
        async with (
            client.ApiClient(configuration) as kubernetes,
            httpx.AsyncClient(base_url=stack.urls[0], headers=headers, timeout=30) as api,
            Redis.from_url(stack.redis_url) as redis,
        ):
            system = System(stack, api, client.CoreV1Api(kubernetes), redis)
            try:
                yield system
            finally:
                await _remove_namespace(system)


async def _remove_namespace(system: System) -> None:
    """A real cluster outlives the test. (Where nothing was made, there is no namespace.)"""
    if not REAL:
        return
    try:
        await system.core.delete_namespace(system.namespace)
    except client.ApiException as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
