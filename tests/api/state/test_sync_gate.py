"""Lost records: if Redis lost its data, the API claims nothing about a missing record until a worker has synced."""

import asyncio
import time
from collections.abc import Awaitable

import httpx
import pytest
from fakeredis import FakeAsyncRedis
from redis.asyncio import Redis

from api.state.sync_gate import SyncGate
from shared.errors import NotSynced, StoreUnavailable
from shared.liveness.sync import ClusterSync
from shared.liveness.workers import WorkerRegistry
from shared.redis.connection import FAIL_FAST, connect
from shared.settings import read_settings
from shared.store.store import Store
from tests.api.conftest import Api, Evolve, Serve
from tests.conftest import Clock, created, observe
from tests.support.eventually import within

pytestmark = pytest.mark.anyio

ABC = "/api/sandboxes/abc"


@pytest.fixture
def store(redis: Redis, clock: Clock) -> Store:
    return Store(redis, clock)


@pytest.fixture
def workers(redis: Redis) -> WorkerRegistry:
    return WorkerRegistry(redis, time.time)


@pytest.fixture
def sync(redis: Redis, clock: Clock) -> ClusterSync:
    return ClusterSync(redis, clock, "default")


# The gate alone


@pytest.fixture
def gate(workers: WorkerRegistry, sync: ClusterSync) -> SyncGate:
    return SyncGate(workers, sync, has_waited=True)


async def test_gate_on_a_new_redis_is_open(gate: SyncGate):
    """A Redis that never had data has lost none."""
    assert await gate.is_open()
    await gate.require()


async def test_gate_that_was_open_is_closed_after_a_flush_until_the_next_sync(
    gate: SyncGate, redis: Redis, sync: ClusterSync
):
    await observe(redis, sync)
    await gate.require()
    await redis.flushall()
    assert not await gate.is_open()
    for _ in range(2):
        with pytest.raises(NotSynced) as refused:
            await gate.require()
        assert refused.value.headers["Retry-After"] == "1"
    await observe(redis, sync)
    await gate.require()


async def test_gate_of_a_process_that_starts_after_a_flush_is_closed_while_a_worker_is_registered(
    gate: SyncGate, redis: Redis, workers: WorkerRegistry, sync: ClusterSync
):
    """The worker shows that Redis may not be new."""
    await workers.beat("a:1")
    with pytest.raises(NotSynced):
        await gate.require()
    await observe(redis, sync)
    await gate.require()


async def test_gate_that_waited_for_workers_remembers_a_sync(redis: Redis, workers: WorkerRegistry, sync: ClusterSync):
    await observe(redis, sync)
    gate = SyncGate(workers, sync)
    await gate.wait_for_workers()
    await redis.flushall()
    with pytest.raises(NotSynced):
        await gate.require()


class NoticedSync(ClusterSync):
    """Tells when a caller has seen that the cluster is synced."""

    noticed: asyncio.Event

    async def has_synced(self) -> bool:
        has_synced = await super().has_synced()
        if has_synced:
            self.noticed.set()
        return has_synced


async def test_running_gate_remembers_a_sync_without_any_request(redis: Redis, workers: WorkerRegistry, clock: Clock):
    """The readiness probe does not ask Redis, so a process may get no request between the first sync and a flush."""
    sync = NoticedSync(redis, clock, "default")
    sync.noticed = asyncio.Event()
    gate = SyncGate(workers, sync, has_waited=True, poll_seconds=0.01)
    async with gate.running():
        await observe(redis, sync)
        await within(sync.noticed.wait())
        await redis.flushall()
        with pytest.raises(NotSynced):
            await gate.require()


