"""Waiting as a caller meets it. "At once" is within SECONDS, far below the wait that is asked for."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import msgspec
import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from api.state.app_state import state_of
from api.state.notifier import RecordNotifier
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, provisioned
from shared.settings import read_settings
from shared.store import keys
from shared.store.store import Store
from shared.store.update import Update
from tests.api.conftest import Evolve, Serve
from tests.conftest import Clock, StartValkey

pytestmark = pytest.mark.anyio

URL = "http://10.0.0.7:30123"
SECONDS = 10.0
"""An upper bound for anything to come true."""
LONG = {"Prefer": "wait=60"}
SHORT = {"Prefer": "wait=1"}

Provision = Callable[..., Awaitable[Sandbox]]
Request = asyncio.Task[httpx.Response]


@pytest.fixture(params=["fakeredis", "valkey"])
def store(request: pytest.FixtureRequest, clock: Clock) -> Store:
    redis: Redis = request.getfixturevalue({"fakeredis": "fake_redis"}.get(request.param, request.param))
    return Store(redis, clock)


async def make_provisioned(store: Store, sandbox_id: str) -> Sandbox:
    """As the worker writes it, once Pod and Service are made."""

    def mutate(record: Sandbox | None) -> Update:
        assert record is not None
        return Update(
            provisioned(record, ProvisionedObjects(f"sandbox-{record.id}", "uid", "service", URL), now=store.now())
        )

    outcome = await store.create_or_update(sandbox_id, mutate)
    assert outcome.record is not None
    return outcome.record


@pytest.fixture
def provision(store: Store) -> Provision:
    async def write(sandbox_id: str) -> Sandbox:
        return await make_provisioned(store, sandbox_id)

    return write


async def forget(store: Store, sandbox_id: str) -> None:
    """As the worker does, once all of it is gone."""
    await store.create_or_update(sandbox_id, lambda record: Update(None) if record else None)


def waiting_of(api: httpx.AsyncClient) -> RecordNotifier:
    app: Any = cast(httpx.ASGITransport, api._transport).app
    return state_of(app).notifier


def waiters(api: httpx.AsyncClient) -> dict[str, int]:
    """How many wait for each sandbox."""
    return {sandbox_id: len(events) for sandbox_id, events in waiting_of(api)._waiters.items()}


async def eventually(matches: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not matches():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def waits(
    api: httpx.AsyncClient, method: str, sandbox_id: str = "abc", prefer: str = "wait=60", **headers: str
) -> AsyncIterator[Request]:
    """A request that waits by now; whether or not it was answered, it has ended afterwards."""
    before = waiters(api).get(sandbox_id, 0)
    sent = {"Prefer": prefer, **{name.replace("_", "-"): value for name, value in headers.items()}}
    call = (
        api.post("/api/sandboxes", json={"sandbox_id": sandbox_id}, headers=sent)
        if method == "POST"
        else api.request(method, f"/api/sandboxes/{sandbox_id}", headers=sent)
    )
    request = asyncio.create_task(call)
    try:
        await eventually(lambda: request.done() or waiters(api).get(sandbox_id, 0) > before)
        assert not request.done(), request.result().text
        yield request
    finally:
        request.cancel()
        await asyncio.wait([request])


async def answered(request: Request) -> httpx.Response:
    async with asyncio.timeout(SECONDS):
        return await request


async def test_create_until_provisioned(api: httpx.AsyncClient, evolve: Evolve, provision: Provision):
    """A create that waits is answered as soon as there is a URL, and not for what happens before that."""
    async with waits(api, "POST", prefer="wait=45") as request:
        await evolve("abc", reason=Reason.QUOTA_EXCEEDED, message="wait a bit")
        await provision("abc")
        answer = await answered(request)
    assert (answer.status_code, answer.json()["sandbox_url"]) == (202, URL)
    assert (answer.headers["Location"], answer.headers["Preference-Applied"]) == ("/api/sandboxes/abc", "wait=45")
    assert "Retry-After" not in answer.headers
    assert answer.headers["ETag"] == (await api.get("/api/sandboxes/abc")).headers["ETag"]


async def test_create_with_cluster_ip(serve: Serve, provision: Provision):
    """A URL that is known beforehand is not one before its Service is made: a create waits for that."""
    api = await serve(SANDBOX_SERVICE_TYPE="ClusterIP")
    async with waits(api, "POST") as request:
        await provision("abc")
        assert (await answered(request)).json()["sandbox_url"] == URL


async def test_create_until_it_has_failed(api: httpx.AsyncClient, evolve: Evolve):
    """A create that waits is told as soon as there will be no URL, and why."""
    async with waits(api, "POST") as request:
        await evolve("abc", status=Status.FAILED, reason=Reason.INVALID, message="no such class")
        answer = await answered(request)
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["sandbox_url"], shown["status"], shown["reason"]) == (None, "Failed", "Invalid")


async def test_read_until_there_is_a_url(api: httpx.AsyncClient, evolve: Evolve, provision: Provision):
    """A read that knows nothing yet waits for the URL."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waits(api, "GET") as request:
        await evolve("abc", message="scheduling")
        await provision("abc")
        answer = await answered(request)
    assert (answer.status_code, answer.json()["sandbox_url"]) == (200, URL)
    assert answer.headers["Preference-Applied"] == "wait=60"


