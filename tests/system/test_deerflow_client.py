"""The calls of DeerFlow's backend (docs/deerflow.md), with its timeouts, against the service in compat mode."""

import os
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.support.eventually import eventually
from tests.support.http import response_or_none
from tests.system.conftest import Start

pytestmark = [pytest.mark.anyio, pytest.mark.cluster]

COMPOSE = {
    "THREADS_HOST_PATH": "/srv/deer-flow/.deer-flow/threads",
    "DEER_FLOW_HOST_BASE_DIR": "/srv/deer-flow/.deer-flow",
}
"""Directories of a compose deployment. The nodes of a real cluster do not have them."""
SETTINGS = {"DEERFLOW_COMPAT": "true", **({} if os.environ.get("TEST_KUBECONFIG") else COMPOSE)}
ANSWER_SECONDS = 60.0
"""Time that DeerFlow gives a sandbox to answer."""
POLL_SECONDS = 0.1
"""Pause between two requests to a sandbox that does not answer yet. DeerFlow itself waits a second."""


class Backend:
    """DeerFlow's client: its calls, its timeouts, and its reading of the answers."""

    def __init__(self, url: str, key: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, headers={"X-API-Key": key})

    async def create(self, sandbox_id: str, thread_id: str, user_id: str) -> str:
        """Accept any 2xx with a URL that is a string. Any other answer fails the agent's turn."""
        body = {"sandbox_id": sandbox_id, "thread_id": thread_id, "user_id": user_id, "include_legacy_skills": True}
        response = await self._client.post("/api/sandboxes", json=body, timeout=30)
        response.raise_for_status()
        url = response.json()["sandbox_url"]
        assert isinstance(url, str)
        return url

    async def is_alive(self, sandbox_id: str) -> bool | None:
        """Return None if that is unknown: DeerFlow then keeps the sandbox. After False, DeerFlow drops the sandbox."""
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
        """Poll the sandbox itself, as DeerFlow does."""
        async with httpx.AsyncClient() as sandbox:

            async def answers() -> bool:
                response = await response_or_none(sandbox, f"{url}/v1/sandbox")
                return response is not None and response.status_code == 200

            await eventually(answers, f"{url} answers", seconds=ANSWER_SECONDS, interval=POLL_SECONDS)

    async def close(self) -> None:
        await self._client.aclose()


@pytest.fixture
async def backend(start: Start) -> AsyncIterator[Backend]:
    system = await start(workers=2, **SETTINGS)
    backend = Backend(system.stack.urls[0], system.stack.key)
    yield backend
    await backend.close()


async def test_deerflow_client_in_one_turn_of_an_agent_gets_the_answers_it_expects(backend: Backend):
    """The turn creates, polls, checks, discovers and lists a sandbox, and destroys it twice."""
    url = await backend.create("0123456789abcdef", "t1", "u1")
    await backend.until_answers(url)
    while (alive := await backend.is_alive("0123456789abcdef")) is not True:
        assert alive is None, "DeerFlow would delete the sandbox"
    assert await backend.discover("0123456789abcdef") == url
    assert await backend.create("0123456789abcdef", "t1", "u1") == url
    assert await backend.list() == {"0123456789abcdef": url}
    await backend.destroy("0123456789abcdef")
    assert await backend.is_alive("0123456789abcdef") is False
    assert await backend.discover("0123456789abcdef") is None
    assert await backend.list() == {}
    await backend.destroy("0123456789abcdef")


async def test_deerflow_client_after_destroy_and_create_of_one_id_reaches_the_new_sandbox(backend: Backend):
    for _ in range(3):
        url = await backend.create("feedbeef", "t2", "u1")
        await backend.until_answers(url)
        await backend.destroy("feedbeef")
    await backend.until_answers(await backend.create("feedbeef", "t2", "u1"))
