"""DeerFlow's present backend, as contract.md tells what it sends, expects and makes of answers, against us."""

import asyncio
import os

import httpx
import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

COMPOSE = {
    "THREADS_HOST_PATH": "/srv/deer-flow/.deer-flow/threads",
    "DEER_FLOW_HOST_BASE_DIR": "/srv/deer-flow/.deer-flow",
}
"""The settings of a compose deployment. Nodes of a real cluster have no such directories."""
SETTINGS = {"DEERFLOW_COMPAT": "true", **({} if os.environ.get("TEST_KUBECONFIG") else COMPOSE)}


class Backend:
    """Its calls, with its timeouts, and its reading of what comes back."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, headers={"X-API-Key": key})

    async def create(self, sandbox_id: str, thread_id: str, user_id: str) -> str:
        """Any 2xx is taken, and must have a URL that is a string; anything else fails the agent's turn."""
        body = {"sandbox_id": sandbox_id, "thread_id": thread_id, "user_id": user_id, "include_legacy_skills": True}
        response = await self._client.post("/api/sandboxes", json=body, timeout=30)
        response.raise_for_status()
        url = response.json()["sandbox_url"]
        assert isinstance(url, str)
        return url

    async def is_alive(self, sandbox_id: str) -> bool | None:
        """None: unknown, the sandbox is kept. False: it is deleted, or given up."""
        response = await self._client.get(f"/api/sandboxes/{sandbox_id}", timeout=10)
        if response.status_code == 200:
            return response.json()["status"] == "Running"
        return False if response.status_code == 404 else None

    async def discover(self, sandbox_id: str) -> str | None:
        response = await self._client.get(f"/api/sandboxes/{sandbox_id}", timeout=10)
        return response.json()["sandbox_url"] if response.status_code == 200 else None

    async def list(self) -> dict[str, str]:
        response = await self._client.get("/api/sandboxes", timeout=10)
        sandboxes = response.raise_for_status().json()["sandboxes"]
        return {s["sandbox_id"]: s["sandbox_url"] for s in sandboxes if isinstance(s["sandbox_url"], str)}

    async def destroy(self, sandbox_id: str) -> None:
        response = await self._client.delete(f"/api/sandboxes/{sandbox_id}", timeout=15)
        assert response.json() == {"ok": True, "sandbox_id": sandbox_id}

    async def until_answers(self, url: str) -> None:
        """It polls the sandbox itself, every second for a minute."""
        async with httpx.AsyncClient(timeout=5) as sandbox:
            for _ in range(60):
                try:
                    if (await sandbox.get(f"{url}/v1/sandbox")).status_code == 200:
                        return
                except httpx.HTTPError:
                    pass
                await asyncio.sleep(1)
        pytest.fail(f"{url} did not answer within a minute")

    async def close(self) -> None:
        await self._client.aclose()


@pytest.fixture
async def backend(start):
    system = await start(workers=2, **SETTINGS)
    backend = Backend(system.stack.urls[0], system.stack.key)
    yield backend
    await backend.close()


async def test_a_turn_of_an_agent(backend):
    """Create, poll, alive, found again, listed, destroyed: as it does each of them today."""
    url = await backend.create("0123456789abcdef", "t1", "u1")
    await backend.until_answers(url)
    while (alive := await backend.is_alive("0123456789abcdef")) is not True:
        assert alive is None, "it would delete the sandbox"
    assert await backend.discover("0123456789abcdef") == url
    assert await backend.create("0123456789abcdef", "t1", "u1") == url
    assert await backend.list() == {"0123456789abcdef": url}
    await backend.destroy("0123456789abcdef")
    assert await backend.is_alive("0123456789abcdef") is False
    assert await backend.discover("0123456789abcdef") is None
    assert await backend.list() == {}
    await backend.destroy("0123456789abcdef")


async def test_its_id_comes_back_within_seconds(backend):
    """Destroy, and at once create the same: a URL that reaches the new one."""
    for _ in range(3):
        url = await backend.create("feedbeef", "t2", "u1")
        await backend.until_answers(url)
        await backend.destroy("feedbeef")
    await backend.until_answers(await backend.create("feedbeef", "t2", "u1"))