async def test_read_until_the_next_change(api: httpx.AsyncClient, evolve: Evolve, provision: Provision):
    """A read that knows a state is answered with the next one, whatever has changed."""
    created = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    seen = [created.headers["ETag"]]
    steps: list[Callable[[], Awaitable[Sandbox]]] = [
        lambda: evolve("abc", message="scheduling"),
        lambda: provision("abc"),
        lambda: evolve("abc", status=Status.RUNNING),
        lambda: evolve("abc", ready=True),
        lambda: evolve("abc", ready=False),
    ]
    for step in steps:
        async with waits(api, "GET", If_None_Match=seen[-1]) as request:
            record = await step()
            answer = await answered(request)
        assert (answer.status_code, answer.json()["message"]) == (200, record.message)
        assert (answer.json()["status"], answer.json()["ready"]) == (record.status, record.ready)
        seen.append(answer.headers["ETag"])
    assert len(set(seen)) == 6


async def test_read_until_the_next_life(api: httpx.AsyncClient, evolve: Evolve):
    """A read that knows a life that has failed is answered when its id begins another."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=Status.FAILED)
    etag = (await api.get("/api/sandboxes/abc")).headers["ETag"]
    async with waits(api, "GET", If_None_Match=etag) as request:
        await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
        assert (await answered(request)).json()["generation"] == 2


async def test_delete_until_it_is_gone(api: httpx.AsyncClient, store: Store):
    """A delete that waits is answered when all of the sandbox is gone."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waits(api, "DELETE") as request:
        await forget(store, "abc")
        answer = await answered(request)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    assert answer.headers["Preference-Applied"] == "wait=60"


async def test_delete_until_another_life(api: httpx.AsyncClient):
    """A delete that waits is answered, too, when its id has begun another life: what it meant is over."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waits(api, "DELETE") as request:
        await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
        assert (await answered(request)).status_code == 200
    assert (await api.get("/api/sandboxes/abc")).json()["generation"] == 2


async def test_a_second_delete_waits_too(api: httpx.AsyncClient, store: Store):
    """Who deletes what is being deleted already may wait for its end as well."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await api.delete("/api/sandboxes/abc")
    async with waits(api, "DELETE") as request:
        await forget(store, "abc")
        assert (await answered(request)).status_code == 200


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_deleted_meanwhile(api: httpx.AsyncClient, method: str):
    """Who waits for a sandbox that is deleted meanwhile is told so at once."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waits(api, method) as request:
        await api.delete("/api/sandboxes/abc")
        answer = await answered(request)
    assert answer.status_code == 404
    assert (answer.json()["code"], answer.json()["status"]) == ("sandbox_not_found", "Terminating")


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_gone_meanwhile(api: httpx.AsyncClient, store: Store, method: str):
    """Who waits for a sandbox whose record vanishes is told so at once."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waits(api, method) as request:
        await forget(store, "abc")
        answer = await answered(request)
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