async def test_running_gate_outlives_an_outage_of_redis(clock: Clock, away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        sync = ClusterSync(redis, clock, "default")
        gate = SyncGate(WorkerRegistry(redis, clock), sync, has_waited=True, poll_seconds=0.01)
        async with gate.running():
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await gate.is_open()


async def test_create_is_written_while_synced_or_new_and_never_after_a_flush(
    gate: SyncGate, redis: Redis, store: Store, sync: ClusterSync, clock: Clock
):
    """The check is part of the write, so a flush right before the write counts too."""

    async def create(sandbox_id: str) -> bool:
        return (await gate.create_or_update(store, sandbox_id, created(sandbox_id, clock()))).written

    assert await create("first")
    await observe(redis, sync)
    assert await create("second")
    await redis.flushall()
    with pytest.raises(NotSynced):
        await create("third")
    assert await store.all() == []


async def test_wait_for_workers_ends_at_the_first_heartbeat(workers: WorkerRegistry, sync: ClusterSync, clock: Clock):
    """Without a worker, the wait takes one heartbeat period, and then Redis is new."""
    gate = SyncGate(workers, sync)
    async with FakeAsyncRedis() as empty:
        other = SyncGate(WorkerRegistry(empty, clock), ClusterSync(empty, clock, "default"))
        without_worker = asyncio.create_task(other.wait_for_workers())
        with_worker = asyncio.create_task(gate.wait_for_workers())
        await workers.beat("a:1")
        await within(with_worker)
        assert not without_worker.done()
        assert not await gate.is_open()
        await within(without_worker)
        assert await other.is_open()


async def test_gate_without_redis_claims_nothing(clock: Clock, away_url: str):
    async with connect(read_settings({"REDIS_URL": away_url}), FAIL_FAST) as redis:
        gate = SyncGate(WorkerRegistry(redis, clock), ClusterSync(redis, clock, "default"))
        calls: list[Awaitable[object]] = [gate.is_open(), gate.require(), gate.wait_for_workers()]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in errors] == [StoreUnavailable] * len(calls)


# The API


@pytest.fixture
async def flushed(api: Api, running: Evolve, sync: ClusterSync, redis: Redis) -> None:
    """Flush Redis after a sandbox ran and the API has seen that the cluster was synced."""
    await observe(redis, sync)
    await running("abc")
    assert (await api.get("/api/sandboxes/abd")).status_code == 404
    await redis.flushall()


def is_not_synced(response: httpx.Response) -> bool:
    answer = (response.status_code, response.json()["code"], response.headers.get("Retry-After"))
    return answer == (503, "not_synced", "1") and response.headers["Content-Type"] == "application/problem+json"


REQUESTS = [("GET", ABC), ("DELETE", ABC), ("GET", "/api/sandboxes"), ("GET", f"{ABC}/events")]


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize(("method", "path"), [*REQUESTS, ("GET", "/api/sandboxes?limit=10"), ("GET", f"{ABC}?x=1")])
async def test_request_after_a_flush_is_answered_503(api: Api, method: str, path: str):
    """The sandbox may well exist. Neither a 404 nor a 200 to a delete nor an empty list would be true."""
    assert is_not_synced(await api.request(method, path))


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_waiting_request_after_a_flush_is_answered_503(api: Api, method: str):
    assert is_not_synced(await api.request(method, ABC, headers={"Prefer": "wait=30"}))


@pytest.mark.usefixtures("flushed")
@pytest.mark.parametrize("body", [{"sandbox_id": "abc"}, {}])
async def test_create_after_a_flush_writes_nothing(api: Api, redis: Redis, body: dict[str, str]):
    """The Pod of the sandbox may well exist; a create would make a second one."""
    assert is_not_synced(await api.post("/api/sandboxes", json=body))
    assert await redis.keys() == []


@pytest.mark.usefixtures("flushed")
async def test_requests_after_the_next_sync_are_answered_as_usual(api: Api, sync: ClusterSync, redis: Redis):
    await observe(redis, sync)
    assert [(await api.request(*request)).status_code for request in REQUESTS] == [404, 200, 200, 404]


async def test_requests_on_a_new_redis_are_answered_as_usual(api: Api):
    assert [(await api.request(*request)).status_code for request in REQUESTS] == [404, 200, 200, 404]


async def test_request_before_the_first_sync_is_answered_503_while_a_worker_is_registered(
    api: Api, workers: WorkerRegistry, sync: ClusterSync, redis: Redis
):
    """An API that started after a flush knows from the worker that Redis may not be new."""
    await workers.beat("host:1")
    assert is_not_synced(await api.get(ABC))
    await observe(redis, sync)
    assert (await api.get(ABC)).status_code == 404


async def test_request_in_compat_mode_after_a_flush_is_answered_503(serve: Serve, sync: ClusterSync, redis: Redis):
    """On a 404, today's client would create the sandbox again."""
    api = await serve(DEERFLOW_COMPAT="true")
    await observe(redis, sync)
    assert (await api.get(ABC)).status_code == 404
    await redis.flushall()
    assert is_not_synced(await api.get(ABC))
