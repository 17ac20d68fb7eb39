"""The application as it starts and ends."""

import asyncio

import httpx
import pytest

from api.app import START_SECONDS, application, create_app
from shared import metrics
from shared.settings import read_settings

pytestmark = pytest.mark.anyio


async def test_a_redis_that_hangs_keeps_no_application_from_starting():
    """It lives, and says so; what needs Redis has to wait for it."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        app = create_app(read_settings({"REDIS_URL": url}))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api")
        async with asyncio.timeout(3 * START_SECONDS), app.lifespan(), client:
            assert (await client.get("/health")).status_code == 200


async def test_what_a_server_of_ones_own_serves_is_counted(monkeypatch: pytest.MonkeyPatch, away_url: str):
    """As by `python -m api`."""
    monkeypatch.setenv("REDIS_URL", away_url)
    app = application()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as client:
        before = counted()
        assert (await client.get("/health")).status_code == 200
        assert counted() == before + 1


def counted() -> float:
    """Answers to `/health`, as this process has counted them."""
    name, labels = "deerflow_http_requests_total", {"route": "/health", "method": "GET", "code": "200"}
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0
