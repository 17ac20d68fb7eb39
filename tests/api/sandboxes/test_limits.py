"""What a caller is told when there is no room, or when it asks too often."""

import asyncio

import httpx
import pytest
from redis.asyncio import Redis

from shared.store.store import Store
from shared.store.update import Update
from tests.api.conftest import KEY, Evolve, Serve
from tests.conftest import Clock

pytestmark = pytest.mark.anyio

CLUSTER_IP = {"SANDBOX_SERVICE_TYPE": "ClusterIP"}


@pytest.fixture(params=["fakeredis", "valkey"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Store:
    redis: Redis = request.getfixturevalue({"fakeredis": "fake_redis"}.get(request.param, request.param))
    return Store(redis, clock)


async def create(api: httpx.AsyncClient, sandbox_id: str, **fields: object) -> httpx.Response:
    return await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id, **fields})


async def test_no_room(serve: Serve):
    """429, with the setting's name, when to come again, and a sentence; the sandbox is not there."""
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES="1")
    await create(api, "a")
    answer = await create(api, "b")
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["limit"]) == (429, "limit_reached", "MAX_SANDBOXES")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert "MAX_SANDBOXES is 1" in problem["detail"]
    assert (await api.get("/api/sandboxes/b")).status_code == 404


async def test_64_clients_of_two_apis(serve: Serve, store: Store):
    """Exactly ten are accepted, whichever process they asked; each that was is there, and no other."""
    apis = [await serve(**CLUSTER_IP, MAX_SANDBOXES="10") for _ in range(2)]
    answers = await asyncio.gather(*(create(apis[n % 2], f"s{n}") for n in range(64)))
    accepted = {f"s{n}" for n, answer in enumerate(answers) if answer.status_code == 202}
    assert len(accepted) == 10
    assert {answer.status_code for answer in answers} == {202, 429}
    assert {record.id for record in await store.all()} == accepted
    again = await asyncio.gather(*(create(apis[n % 2], sandbox_id) for n, sandbox_id in enumerate(accepted)))
    assert {answer.status_code for answer in again} == {202}


async def test_room_again(serve: Serve):
    """What is deleted makes room at once, though its Pod is still going."""
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES="1")
    await create(api, "a")
    assert (await create(api, "b")).status_code == 429
    await api.delete("/api/sandboxes/a")
    assert (await create(api, "b")).status_code == 202


async def test_a_node_port_is_free_when_its_sandbox_has_gone(serve: Serve, store: Store):
    api = await serve(NODE_PORT_CAPACITY="1")
    await create(api, "a")
    await api.delete("/api/sandboxes/a")
    assert (await create(api, "b")).json()["limit"] == "NODE_PORT_CAPACITY"
    await store.create_or_update("a", lambda _: Update(None))
    assert (await create(api, "b")).status_code == 202


async def test_of_one_user(serve: Serve):
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES_PER_USER="1")
    assert (await create(api, "a", user_id="ada")).status_code == 202
    assert (await create(api, "b", user_id="ada")).json()["limit"] == "MAX_SANDBOXES_PER_USER"
    assert (await create(api, "c", user_id="bob")).status_code == 202


async def test_what_is_there_is_answered_though_it_is_full(serve: Serve, evolve: Evolve):
    """As ever, and a use of it."""
    api = await serve(**CLUSTER_IP, MAX_SANDBOXES="1", MAX_SANDBOXES_PER_USER="1")
    first = await create(api, "a")
    again = await create(api, "a", user_id="bob")
    assert (again.status_code, again.json()) == (202, first.json())
    await evolve("a", url="http://h:1", status="Running")
    assert (await create(api, "a")).status_code == 200


# Requests


async def statuses(count: int, *apis: httpx.AsyncClient, path: str = "/api/sandboxes/none") -> list[int]:
    """Of so many at once, of each API in turn."""
    answers = await asyncio.gather(*(apis[n % len(apis)].get(path) for n in range(count)))
    return sorted(answer.status_code for answer in answers)


RATE = {"RATE_LIMIT_PER_SECOND": "2", "RATE_LIMIT_BURST": "10"}


async def test_two_apis_share_the_rate(serve: Serve, clock: Clock):
    """The burst of a key is one, and so is what comes after."""
    apis = [await serve(**RATE) for _ in range(2)]
    assert await statuses(40, *apis) == [404] * 10 + [429] * 30
    clock.advance(1)
    assert await statuses(40, *apis) == [404] * 2 + [429] * 38


async def test_when_to_come_again(serve: Serve, clock: Clock):
    api = await serve(RATE_LIMIT_PER_SECOND="0.2", RATE_LIMIT_BURST="1")
    await create(api, "a")
    answer = await create(api, "b")
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["Retry-After"] == "5"
    assert (await statuses(1, api)) == [429]
    clock.advance(5)
    assert (await create(api, "b")).status_code == 202


async def test_what_is_not_counted(serve: Serve):
    """Probes, which have no key; and whoever has none, or a wrong one, takes nothing from those who have."""
    api = await serve(**RATE)
    assert await statuses(30, api, path="/health") == [200] * 30
    stranger = await serve(headers={"X-API-Key": "wrong"}, **RATE)
    assert await statuses(30, stranger) == [401] * 30
    assert await statuses(10, api) == [404] * 10


async def test_one_bucket_for_all_who_ask_an_open_api(serve: Serve):
    """A key says nothing there: whoever makes one up with each request is not asked to wait less."""
    is_open = {"PROVISIONER_API_KEY": "", "PROVISIONER_ALLOW_ANONYMOUS": "true"}
    callers = [await serve(headers=headers, **is_open, **RATE) for headers in ({}, {"X-API-Key": "made-up"})]
    assert await statuses(40, *callers) == [404] * 10 + [429] * 30


async def test_an_api_without_a_key_refuses_before_it_counts(serve: Serve, store: Store):
    closed = await serve(PROVISIONER_API_KEY="", **RATE)
    assert await statuses(30, closed) == [401] * 30
    assert await store.redis.keys("rate:*") == []


async def test_off_unless_it_is_set(serve: Serve):
    assert await statuses(300, await serve()) == [404] * 300


async def test_no_key_is_kept(serve: Serve, store: Store):
    await statuses(3, await serve(**RATE))
    assert not [name for name in await store.redis.keys() if KEY.encode() in name]
