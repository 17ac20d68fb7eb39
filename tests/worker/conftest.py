"""The worker's parts on real servers: Valkey, and an emulated Kubernetes with one namespace for each test."""

import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
from arq.connections import ArqRedis

from deploy.local.emulator.client import Client
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.sandbox.record import Sandbox
from shared.settings import Settings, read_settings
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Precondition
from tests.conftest import Clock
from tests.support.emulator import WORKER_TESTS, node_address
from tests.support.eventually import SECONDS, eventually
from tests.support.store import put
from worker.jobs.provisioner import Provisioner
from worker.kubernetes.client import KubernetesClient
from worker.kubernetes.config import configuration

__all__ = ["SECONDS", "Emulator", "Kubernetes", "answers", "empty", "eventually", "put", "queued", "read"]


class Emulator(NamedTuple):
    url: str
    token: str
    kubeconfig: str
    node_address: str


class Kubernetes(Client):
    """An administrator's client for one namespace of the emulated cluster."""

    async def list_objects(self, resource: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = (await self.list(resource)).body["items"]
        return items

    async def names(self, resource: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in await self.list_objects(resource))

    async def set_faults(self, *rules: dict[str, Any]) -> None:
        """Set the faults of this namespace. No rules: the cluster works again."""
        response = await self.faults(*({"namespace": self.namespace, **rule} for rule in rules))
        assert response.status == 200, response.body

    async def count_faults(self) -> list[int]:
        """Return how often each rule applied."""
        return [rule["struck"] for rule in (await self.call("GET", "/emulator/faults")).body]

    async def until_fault(self) -> None:
        async def has_applied() -> bool:
            return any(await self.count_faults())

        await eventually(has_applied, "a fault applied")

    async def until_empty(self) -> None:
        async def is_empty() -> bool:
            return not await self.list_objects("pods") and not await self.list_objects("services")

        await eventually(is_empty, "no Pod and no Service is left")

    async def lose(self, pod: str) -> None:
        """Remove a Pod at once, as a lost node does."""
        body = {"resource": "pods", "namespace": self.namespace, "name": pod}
        assert (await self.call("POST", "/emulator/lose", body)).status == 200

    async def create_object(self, resource: str, name: str, **parts: Any) -> dict[str, Any]:
        response = await self.create(resource, {"metadata": {"name": name, **parts.pop("metadata", {})}, **parts})
        assert response.status == 201, response.body
        created: dict[str, Any] = response.body
        return created

    async def create_pod(self, name: str, **metadata: Any) -> dict[str, Any]:
        """Create a Pod that is no sandbox unless its metadata say so."""
        return await self.create_object(
            "pods", name, metadata=metadata, spec={"containers": [{"name": "c", "image": "i"}]}
        )

    async def create_legacy(self, sandbox_id: str, *, service: bool = True) -> dict[str, Any]:
        """Create a Pod, and its Service, as DeerFlow's legacy provisioner did."""
        labels = {"app": "deer-flow-sandbox", "sandbox-id": sandbox_id}
        container = {"name": "sandbox", "image": "i", "ports": [{"containerPort": 8080}]}
        pod = await self.create_object(
            "pods", f"sandbox-{sandbox_id}", metadata={"labels": labels}, spec={"containers": [container]}
        )
        if service:
            port = {"name": "http", "port": 8080, "targetPort": 8080}
            spec = {"type": "NodePort", "selector": {"sandbox-id": sandbox_id}, "ports": [port]}
            await self.create_object("services", f"sandbox-{sandbox_id}-svc", metadata={"labels": labels}, spec=spec)
        return pod

    async def create_service(self, name: str, **metadata: Any) -> dict[str, Any]:
        return await self.create_object("services", name, metadata=metadata, spec={"ports": [{"port": 80}]})


@pytest.fixture(scope="session")
def emulator(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Start one emulator for all tests of this process."""
    kubeconfig = tmp_path_factory.mktemp("emulator") / "kubeconfig"
    quick = ("--start-seconds", "0.02", "--ready-seconds", "0.02", "--garbage-seconds", "0.05")
    address = node_address(worker_id, WORKER_TESTS)
    options = ("--kubeconfig", str(kubeconfig), "--node-address", address)
    command = [sys.executable, "-m", "deploy.local.emulator", *options, *quick]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            started = msgspec.json.decode(process.stdout.readline())
            yield Emulator(started["server"], started["token"], str(kubeconfig), address)
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture
def namespace() -> str:
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
async def kubernetes(emulator: Emulator, namespace: str) -> AsyncIterator[Kubernetes]:
    """Create a namespace for this test. At the end its faults are cleared, and it is deleted with all it holds."""
    async with Kubernetes(emulator.url, emulator.token, namespace) as client:
        await client.create_object("namespaces", namespace)
        yield client
        await client.faults()
        await client.delete("namespaces", namespace)


@pytest.fixture
def environment(emulator: Emulator, namespace: str, valkey_url: str) -> dict[str, str]:
    """Return the environment of a worker of this test."""
    return {
        "REDIS_URL": valkey_url,
        "KUBECONFIG_PATH": emulator.kubeconfig,
        "K8S_NAMESPACE": namespace,
        "NODE_HOST": emulator.node_address,
        "SANDBOX_IMAGE": "sandbox:1",
        "THREADS_HOST_PATH": "/srv/threads",
        "LOG_FORMAT": "json",
        "WORKER_METRICS_PORT": "0",
    }


@pytest.fixture
def settings(environment: dict[str, str]) -> Settings:
    return read_settings(environment)


@pytest.fixture
async def cluster(settings: Settings, kubernetes: Kubernetes) -> AsyncIterator[KubernetesClient]:
    """Open the worker's own client, in the namespace of `kubernetes`."""
    configured = await configuration(settings)
    async with KubernetesClient(configured, kubernetes.namespace, settings.k8s_timeout_seconds) as opened:
        yield opened


@pytest.fixture
def store(valkey: ArqRedis, clock: Clock) -> Store:
    return Store(valkey, clock)


LEADING = Precondition("lease", "ours")
"""The lease of the test's leader, as a precondition of its writes."""


@pytest.fixture
async def leading(valkey: ArqRedis) -> Precondition:
    """Hold the lease."""
    await valkey.set(*LEADING)
    return LEADING


@pytest.fixture
async def sync(store: Store, valkey: ArqRedis, settings: Settings, leading: Precondition) -> ClusterSync:
    """Return the sync of a cluster that has synced."""
    sync = ClusterSync(valkey, store.now, settings.cluster_name)
    await sync.mark_synced(leading)
    return sync


async def empty(redis: ArqRedis) -> None:
    """Empty Redis, and hold the lease again."""
    await redis.flushall()
    await redis.set(*LEADING)


@pytest.fixture
def workers(store: Store, valkey: ArqRedis) -> WorkerRegistry:
    return WorkerRegistry(valkey, store.now)


@pytest.fixture
def provisioner(
    store: Store, sync: ClusterSync, workers: WorkerRegistry, cluster: KubernetesClient, settings: Settings
) -> Provisioner:
    return Provisioner(store, sync, workers, cluster, settings)


async def read(store: Store, sandbox_id: str) -> Sandbox:
    record = await store.get(sandbox_id)
    assert record is not None
    return record


async def queued(redis: ArqRedis) -> list[str]:
    """Return the ids of all jobs in the queue."""
    return [job.decode() for job in await redis.zrange(keys.QUEUE, 0, -1)]


async def answers(url: str) -> bool:
    """Return True if a sandbox answers at its URL."""
    async with httpx.AsyncClient(trust_env=False) as outside:
        try:
            return (await outside.get(f"{url}/v1/sandbox")).is_success
        except httpx.HTTPError:
            return False


@pytest.fixture
def root(pytestconfig: pytest.Config) -> Path:
    """Return the root of the repository."""
    return pytestconfig.rootpath
