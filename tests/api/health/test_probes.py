"""Health checks: `/health`, `/health/ready`, `/health/system`, and the capabilities of the server."""

import time

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import ALIVE_SECONDS, WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import Api, Serve
from tests.conftest import Clock, observe

pytestmark = pytest.mark.anyio

PROCESS_CHECKS = ["/health", "/health/ready"]
SYSTEM = "/health/system"


@pytest.mark.parametrize("path", PROCESS_CHECKS)
async def test_process_check_needs_no_key(serve: Serve, path: str):
    response = await (await serve(headers={})).get(path)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("path", PROCESS_CHECKS)
async def test_process_check_without_redis_is_200(serve: Serve, away_url: str, path: str):
    """An outage of Redis must neither restart the API nor take all API Pods out of the Service."""
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        assert (await (await serve(on=Store(redis))).get(path)).status_code == 200


@pytest.fixture
def clock() -> Clock:
    """Return a clock at the present time of Redis. A test puts it back to write an old heartbeat or sync."""
    return Clock(time.time())


@pytest.fixture
def workers(fake_redis: FakeAsyncRedis, clock: Clock) -> WorkerRegistry:
    return WorkerRegistry(fake_redis, clock)


@pytest.fixture
def sync(fake_redis: FakeAsyncRedis, clock: Clock) -> ClusterSync:
    return ClusterSync(fake_redis, clock, "default")


async def beat(workers: WorkerRegistry, clock: Clock, *, seconds_ago: float = 0) -> None:
    clock.advance(-seconds_ago)
    await workers.beat("host:1")
    clock.advance(seconds_ago)


async def mark_synced(sync: ClusterSync, redis: FakeAsyncRedis, clock: Clock, *, seconds_ago: float = 0) -> None:
    clock.advance(-seconds_ago)
    await observe(redis, sync)
    clock.advance(seconds_ago)


def missing(response: httpx.Response) -> list[str]:
    """Return the missing parts that a 503 names."""
    problem = response.json()
    assert (response.status_code, problem["code"], problem["status"]) == (503, "not_ready", 503)
    assert response.headers["Content-Type"] == "application/problem+json"
    sentences: list[str] = problem["missing"]
    assert all(sentence in problem["detail"] for sentence in sentences)
    return sentences


async def test_system_check_of_a_complete_system_is_200_without_a_key(
    serve: Serve, workers: WorkerRegistry, sync: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    await beat(workers, clock)
    await mark_synced(sync, fake_redis, clock, seconds_ago=FRESH_SECONDS / 2)
    response = await (await serve(headers={})).get(SYSTEM)
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_system_check_names_each_missing_part(serve: Serve):
    api = await serve(headers={})
    no_worker, not_synced = missing(await api.get(SYSTEM))
    assert "No worker" in no_worker
    assert "synced" in not_synced
    assert "default" in not_synced
    for path in PROCESS_CHECKS:
        assert (await api.get(path)).status_code == 200


async def test_system_check_of_a_flushed_redis_is_503(
    api: Api, workers: WorkerRegistry, sync: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    await beat(workers, clock)
    await mark_synced(sync, fake_redis, clock)
    assert (await api.get(SYSTEM)).status_code == 200
    await fake_redis.flushall()
    assert len(missing(await api.get(SYSTEM))) == 2
    assert (await api.get("/health/ready")).status_code == 200


async def test_system_check_names_workers_that_fell_silent(
    api: Api, workers: WorkerRegistry, sync: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    await beat(workers, clock, seconds_ago=ALIVE_SECONDS + 2)
    await mark_synced(sync, fake_redis, clock)
    (no_worker,) = missing(await api.get(SYSTEM))
    assert "No worker" in no_worker


async def test_system_check_names_a_sync_that_is_old(
    api: Api, workers: WorkerRegistry, sync: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    """Workers without Kubernetes are alive, and keep no status current."""
    await beat(workers, clock)
    await mark_synced(sync, fake_redis, clock, seconds_ago=FRESH_SECONDS + 10)
    (old_sync,) = missing(await api.get(SYSTEM))
    assert "default" in old_sync
    assert "ago" in old_sync


async def test_system_check_asks_for_the_cluster_of_this_api(
    serve: Serve, workers: WorkerRegistry, sync: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    await beat(workers, clock)
    await mark_synced(sync, fake_redis, clock)
    (not_synced,) = missing(await (await serve(CLUSTER_NAME="east")).get(SYSTEM))
    assert "east" in not_synced


async def test_system_check_without_redis_is_503(serve: Serve, away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        response = await (await serve(on=Store(redis))).get(SYSTEM)
    assert (response.status_code, response.json()["code"]) == (503, "redis_unavailable")


async def test_capabilities_without_images_are_false(api: Api):
    response = await api.get("/api/capabilities")
    assert response.status_code == 200
    assert response.json() == {"lark_cli_init_image": False, "lark_cli_broker_image": False}


@pytest.mark.parametrize("image", ["lark_cli_init_image", "lark_cli_broker_image"])
async def test_capability_is_true_if_its_image_is_configured(serve: Serve, image: str):
    capabilities = (await (await serve(**{image.upper(): "lark:1"})).get("/api/capabilities")).json()
    assert capabilities == {"lark_cli_init_image": False, "lark_cli_broker_image": False, image: True}
