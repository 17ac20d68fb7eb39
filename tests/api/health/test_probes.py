import time

import httpx
import pytest
from arq.connections import ArqRedis
from fakeredis import FakeAsyncRedis

from shared.liveness.sync import FRESH_SECONDS, ClusterSync
from shared.liveness.workers import ALIVE_SECONDS, WorkerRegistry
from shared.store.store import Store
from tests.api.conftest import Serve
from tests.conftest import Clock, observe

pytestmark = pytest.mark.anyio


async def test_health(serve: Serve):
    """The process is alive, to anyone who asks."""
    answer = await (await serve(headers={})).get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.fixture
def clock() -> Clock:
    """Of now, as Redis has it; what is to be long ago is said first, by a clock that is put back."""
    return Clock(time.time())


@pytest.fixture
def workers(fake_redis: FakeAsyncRedis, clock: Clock) -> WorkerRegistry:
    return WorkerRegistry(fake_redis, clock)


@pytest.fixture
def vitals(fake_redis: FakeAsyncRedis, clock: Clock) -> ClusterSync:
    return ClusterSync(fake_redis, clock, "default")


async def worker_lives(workers: WorkerRegistry, clock: Clock, *, seconds_ago: float = 0) -> None:
    clock.advance(-seconds_ago)
    await workers.beat("host:1")
    clock.advance(seconds_ago)


async def cluster_is_observed(
    vitals: ClusterSync, redis: FakeAsyncRedis, clock: Clock, *, seconds_ago: float = 0
) -> None:
    clock.advance(-seconds_ago)
    await observe(redis, vitals)
    clock.advance(seconds_ago)


def missing(answer: httpx.Response) -> list[str]:
    """What an answer names, that says it is not ready."""
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["status"]) == (503, "not_ready", 503)
    assert answer.headers["Content-Type"] == "application/problem+json"
    named: list[str] = problem["missing"]
    assert all(sentence in problem["detail"] for sentence in named)
    return named


async def test_ready(
    serve: Serve, workers: WorkerRegistry, vitals: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    """Redis answers, a worker lives, the cluster is observed: to anyone who asks."""
    await worker_lives(workers, clock)
    await cluster_is_observed(vitals, fake_redis, clock, seconds_ago=FRESH_SECONDS / 2)
    answer = await (await serve(headers={})).get("/health/ready")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_nothing_is_there(serve: Serve):
    """Each thing that is missing is named; the process itself is alive."""
    api = await serve(headers={})
    no_worker, never_observed = missing(await api.get("/health/ready"))
    assert "No worker" in no_worker
    assert "never observed" in never_observed
    assert (await api.get("/health")).status_code == 200


async def test_a_worker_that_fell_silent(
    api: httpx.AsyncClient, workers: WorkerRegistry, vitals: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    """A worker that has said nothing for long is not one."""
    await worker_lives(workers, clock, seconds_ago=ALIVE_SECONDS + 2)
    await cluster_is_observed(vitals, fake_redis, clock)
    (no_worker,) = missing(await api.get("/health/ready"))
    assert "No worker" in no_worker


async def test_a_cluster_that_is_not_observed_any_more(
    api: httpx.AsyncClient, workers: WorkerRegistry, vitals: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    """A worker that lives and sees nothing, for Kubernetes is away, is not enough."""
    await worker_lives(workers, clock)
    await cluster_is_observed(vitals, fake_redis, clock, seconds_ago=FRESH_SECONDS + 10)
    (stale,) = missing(await api.get("/health/ready"))
    assert "default" in stale
    assert "ago" in stale


async def test_another_cluster_is_observed(
    serve: Serve, workers: WorkerRegistry, vitals: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    """What matters is the cluster that this API is for."""
    await worker_lives(workers, clock)
    await cluster_is_observed(vitals, fake_redis, clock)
    (never_observed,) = missing(await (await serve(CLUSTER_NAME="east")).get("/health/ready"))
    assert "east" in never_observed


@pytest.mark.parametrize("path", ["/health/ready", "/health/serving"])
async def test_redis_away(serve: Serve, away_url: str, path: str):
    """Without Redis nothing else can be known: that is what is said, and the process is alive."""
    api = await serve(on=Store(ArqRedis.from_url(away_url)))
    answer = await api.get(path)
    assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
    assert (await api.get("/health")).status_code == 200


async def test_serving(
    serve: Serve, workers: WorkerRegistry, vitals: ClusterSync, fake_redis: FakeAsyncRedis, clock: Clock
):
    """What was last seen is worth serving, however long ago that was; an emptied or new Redis is not."""
    api = await serve(headers={})
    assert "never observed" in missing(await api.get("/health/serving"))[0]
    await cluster_is_observed(vitals, fake_redis, clock, seconds_ago=FRESH_SECONDS * 10)
    answer = await api.get("/health/serving")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    await fake_redis.flushall()
    assert (await api.get("/health/serving")).status_code == 503


async def test_capabilities(api: httpx.AsyncClient):
    """Without images for lark-cli there is none."""
    answer = await api.get("/api/capabilities")
    assert answer.status_code == 200
    assert answer.json() == {"lark_cli_init_image": False, "lark_cli_broker_image": False}


@pytest.mark.parametrize("configured", ["lark_cli_init_image", "lark_cli_broker_image"])
async def test_capabilities_with_an_image(serve: Serve, configured: str):
    """Each image that is configured is a capability, and only that."""
    shown = (await (await serve(**{configured.upper(): "lark:1"})).get("/api/capabilities")).json()
    assert shown == {"lark_cli_init_image": False, "lark_cli_broker_image": False, configured: True}