async def test_deleted_after_it_was_seen(api: httpx.AsyncClient, provision: Provision):
    """A delete is something newer to who waits for that."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await provision("abc")
    etag = (await api.get("/api/sandboxes/abc")).headers["ETag"]
    async with waits(api, "GET", If_None_Match=etag) as request:
        await api.delete("/api/sandboxes/abc")
        answer = await answered(request)
    assert (answer.status_code, answer.json()["status"]) == (404, "Terminating")


async def test_nothing_to_wait_for(api: httpx.AsyncClient, provision: Provision):
    """Where what is waited for is so already, or never will be, the answer comes at once."""
    async with asyncio.timeout(SECONDS):
        assert (await api.get("/api/sandboxes/abc", headers=LONG)).status_code == 404
        assert (await api.delete("/api/sandboxes/abc", headers=LONG)).status_code == 200
        created = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
        await provision("abc")
        again = await api.post("/api/sandboxes", json={"sandbox_id": "abc"}, headers=LONG)
        assert (again.status_code, again.json()["sandbox_url"]) == (202, URL)
        assert (await api.get("/api/sandboxes/abc", headers=LONG)).json()["sandbox_url"] == URL
        earlier = {**LONG, "If-None-Match": created.headers["ETag"]}
        assert (await api.get("/api/sandboxes/abc", headers=earlier)).status_code == 200
        await api.delete("/api/sandboxes/abc")
        gone = await api.get("/api/sandboxes/abc", headers=LONG)
        assert (gone.status_code, gone.json()["status"]) == (404, "Terminating")


async def test_nothing_happens(api: httpx.AsyncClient, provision: Provision):
    """At the end of its wait a request is answered with what there is then."""
    for sandbox_id in ("read", "dying"):
        await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
    known = await api.post("/api/sandboxes", json={"sandbox_id": "known"})
    await provision("known")
    known = await api.get("/api/sandboxes/known")
    async with asyncio.timeout(SECONDS):
        create, read, same, delete = await asyncio.gather(
            api.post("/api/sandboxes", json={"sandbox_id": "create"}, headers=SHORT),
            api.get("/api/sandboxes/read", headers=SHORT),
            api.get("/api/sandboxes/known", headers={**SHORT, "If-None-Match": known.headers["ETag"]}),
            api.delete("/api/sandboxes/dying", headers=SHORT),
        )
    assert (create.status_code, create.json()["sandbox_url"], create.headers["Retry-After"]) == (202, None, "1")
    assert (read.status_code, read.json()["sandbox_url"]) == (200, None)
    assert (same.status_code, same.content, same.headers["ETag"]) == (304, b"", known.headers["ETag"])
    assert (delete.status_code, delete.json()) == (200, {"ok": True, "sandbox_id": "dying"})
    assert {answer.headers["Preference-Applied"] for answer in (create, read, same, delete)} == {"wait=1"}
    assert waiters(api) == {}


async def test_a_caller_who_leaves(api: httpx.AsyncClient):
    """Nobody is left registered who does not wait any more."""
    async with waits(api, "POST") as request:
        request.cancel()
        await asyncio.wait([request])
    assert waiters(api) == {}


async def test_many_for_one(api: httpx.AsyncClient, provision: Provision):
    """All who wait for one sandbox are answered by its one change, and no one is left registered."""
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        create = [
            group.create_task(api.post("/api/sandboxes", json={"sandbox_id": "abc"}, headers=LONG)) for _ in range(20)
        ]
        await eventually(lambda: waiters(api) == {"abc": 20})
        read = [group.create_task(api.get("/api/sandboxes/abc", headers=LONG)) for _ in range(20)]
        await eventually(lambda: waiters(api) == {"abc": 40})
        await provision("abc")
    assert {task.result().json()["sandbox_url"] for task in [*create, *read]} == {URL}
    assert waiters(api) == {}


class LateStore(Store):
    """What it reads has changed, and the change was told, by the time that its reader gets to see it."""

    overtake: Callable[[], Awaitable[object]] | None = None

    async def get(self, sandbox_id: str) -> Sandbox | None:
        found = await super().get(sandbox_id)
        if (overtake := self.overtake) is not None:
            self.overtake = None
            await overtake()
        return found


async def test_no_change_is_lost(store: Store, serve: Serve):
    """A change between a waiter's look and its wait wakes it all the same."""
    late = LateStore(store.redis, store._clock)
    api = await serve(late)
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})

    async def overtake() -> None:
        if not waiters(api):  # the look of the request itself, which does not wait yet
            late.overtake = overtake
            return
        (event,) = waiting_of(api)._waiters["abc"]
        await make_provisioned(store, "abc")
        await eventually(event.is_set)

    late.overtake = overtake
    async with asyncio.timeout(SECONDS):
        assert (await api.get("/api/sandboxes/abc", headers=LONG)).json()["sandbox_url"] == URL


