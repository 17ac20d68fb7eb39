"""Limits on sandboxes and on requests: what is refused, and until when."""

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from shared.store.store import Store
from tests.api.conftest import KEY, Api, Evolve, Serve
from tests.conftest import Clock
from tests.support.store import remove

pytestmark = pytest.mark.anyio

CLUSTER_IP = {"SANDBOX_SERVICE_TYPE": "ClusterIP"}


@pytest.fixture
def store(redis: Redis, clock: Clock) -> Store:
    return Store(redis, clock)


async def create(api: Api, sandbox_id: str, **fields: object) -> httpx.Response:
    return await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id, **fields})


async def test_create_beyond_a_limit_is_429_and_creates_nothing(serve: Serve):
    """The problem names the setting, and when to try again."""
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES="1")
    await create(api, "a")
    answer = await create(api, "b")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["limit"]) == (429, "limit_reached", "MAX_SANDBOXES")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert "MAX_SANDBOXES is 1" in problem["detail"]
    assert (await api.get("/api/sandboxes/b")).status_code == 404


async def test_concurrent_creates_on_two_apis_fill_a_limit_exactly(serve: Serve, store: Store):
    """Each accepted sandbox exists, and no other."""
    apis = [await serve(**CLUSTER_IP, MAX_SANDBOXES="10") for _ in range(2)]
    answers = await asyncio.gather(*(create(apis[n % 2], f"s{n}") for n in range(64)))
    accepted = {f"s{n}" for n, answer in enumerate(answers) if answer.status_code == 202}
    assert len(accepted) == 10
    assert {answer.status_code for answer in answers} == {202, 429}
    assert {record.id for record in await store.all()} == accepted
    repeated = await asyncio.gather(*(create(apis[n % 2], sandbox_id) for n, sandbox_id in enumerate(accepted)))
    assert {answer.status_code for answer in repeated} == {202}


async def test_delete_makes_room_before_the_pod_is_gone(serve: Serve):
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES="1")
    await create(api, "a")
    assert (await create(api, "b")).status_code == 429
    await api.delete("/api/sandboxes/a")
    assert (await create(api, "b")).status_code == 202


async def test_node_port_is_free_when_the_record_is_gone(serve: Serve, store: Store):
    api = await serve(NODE_PORT_CAPACITY="1")
    await create(api, "a")
    await api.delete("/api/sandboxes/a")
    assert (await create(api, "b")).json()["limit"] == "NODE_PORT_CAPACITY"
    await remove(store, "a")
    assert (await create(api, "b")).status_code == 202


async def test_limit_per_user_counts_each_user_separately(serve: Serve):
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES_PER_USER="1")
    assert (await create(api, "a", user_id="ada")).status_code == 202
    assert (await create(api, "b", user_id="ada")).json()["limit"] == "MAX_SANDBOXES_PER_USER"
    assert (await create(api, "c", user_id="bob")).status_code == 202


async def test_create_of_an_existing_sandbox_is_not_refused_by_a_full_limit(serve: Serve, evolve: Evolve):
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES="1", MAX_SANDBOXES_PER_USER="1")
    first = await create(api, "a")
    repeated = await create(api, "a", user_id="bob")
    assert (repeated.status_code, repeated.json()) == (202, first.json())
    await evolve("a", url="http://h:1", status="Running")
    assert (await create(api, "a")).status_code == 200


# Requests


async def statuses(count: int, *apis: Api, path: str = "/api/sandboxes/none") -> list[int]:
    """Send `count` requests at once, to each API in turn, and return the sorted status codes."""
    answers = await asyncio.gather(*(apis[n % len(apis)].get(path) for n in range(count)))
    return sorted(answer.status_code for answer in answers)


RATE = {"RATE_LIMIT_PER_SECOND": "2", "RATE_LIMIT_BURST": "10"}


async def test_two_apis_share_the_rate_of_a_key(serve: Serve, clock: Clock):
    """The burst is shared as well."""
    apis = [await serve(**RATE) for _ in range(2)]
    assert await statuses(40, *apis) == [404] * 10 + [429] * 30
    clock.advance(1)
    assert await statuses(40, *apis) == [404] * 2 + [429] * 38


async def test_request_after_retry_after_is_allowed(serve: Serve, clock: Clock):
    api = await serve(RATE_LIMIT_PER_SECOND="0.2", RATE_LIMIT_BURST="1")
    await create(api, "a")
    answer = await create(api, "b")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["Retry-After"] == "5"
    assert (await statuses(1, api)) == [429]
    clock.advance(5)
    assert (await create(api, "b")).status_code == 202


async def test_probes_and_requests_without_the_key_do_not_count(serve: Serve):
    api = await serve(**RATE)
    assert await statuses(30, api, path="/health") == [200] * 30
    stranger = await serve(headers={"X-API-Key": "wrong"}, **RATE)
    assert await statuses(30, stranger) == [401] * 30
    assert await statuses(10, api) == [404] * 10


async def test_callers_of_an_open_api_share_one_rate(serve: Serve):
    """Otherwise a caller with a new key in each request would have no limit."""
    is_open = {"PROVISIONER_API_KEY": "", "PROVISIONER_ALLOW_ANONYMOUS": "true"}
    callers = [await serve(headers=headers, **is_open, **RATE) for headers in ({}, {"X-API-Key": "made-up"})]
    assert await statuses(40, *callers) == [404] * 10 + [429] * 30


async def test_api_without_a_key_refuses_requests_without_counting_them(serve: Serve, store: Store):
    closed = await serve(PROVISIONER_API_KEY="", **RATE)
    assert await statuses(30, closed) == [401] * 30
    assert await store.redis.keys("rate:*") == []


async def test_rate_limit_is_off_by_default(serve: Serve):
    assert await statuses(300, await serve()) == [404] * 300


async def test_redis_holds_no_key(serve: Serve, store: Store):
    await statuses(3, await serve(**RATE))
    assert not [name for name in await store.redis.keys() if KEY.encode() in name]
