"""A worker's health endpoints, over HTTP."""

import math
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from aiohttp import web
from arq.connections import ArqRedis
from structlog.testing import capture_logs

from deploy.local.stack import free_port
from shared.liveness.readiness import missing
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import Settings
from shared.store.update import Precondition
from tests.support.records import settings_of
from worker.health.probes import READY_SECONDS, Health, serving

pytestmark = pytest.mark.anyio


class FetchAge:
    """The age of a worker's last look at the queue, as the test sets it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def served() -> Settings:
    """Return settings with a free port."""
    return settings_of(WORKER_METRICS_PORT=str(free_port()))


@pytest.fixture
def age() -> FetchAge:
    return FetchAge()


@pytest.fixture
def health(valkey: ArqRedis, age: FetchAge) -> Health:
    return health_of(valkey, age)


def health_of(redis: ArqRedis, age: FetchAge) -> Health:
    return Health(age, WorkerRegistry(redis, time.time), ClusterSync(redis, time.time, "default"))


@pytest.fixture
async def outside() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def url(settings: Settings, path: str) -> str:
    return f"http://{settings.worker_metrics_host}:{settings.worker_metrics_port}{path}"


@pytest.mark.parametrize(
    ("seconds", "status"), [(0, 200), (READY_SECONDS, 200), (READY_SECONDS + 1, 503), (math.inf, 503)]
)
async def test_ready_while_the_worker_fetches_jobs(
    health: Health, age: FetchAge, served: Settings, outside: httpx.AsyncClient, seconds: float, status: int
):
    """The cluster's sync and other workers do not matter."""
    age.seconds = seconds
    async with serving(health, served):
        response = await outside.get(url(served, "/health/ready"))
        assert response.status_code == status
        if status == 200:
            assert response.json() == {"status": "ok"}
        else:
            assert response.json()["status"] == "not ready"
            assert "does not fetch jobs" in response.json()["missing"][0]
        assert (await outside.get(url(served, "/health"))).status_code == 200


async def test_system_names_what_is_missing(
    health: Health, served: Settings, leading: Precondition, outside: httpx.AsyncClient
):
    async with serving(health, served):
        response = await outside.get(url(served, "/health/system"))
        assert response.status_code == 503
        sentences = await missing(health.workers, health.sync, time.time())
        assert response.json() == {"status": "not ready", "missing": sentences}
        assert len(sentences) == 2
        await health.workers.beat("host:1:a")
        await health.sync.mark_synced(leading)
        response = await outside.get(url(served, "/health/system"))
        assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_system_without_redis_says_so(served: Settings, age: FetchAge, away_url: str, outside: httpx.AsyncClient):
    """The process is alive, and stays so."""
    async with (
        connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away,
        serving(health_of(away, age), served),
    ):
        response = await outside.get(url(served, "/health/system"))
        assert response.status_code == 503
        assert "Redis does not answer" in response.json()["missing"][0]
        assert (await outside.get(url(served, "/health"))).status_code == 200


async def test_other_paths_and_methods_are_refused(health: Health, served: Settings, outside: httpx.AsyncClient):
    async with serving(health, served):
        assert (await outside.get(url(served, "/"))).status_code == 404
        assert (await outside.post(url(served, "/health"))).status_code == 405


async def test_port_in_use_is_logged_and_left_to_its_owner(
    health: Health, served: Settings, outside: httpx.AsyncClient
):
    """The second worker of a host works without the endpoints. Its log tells what to do."""
    async with serving(health, served):
        with capture_logs() as lines:
            async with serving(health, served):
                assert (await outside.get(url(served, "/health"))).status_code == 200
        assert ["WORKER_METRICS_PORT" in line["advice"] for line in lines] == [True]
        assert (await outside.get(url(served, "/health"))).status_code == 200


async def test_port_0_serves_nothing(health: Health, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(web.TCPSite, "start", None)
    async with serving(health, settings_of(WORKER_METRICS_PORT="0")):
        pass


async def test_port_is_free_again_at_the_end(health: Health, served: Settings, outside: httpx.AsyncClient):
    async with serving(health, served):
        pass
    with pytest.raises(httpx.ConnectError):
        await outside.get(url(served, "/health"))