# The real server only: its statistics, its connections, its absence.


async def commands(redis: ArqRedis) -> Counter[str]:
    """How often each command was called so far, but for those that ask for this."""
    found = await redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in found.items()}
    return Counter({name: count for name, count in calls.items() if name != "info"})


real = pytest.mark.parametrize("store", ["valkey"], indirect=True)
elsewhere = pytest.mark.parametrize("store", ["fakeredis"], indirect=True)
"""The API of the test is on a Valkey of its own."""


class Crowd:
    """Requests that wait, for a number of sandboxes each for a number of times, and have all looked once."""

    def __init__(self, api: httpx.AsyncClient, store: Store) -> None:
        self.api, self.store = api, store
        self.tasks: dict[str, list[Request]] = {}

    async def gather(self, group: asyncio.TaskGroup, ids: list[str], each: int) -> None:
        for sandbox_id in ids:
            await self.api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        for sandbox_id in ids:
            path = f"/api/sandboxes/{sandbox_id}"
            self.tasks[sandbox_id] = [group.create_task(self.api.get(path, headers=LONG)) for _ in range(each)]
        await eventually(lambda: waiters(self.api) == dict.fromkeys(ids, each))
        await self.api.get(f"/api/sandboxes/{ids[0]}", headers=SHORT)  # by whose end all have looked

    async def release(self, sandbox_id: str) -> None:
        await make_provisioned(self.store, sandbox_id)
        await asyncio.wait(self.tasks[sandbox_id], timeout=SECONDS)


