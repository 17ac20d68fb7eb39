"""The Role of deploy/kubernetes grants exactly the calls of a worker, and its namespace accepts the sandboxes.

A worker does all that it can have to do, on an emulated cluster that counts its calls.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from http import HTTPStatus
from pathlib import Path

import httpx
import pytest

from deploy.local.emulator.client import Client
from deploy.local.stack import Options, Stack
from tests.deploy.rendering import Object, Rendering
from tests.support.emulator import SYSTEM_TESTS, node_address
from tests.support.eventually import eventually

pytestmark = pytest.mark.anyio

SECONDS = 60


class System:
    """A stack with one API and one worker, and an administrator's client of its cluster."""

    def __init__(self, api: httpx.AsyncClient, cluster: Client) -> None:
        self._api = api
        self._cluster = cluster
        self._own: Counter[str] = Counter()

    async def create(self, resource: str, body: Object) -> None:
        response = await self._cluster.create(resource, body)
        assert response.status == HTTPStatus.CREATED, response.body
        self._own[f"create {resource}"] += 1

    async def calls(self) -> set[str]:
        """Return `verb resource` of all calls except those of this client."""
        response = await self._cluster.call("GET", "/emulator/calls")
        return set(Counter(response.body) - self._own)

    async def create_and_delete(self, sandbox_id: str) -> None:
        await self._request(sandbox_id)
        await self._wait_for(sandbox_id, "ready", True)
        await self._delete(sandbox_id)

    async def fail_to_pull(self, sandbox_id: str) -> None:
        """Create a sandbox whose image cannot be pulled, wait until it fails, and delete it."""
        assert (await self._cluster.faults({"kind": "image-pull"})).status == HTTPStatus.OK
        await self._request(sandbox_id)
        await self._wait_for(sandbox_id, "status", "Failed")
        await self._delete(sandbox_id)

    async def lose_pod(self, sandbox_id: str) -> None:
        """Delete the Pod of a sandbox. The worker searches for the rest of its objects and deletes them."""
        await self._request(sandbox_id)
        await self._wait_for(sandbox_id, "ready", True)
        response = await self._cluster.delete("pods", f"sandbox-{sandbox_id}")
        assert response.status == HTTPStatus.OK, response.body
        self._own["delete pods"] += 1
        await self._wait_for(sandbox_id, "status", "Failed")
        await self._delete(sandbox_id)

    async def _request(self, sandbox_id: str) -> None:
        (await self._api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})).raise_for_status()

    async def _wait_for(self, sandbox_id: str, field: str, value: object) -> None:
        async def has_value() -> bool:
            record: Object = (await self._api.get(f"/api/sandboxes/{sandbox_id}")).json()
            return record.get(field) == value

        await eventually(has_value, f"{sandbox_id}: {field} is {value}", seconds=SECONDS)

    async def _delete(self, sandbox_id: str) -> None:
        (await self._api.delete(f"/api/sandboxes/{sandbox_id}")).raise_for_status()

        async def is_gone() -> bool:
            response = await self._api.get("/api/sandboxes", params={"status": "Terminating"})
            return bool(response.json()["count"] == 0)

        await eventually(is_gone, f"{sandbox_id} is gone", seconds=SECONDS)


Start = Callable[[dict[str, str]], Awaitable[System]]


@pytest.fixture
async def start(tmp_path: Path, worker_id: str) -> AsyncIterator[Start]:
    async with AsyncExitStack() as exit_stack:

        async def started(environment: dict[str, str]) -> System:
            address = node_address(worker_id, SYSTEM_TESTS)
            environment = {**environment, "NODE_HOST": address, "LOG_FORMAT": "json"}
            emulator = ("--node-address", address, "--termination-seconds", "0.1")
            options = Options(workers=1, port=0, data=tmp_path, emulator=emulator, environment=environment)
            stack = await exit_stack.enter_async_context(Stack(options))
            headers = {"X-API-Key": stack.key}
            api = await exit_stack.enter_async_context(httpx.AsyncClient(base_url=stack.urls[0], headers=headers))
            cluster = Client(stack.emulator_url, stack.emulator_token, environment["K8S_NAMESPACE"])
            return System(api, await exit_stack.enter_async_context(cluster))

        yield started


def allowed(rendering: Rendering) -> set[str]:
    """Return `verb resource` of all rules, which are all of the core API group."""
    (role,) = rendering.all("Role")
    assert all(rule["apiGroups"] == [""] for rule in role["rules"])
    return {f"{verb} {resource}" for rule in role["rules"] for verb in rule["verbs"] for resource in rule["resources"]}


async def test_role_grants_exactly_the_calls_of_a_worker(start, dev):
    system = await start(dev.settings)
    namespace = dev.settings["K8S_NAMESPACE"]
    await system.create("namespaces", dev.one("Namespace", namespace))
    await system.create("resourcequotas", dev.one("ResourceQuota", "sandboxes"))
    await system.create_and_delete("well")
    await system.lose_pod("lost")
    await system.fail_to_pull("stuck")

    calls = await system.calls()
    assert not calls - allowed(dev), "Kubernetes would answer these calls with 403"
    assert not allowed(dev) - calls, "granted, and not needed"


async def test_worker_without_the_namespace_of_the_manifests_needs_one_more_permission(start, dev):
    system = await start({"K8S_NAMESPACE": "created-by-a-worker"})
    await system.create_and_delete("first")
    assert await system.calls() - allowed(dev) == {"create namespaces"}
