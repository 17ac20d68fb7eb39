"""The Role of deploy/kubernetes is what a worker calls, and the namespace made with it takes the sandboxes.

A worker lives through what there is for it to do, on an emulated cluster that counts its calls.
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
from tests.system.conftest import eventually, node_address

pytestmark = pytest.mark.anyio


class System:
    """One API and one worker; the cluster as its administrator sees it."""

    def __init__(self, api: httpx.AsyncClient, cluster: Client) -> None:
        self._api = api
        self._cluster = cluster
        self._own: Counter[str] = Counter()

    async def make(self, resource: str, body: Object) -> None:
        answer = await self._cluster.create(resource, body)
        assert answer.status == HTTPStatus.CREATED, answer.body
        self._own[f"create {resource}"] += 1

    async def calls(self) -> set[str]:
        """`verb resource` of all calls but our own."""
        counted = await self._cluster.call("GET", "/emulator/calls")
        return set(Counter(counted.body) - self._own)

    async def live(self, sandbox_id: str) -> None:
        """From its create to its last trace."""
        await self._create(sandbox_id)
        await self._until(sandbox_id, "ready", True)
        await self._delete(sandbox_id)

    async def get_stuck(self, sandbox_id: str) -> None:
        """Its image cannot be had: it fails, and is removed."""
        assert (await self._cluster.faults({"kind": "image-pull"})).status == HTTPStatus.OK
        await self._create(sandbox_id)
        await self._until(sandbox_id, "status", "Failed")
        await self._delete(sandbox_id)

    async def be_lost(self, sandbox_id: str) -> None:
        """Somebody deletes its Pod: what may be left of it is looked for, and removed."""
        await self._create(sandbox_id)
        await self._until(sandbox_id, "ready", True)
        answer = await self._cluster.delete("pods", f"sandbox-{sandbox_id}")
        assert answer.status == HTTPStatus.OK, answer.body
        self._own["delete pods"] += 1
        await self._until(sandbox_id, "status", "Failed")
        await self._delete(sandbox_id)

    async def _create(self, sandbox_id: str) -> None:
        (await self._api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})).raise_for_status()

    async def _until(self, sandbox_id: str, field: str, value: object) -> None:
        async def is_so() -> bool:
            answer: Object = (await self._api.get(f"/api/sandboxes/{sandbox_id}")).json()
            return answer.get(field) == value

        await eventually(is_so, f"{sandbox_id}: {field} is {value}")

    async def _delete(self, sandbox_id: str) -> None:
        (await self._api.delete(f"/api/sandboxes/{sandbox_id}")).raise_for_status()

        async def is_gone() -> bool:
            going = await self._api.get("/api/sandboxes", params={"status": "Terminating"})
            return bool(going.json()["count"] == 0)

        await eventually(is_gone, f"{sandbox_id} is gone")


Start = Callable[[dict[str, str]], Awaitable[System]]


@pytest.fixture
async def start(tmp_path: Path, worker_id: str) -> AsyncIterator[Start]:
    async with AsyncExitStack() as exit_stack:

        async def started(environment: dict[str, str]) -> System:
            address = node_address(worker_id)
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
    """`verb resource` of the core group; no rule is of another."""
    (role,) = rendering.all("Role")
    assert all(rule["apiGroups"] == [""] for rule in role["rules"])
    return {f"{verb} {resource}" for rule in role["rules"] for verb in rule["verbs"] for resource in rule["resources"]}


async def test_a_worker_calls_exactly_what_its_role_allows(start, dev):
    system = await start(dev.settings)
    namespace = dev.settings["K8S_NAMESPACE"]
    await system.make("namespaces", dev.one("Namespace", namespace))
    await system.make("resourcequotas", dev.one("ResourceQuota", "sandboxes"))
    await system.live("well")
    await system.be_lost("lost")
    await system.get_stuck("stuck")

    calls = await system.calls()
    assert not calls - allowed(dev), "Kubernetes would answer these with 403"
    assert not allowed(dev) - calls, "allowed, and not needed"


async def test_without_the_namespace_of_the_manifests_it_would_need_one_permission_more(start, dev):
    system = await start({"K8S_NAMESPACE": "made-by-a-worker"})
    await system.live("first")
    assert await system.calls() - allowed(dev) == {"create namespaces"}