@real
async def test_waiting_costs_nothing(serve: Serve, store: Store, valkey: ArqRedis):
    """While nothing happens, two hundred who wait cost no command: not even in longer than a socket's timeout (5 s).

    What passes meanwhile is one request that waits 6 s, for nothing, and costs three reads.
    """
    api = await serve()
    crowd = Crowd(api, store)
    ids = [f"s{number}" for number in range(20)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        await crowd.gather(group, ids, each=10)
        await api.post("/api/sandboxes", json={"sandbox_id": "quiet"})
        before = await commands(valkey)
        await api.get("/api/sandboxes/quiet", headers={"Prefer": "wait=6"})
        spent = await commands(valkey) - before
        for sandbox_id in ids:
            await crowd.release(sandbox_id)
    assert spent == {"get": 3}
    assert waiters(api) == {}


@real
async def test_only_those_concerned(serve: Serve, store: Store, valkey: ArqRedis):
    """A change of one sandbox wakes those who wait for it, once each, and costs nobody else a command."""
    api = await serve()
    crowd = Crowd(api, store)
    ids = [f"s{number}" for number in range(10)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        await crowd.gather(group, ids, each=10)
        before = await commands(valkey)
        await crowd.release("s3")
        spent = await commands(valkey) - before
        assert all(task.done() for task in crowd.tasks["s3"])
        assert waiters(api) == dict.fromkeys((i for i in ids if i != "s3"), 10)
        for sandbox_id in ids:
            await crowd.release(sandbox_id)
    # The step itself reads once, and its script once more; `eval…` varies with what the script cache knows.
    assert spent["get"] == 10 + 2
    assert waiters(api) == {}


@real
async def test_one_subscription(api: httpx.AsyncClient, valkey: ArqRedis):
    """However many wait, the process has one subscription."""
    async with waits(api, "POST", "a"), waits(api, "POST", "b"), waits(api, "GET", "b"):
        assert await valkey.pubsub_numsub(keys.CHANGES) == [(keys.CHANGES.encode(), 1)]


@real
async def test_a_subscription_that_broke(serve: Serve, store: Store, valkey: ArqRedis):
    """What happened while the subscription was broken is seen as soon as it is mended: all who wait look again."""
    api = await serve()
    async with waits(api, "POST") as request:
        await eventually_subscribed(valkey)
        record = await store.get("abc")
        assert record is not None
        unheard = provisioned(record, ProvisionedObjects("sandbox-abc", "uid", "service", URL), now=store.now())
        await valkey.set("sandbox:abc", msgspec.json.encode(unheard))
        await valkey.client_kill_filter(_type="pubsub")
        assert (await answered(request)).json()["sandbox_url"] == URL


async def eventually_subscribed(redis: ArqRedis) -> None:
    async with asyncio.timeout(SECONDS):
        while await redis.pubsub_numsub(keys.CHANGES) == [(keys.CHANGES.encode(), 0)]:
            await asyncio.sleep(0.005)


@real
async def test_rubbish_on_the_channel(serve: Serve, store: Store, valkey: ArqRedis):
    """What others say on the channel, text or not, stops nobody from being woken."""
    api = await serve()
    async with waits(api, "POST") as request:
        await eventually_subscribed(valkey)
        for rubbish in (b"", b"nobody", b"x" * 100_000, b"\xff\xfe"):
            await valkey.publish(keys.CHANGES, rubbish)
        await make_provisioned(store, "abc")
        async with asyncio.timeout(3):
            assert (await request).json()["sandbox_url"] == URL


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    async with connect(read_settings({"REDIS_URL": url}), FAIL_FAST) as redis:
        yield Store(redis)


@elsewhere
async def test_redis_away(serve: Serve, start_valkey: StartValkey):
    """When Redis goes away during a wait, its end is 503, neither a hang nor a guess; back again, it is as before."""
    server = start_valkey()
    async with store_at(server.url) as store:
        api = await serve(store)
        for sandbox_id in ("b", "c"):
            await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        async with (
            waits(api, "POST", "a", "wait=2") as create,
            waits(api, "GET", "b", "wait=2") as read,
            waits(api, "DELETE", "c", "wait=2") as delete,
        ):
            server.stop()
            for request in (create, read, delete):
                answer = await answered(request)
                assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
                assert answer.headers["Retry-After"] == "1"
        assert waiters(api) == {}
        server.start()
        async with waits(api, "POST", "d") as request:
            await make_provisioned(store, "d")
            assert (await answered(request)).json()["sandbox_url"] == URL


@elsewhere
async def test_redis_restarted(serve: Serve, start_valkey: StartValkey):
    """When Redis is restarted during a wait, what happens afterwards, or happened unheard, ends the wait."""
    server = start_valkey("--appendonly", "yes")
    async with store_at(server.url) as store:
        api = await serve(store)
        async with waits(api, "POST", "a") as first:
            server.stop()
            server.start()
            await make_provisioned(store, "a")
            assert (await answered(first)).json()["sandbox_url"] == URL
        async with waits(api, "POST", "b") as second:
            await make_provisioned(store, "b")
            assert (await answered(second)).json()["sandbox_url"] == URL
