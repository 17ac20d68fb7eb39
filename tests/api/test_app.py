"""Start and end of the application."""

import asyncio

import pytest

from api.app import START_SECONDS, application, create_app
from shared.settings import read_settings
from tests.api.conftest import Api
from tests.support.counts import Counts
from tests.support.eventually import SECONDS

pytestmark = pytest.mark.anyio


async def test_application_starts_though_redis_hangs():
    """Probes are answered meanwhile."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        app = create_app(read_settings({"REDIS_URL": url}))
        async with asyncio.timeout(START_SECONDS + SECONDS), app.lifespan(), Api(app) as client:
            assert (await client.get("/health")).status_code == 200
            assert (await client.get("/health/ready")).status_code == 200


async def test_responses_of_the_factory_application_are_counted(monkeypatch: pytest.MonkeyPatch, away_url: str):
    """The command `python -m api` counts them in the same way."""
    monkeypatch.setenv("REDIS_URL", away_url)
    counts = Counts()
    async with Api(application()) as client:
        assert (await client.get("/health")).status_code == 200
    assert counts.gained()["deerflow_http_requests_total", "200", "GET", "/health"] == 1
