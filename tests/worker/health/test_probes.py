"""What a worker answers over HTTP, and how it says that it lives."""

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
from tests.worker.conftest import eventually
from worker.health.heartbeat import heartbeat, host_name, worker_name
from worker.health.probes import serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def served() -> Settings:
    """On a free port."""
    return settings_of(WORKER_METRICS_PORT=str(free_port()))


@pytest.fixture
def workers(valkey: ArqRedis) -> WorkerRegistry:
    return WorkerRegistry(valkey, time.time)


@pytest.fixture
def sync(valkey: ArqRedis) -> ClusterSync:
    return ClusterSync(valkey, time.time, "default")


@pytest.fixture
async def outside() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False) as client:
        yield client


def url(settings: Settings, path: str) -> str:
    return f"http://{settings.worker_metrics_host}:{settings.worker_metrics_port}{path}"


async def test_ready(
    workers: WorkerRegistry, sync: ClusterSync, served: Settings, leading: Precondition, outside: httpx.AsyncClient
):
    """It is ready when a worker lives and the cluster is observed, and names what is missing while that is not so."""
    async with serving(workers, sync, served):
        answer = await outside.get(url(served, "/health/ready"))
        assert answer.status_code == 503
        assert answer.json() == {"status": "not ready", "missing": await missing(workers, sync, time.time())}
        assert len(answer.json()["missing"]) == 2
        assert (await outside.get(url(served, "/health"))).status_code == 200
        await workers.beat("host:1")
        await sync.mark_synced(leading)
        answer = await outside.get(url(served, "/health/ready"))
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_redis_away(served: Settings, away_url: str, outside: httpx.AsyncClient):
    """Without Redis it lives, is not ready, and says why."""
    async with (
        connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away,
        serving(WorkerRegistry(away, time.time), ClusterSync(away, time.time, "default"), served),
    ):
        answer = await outside.get(url(served, "/health/ready"))
        assert answer.status_code == 503
        assert "Redis does not answer" in answer.json()["missing"][0]
        assert (await outside.get(url(served, "/health"))).status_code == 200


async def test_nothing_else_is_answered(
    workers: WorkerRegistry, sync: ClusterSync, served: Settings, outside: httpx.AsyncClient
):
    """No other path, and no other method."""
    async with serving(workers, sync, served):
        assert (await outside.get(url(served, "/"))).status_code == 404
        assert (await outside.post(url(served, "/health"))).status_code == 405


async def test_a_port_that_is_taken(
    workers: WorkerRegistry, sync: ClusterSync, served: Settings, outside: httpx.AsyncClient
):
    """A second worker of a host works without: it says so, and what to do, and takes nothing from the first."""
    async with serving(workers, sync, served):
        with capture_logs() as said:
            async with serving(workers, sync, served):
                assert (await outside.get(url(served, "/health"))).status_code == 200
        assert ["WORKER_METRICS_PORT" in entry["advice"] for entry in said] == [True]
        assert (await outside.get(url(served, "/health"))).status_code == 200


async def test_no_port(workers: WorkerRegistry, sync: ClusterSync, monkeypatch: pytest.MonkeyPatch):
    """With port 0 nothing is served."""
    monkeypatch.setattr(web.TCPSite, "start", None)
    async with serving(workers, sync, settings_of(WORKER_METRICS_PORT="0")):
        pass


async def test_afterwards(workers: WorkerRegistry, sync: ClusterSync, served: Settings, outside: httpx.AsyncClient):
    """When it has ended the port is free again."""
    async with serving(workers, sync, served):
        pass
    with pytest.raises(httpx.ConnectError):
        await outside.get(url(served, "/health"))


# The heartbeat


async def test_beating(workers: WorkerRegistry, sync: ClusterSync):
    """A worker counts as alive as soon as it has begun, by a name that begins with its host's, until it ends."""

    async def alive() -> bool:
        return await workers.alive() == [worker_name()]

    async with heartbeat(workers):
        await eventually(alive, "it has said that it lives")
    assert worker_name().startswith(f"{host_name()}:")
    assert await workers.alive() == []


async def test_beating_without_redis(away_url: str):
    """A worker that cannot say that it lives works on."""
    async with (
        connect(settings_of(REDIS_URL=away_url), FAIL_FAST) as away,
        heartbeat(WorkerRegistry(away, time.time)),
    ):
        pass


async def test_beating_again(
    workers: WorkerRegistry, sync: ClusterSync, valkey: ArqRedis, monkeypatch: pytest.MonkeyPatch
):
    """It says so again and again: a Redis that was emptied meanwhile hears of it by itself."""
    monkeypatch.setattr("worker.health.heartbeat.BEAT_SECONDS", 0.02)

    async def alive() -> bool:
        return bool(await workers.alive())

    async with heartbeat(workers):
        await eventually(alive, "it has said that it lives")
        await valkey.flushall()
        await eventually(alive, "it has said so again")
