"""Systems of real processes: the local stack on the emulated cluster, or on the real one that TEST_KUBECONFIG names."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from kubernetes_asyncio import client, config
from redis.asyncio import Redis

from deploy.local.stack import Options, Stack
from shared.store import keys
from tests.support.emulator import SYSTEM_TESTS, node_address
from tests.support.eventually import eventually
from tests.support.real_cluster import NotUsable, get_when_reachable, node_host
from worker.kubernetes.labels import SANDBOX_ID, SELECTOR

REAL = os.environ.get("TEST_KUBECONFIG")
SECONDS = 120.0 if REAL else 60.0
"""Upper bound of a wait. A condition that comes true ends the wait at once."""
POLL_SECONDS = 0.05
"""Pause between two checks of a condition. Each check costs the processes under test some CPU."""
SWEEP_SECONDS = 1.0
"""Time between two sweeps. The default of ten seconds would only make the tests wait."""

LIMITS = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=2.0)
"""Limits of clients of the API. The API closes a connection that is idle for 5 s, which is also httpx' own limit. With
equal limits a request can meet the end of its connection, and fails."""

T = TypeVar("T")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REAL and not item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.skip(reason="needs the emulator's faults"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """End before the first test if the real cluster cannot be used. Each test would fail after minutes."""
    if REAL and any(item.get_closest_marker("cluster") for item in session.items):
        try:
            os.environ["NODE_HOST"] = asyncio.run(node_host(Path(REAL), os.environ.get("NODE_HOST")))
        except NotUsable as error:
            pytest.exit(str(error), returncode=2)


class System:
    """One stack, used over HTTP, in the cluster, and in Redis."""

    def __init__(self, stack: Stack, api: httpx.AsyncClient, core: client.CoreV1Api, redis: Redis) -> None:
        self.stack = stack
        self.api = api
        self.core = core
        self.redis = redis
        self.namespace = stack.options.environment["K8S_NAMESPACE"]

    async def until(
        self,
        check: Callable[[], Awaitable[T | None]],
        description: str,
        actual: Callable[[], Awaitable[object]] | None = None,
    ) -> T:
        """Return the first truthy result of `check`. A failure shows `description` and the result of `actual`."""
        return await eventually(check, description, seconds=SECONDS, interval=POLL_SECONDS, actual=actual)

    async def create(self, sandbox_id: str, **fields: object) -> dict[str, Any]:
        response = await self.api.post("/api/sandboxes", json={"sandbox_id": sandbox_id, **fields})
        assert response.status_code in {200, 202}, response.text
        body: dict[str, Any] = response.json()
        return body

    async def delete(self, sandbox_id: str) -> None:
        response = await self.api.delete(f"/api/sandboxes/{sandbox_id}")
        assert response.status_code == 200, response.text

    async def read(self, sandbox_id: str) -> dict[str, Any]:
        body: dict[str, Any] = (await self.api.get(f"/api/sandboxes/{sandbox_id}")).json()
        return body

    async def until_ready(self, sandbox_id: str) -> dict[str, Any]:
        async def ready() -> dict[str, Any] | None:
            sandbox = await self.read(sandbox_id)
            return sandbox if sandbox.get("ready") and sandbox.get("sandbox_url") else None

        return await self.until(ready, f"{sandbox_id} is ready with a URL", lambda: self.read(sandbox_id))

    async def until_synced(self) -> None:
        """Wait until the leader has compared records and cluster, which the API requires after a restart of Redis."""

        async def synced() -> bool:
            return (await self.api.get("/health/system")).is_success

        await self.until(synced, "the cluster is synced")

    async def fetch(self, url: str) -> dict[str, Any]:
        """Return the body of the sandbox at this URL; empty if the body is no JSON."""
        response = await get_when_reachable(f"{url}/v1/sandbox", seconds=SECONDS if REAL else 0.0)
        assert response.status_code == 200, response.text
        if "json" not in response.headers.get("Content-Type", ""):
            return {}
        body: dict[str, Any] = response.json()
        return body

    async def pods(self, sandbox_id: str = "") -> list[Any]:
        items: list[Any] = (
            await self.core.list_namespaced_pod(self.namespace, label_selector=_selector(sandbox_id))
        ).items
        return items

    async def services(self, sandbox_id: str = "") -> list[Any]:
        items: list[Any] = (
            await self.core.list_namespaced_service(self.namespace, label_selector=_selector(sandbox_id))
        ).items
        return items

    async def until_empty(self) -> None:
        """Wait until no Pod, no Service and no key of a sandbox is left."""

        async def leftovers() -> list[str]:
            pods, services = await self.pods(), await self.services()
            names = [key.decode() for key in await self.redis.keys() if not is_housekeeping(key.decode())]
            return [*(pod.metadata.name for pod in pods), *(service.metadata.name for service in services), *names]

        async def empty() -> bool:
            return not await leftovers()

        await self.until(empty, "nothing is left", leftovers)

    async def faults(self, *rules: dict[str, object]) -> None:
        """Set the faults of the emulated cluster. No rules: the cluster works again."""
        async with self.emulator() as emulator:
            (await emulator.put("/emulator/faults", json=list(rules))).raise_for_status()

    def emulator(self) -> httpx.AsyncClient:
        """Return a client of the emulator's own endpoints. The caller closes the client."""
        headers = {"Authorization": f"Bearer {self.stack.emulator_token}"}
        return httpx.AsyncClient(base_url=self.stack.emulator_url, headers=headers)


