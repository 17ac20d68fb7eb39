"""When Redis has lost its records, nothing is claimed of what is not there, until a worker has made them anew."""

import time

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.store.store import Store
from tests.api.conftest import Evolve, Serve
from tests.conftest import observe

pytestmark = pytest.mark.anyio

ABC = "/api/sandboxes/abc"


@pytest.fixture
def vitals(fake_redis: FakeAsyncRedis, store: Store) -> ClusterSync:
    return ClusterSync(fake_redis, store.now, "default")


@pytest.fixture
async def emptied(api: httpx.AsyncClient, running: Evolve, vitals: ClusterSync, fake_redis: FakeAsyncRedis) -> None:
    """There was a sandbox, and all records were there, as the API has seen; then Redis was emptied."""
    await observe(fake_redis, vitals)
    await running("abc")
    assert (await api.get("/api/sandboxes/abd")).status_code == 404
    await fake_redis.flushall()


def is_unknown(answer: httpx.Response) -> bool:
    """Nothing is claimed: 503, and when to ask again."""
    told = (answer.status_code, answer.json()["code"], answer.headers.get("Retry-After"))
    return told == (503, "not_synced", "1") and answer.headers["Content-Type"] == "application/problem+json"


ASKED = [("GET", ABC), ("DELETE", ABC), ("GET", "/api/sandboxes"), ("GET", f"{ABC}/events")]


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize(("method", "path"), [*ASKED, ("GET", "/api/sandboxes?limit=10"), ("GET", f"{ABC}?x=1")])
async def test_emptied(api: httpx.AsyncClient, method: str, path: str):
    """Neither "there is none" nor "it is deleted" nor an empty list is said of what may well be there."""
    assert is_unknown(await api.request(method, path))


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_waiting(api: httpx.AsyncClient, method: str):
    """Nor to who would wait."""
    assert is_unknown(await api.request(method, ABC, headers={"Prefer": "wait=30"}))


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("body", [{"sandbox_id": "abc"}, {}])
async def test_a_create(api: httpx.AsyncClient, fake_redis: FakeAsyncRedis, body: dict[str, str]):
    """Nor is a sandbox begun anew that may well have its Pod: nothing is written."""
    assert is_unknown(await api.post("/api/sandboxes", json=body))
    assert await fake_redis.keys() == []


@pytest.mark.usefixtures("emptied")
async def test_made_anew(api: httpx.AsyncClient, vitals: ClusterSync, fake_redis: FakeAsyncRedis):
    """When a worker has said that all are there again, what is not there is not there."""
    await observe(fake_redis, vitals)
    assert [(await api.request(*asked)).status_code for asked in ASKED] == [404, 200, 200, 404]


async def test_a_new_redis(api: httpx.AsyncClient):
    """Before any worker has observed anything there is nothing that could have been lost."""
    assert [(await api.request(*asked)).status_code for asked in ASKED] == [404, 200, 200, 404]


async def test_a_worker_that_has_not_observed_yet(
    api: httpx.AsyncClient, vitals: ClusterSync, fake_redis: FakeAsyncRedis
):
    """An API that began after Redis was emptied knows by the workers that it is not new, and waits for them."""
    await WorkerRegistry(fake_redis, time.time).beat("host:1")
    assert is_unknown(await api.get(ABC))
    await observe(fake_redis, vitals)
    assert (await api.get(ABC)).status_code == 404


async def test_compat(serve: Serve, vitals: ClusterSync, fake_redis: FakeAsyncRedis):
    """To today's client, too, for which 404 would mean to make the sandbox again."""
    api = await serve(DEERFLOW_COMPAT="true")
    await observe(fake_redis, vitals)
    assert (await api.get(ABC)).status_code == 404
    await fake_redis.flushall()
    assert is_unknown(await api.get(ABC))