def _selector(sandbox_id: str) -> str:
    return f"{SELECTOR},{SANDBOX_ID}={sandbox_id}" if sandbox_id else SELECTOR


def is_housekeeping(key: str) -> bool:
    """Return True for the keys of processes and not of sandboxes, and for those that expire some time after a sandbox.

    These are lease, heartbeats, the marks of the sweep, arq's health key, and tombstones.
    """
    processes = {keys.QUEUE, keys.WORKERS, keys.FREED, keys.CLEANUP_SLOTS}
    return (
        key in processes
        or "cron:sweep" in key
        or key.startswith((keys.leader(""), keys.synced(""), f"{keys.QUEUE}:"))
        or key.endswith(":tombstone")
    )


Start = Callable[..., Awaitable[System]]


@pytest.fixture
async def start(tmp_path: Path, worker_id: str) -> AsyncIterator[Start]:
    """Return a function that starts systems. At the end they are stopped, and their objects in a cluster deleted.

    A failure shows the logs of all processes.
    """
    address = node_address(worker_id, SYSTEM_TESTS)
    async with AsyncExitStack() as exit_stack:

        async def start_system(
            *,
            workers: int = 2,
            apis: int = 1,
            emulator: tuple[str, ...] = (),
            redis_url: str = "",
            **environment: str,
        ) -> System:
            options = Options(
                workers=workers,
                apis=apis,
                redis_url=redis_url,
                kubeconfig=Path(REAL) if REAL else None,
                port=0,
                data=tmp_path / secrets.token_hex(2),
                emulator=("--node-address", address, *emulator),
                environment=_environment(address, environment),
            )
            return await exit_stack.enter_async_context(open_system(options))

        yield start_system


def _environment(address: str, extra: dict[str, str]) -> dict[str, str]:
    return {
        "K8S_NAMESPACE": f"deer-flow-test-{secrets.token_hex(4)}",
        "NODE_HOST": os.environ["NODE_HOST"] if REAL else address,
        "LOG_FORMAT": "json",
        "SWEEP_INTERVAL_SECONDS": str(SWEEP_SECONDS),
        **extra,
    }


@asynccontextmanager
async def open_system(options: Options) -> AsyncIterator[System]:
    """Start a stack and its clients. On a real cluster, remove the namespace at the end."""
    async with Stack(options) as stack:
        configuration = client.Configuration()
        await config.load_kube_config(config_file=str(stack.kubeconfig), client_configuration=configuration)
        headers = {"X-API-Key": stack.key}
        async with (
            client.ApiClient(configuration) as kubernetes,
            httpx.AsyncClient(base_url=stack.urls[0], headers=headers, timeout=30, limits=LIMITS) as api,
            Redis.from_url(stack.redis_url) as redis,
        ):
            system = System(stack, api, client.CoreV1Api(kubernetes), redis)
            try:
                yield system
            finally:
                await _remove_namespace(system)


async def _remove_namespace(system: System) -> None:
    """Remove the namespace from a real cluster, which outlives the test."""
    if not REAL:
        return
    try:
        await system.core.delete_namespace(system.namespace)
    except client.ApiException as error:
        if error.status != HTTPStatus.NOT_FOUND:  # without a sandbox there is no namespace
            raise
