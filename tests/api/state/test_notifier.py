"""Requests that wait. An upper bound of seconds in a test is far below the wait that the request asks for."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from arq.connections import ArqRedis
from redis.asyncio import Redis

from shared.liveness.sync import ClusterSync
from shared.redis.connection import FAIL_FAST, connect
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, provisioned
from shared.settings import read_settings
from shared.store import keys
from shared.store.store import Store
from tests.api.conftest import URL, Api, Evolve, Serve, provision
from tests.conftest import Clock, StartValkey, observe
from tests.support.eventually import SECONDS, eventually, eventually_true, within
from tests.support.store import remove

pytestmark = pytest.mark.anyio

LONG = {"Prefer": "wait=60"}
SHORT = {"Prefer": "wait=1"}

Request = asyncio.Task[httpx.Response]


@pytest.fixture
def store(redis: Redis, clock: Clock) -> Store:
    return Store(redis, clock)


@asynccontextmanager
async def waiting_request(
    api: Api, method: str, sandbox_id: str = "abc", prefer: str = "wait=60", **headers: str
) -> AsyncIterator[Request]:
    """Send a request, and yield it when it waits. Cancel it at the end if it has no answer yet."""
    before = api.waiting().get(sandbox_id, 0)
    sent = {"Prefer": prefer, **{name.replace("_", "-"): value for name, value in headers.items()}}
    call = (
        api.post("/api/sandboxes", json={"sandbox_id": sandbox_id}, headers=sent)
        if method == "POST"
        else api.request(method, f"/api/sandboxes/{sandbox_id}", headers=sent)
    )
    request = asyncio.create_task(call)
    try:
        await eventually_true(
            lambda: request.done() or api.waiting().get(sandbox_id, 0) > before, f"{method} {sandbox_id} waits"
        )
        assert not request.done(), request.result().text
        yield request
    finally:
        request.cancel()
        await asyncio.wait([request])


async def test_waiting_create_is_answered_as_soon_as_there_is_a_url(api: Api, evolve: Evolve, store: Store):
    """Other changes before that do not end the wait."""
    async with waiting_request(api, "POST", prefer="wait=45") as request:
        await evolve("abc", reason=Reason.QUOTA_EXCEEDED, message="wait a bit")
        await provision(store, "abc")
        response = await within(request)
    assert (response.status_code, response.json()["sandbox_url"]) == (202, URL)
    assert (response.headers["Location"], response.headers["Preference-Applied"]) == ("/api/sandboxes/abc", "wait=45")
    assert "Retry-After" not in response.headers
    assert response.headers["ETag"] == (await api.get("/api/sandboxes/abc")).headers["ETag"]


async def test_waiting_create_with_cluster_ip_is_answered_when_the_service_exists(serve: Serve, store: Store):
    """The URL is known before the Service exists, and does not work before."""
    api = await serve(SANDBOX_SERVICE_TYPE="ClusterIP")
    async with waiting_request(api, "POST") as request:
        record = await provision(store, "abc")
        assert (await within(request)).json()["sandbox_url"] == record.url


async def test_waiting_create_is_answered_as_soon_as_the_sandbox_fails(api: Api, evolve: Evolve):
    """There will be no URL; the answer says why."""
    async with waiting_request(api, "POST") as request:
        await evolve("abc", status=Status.FAILED, reason=Reason.INVALID, message="no such class")
        response = await within(request)
    assert response.status_code == 200
    body = response.json()
    assert (body["sandbox_url"], body["status"], body["reason"]) == (None, "Failed", "Invalid")


async def test_waiting_read_without_etag_is_answered_as_soon_as_there_is_a_url(api: Api, evolve: Evolve, store: Store):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waiting_request(api, "GET") as request:
        await evolve("abc", message="scheduling")
        await provision(store, "abc")
        response = await within(request)
    assert (response.status_code, response.json()["sandbox_url"]) == (200, URL)
    assert response.headers["Preference-Applied"] == "wait=60"


async def test_waiting_read_with_etag_is_answered_at_any_change(api: Api, evolve: Evolve, store: Store):
    created = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    tags = [created.headers["ETag"]]
    changes: list[Callable[[], Awaitable[Sandbox]]] = [
        lambda: evolve("abc", message="scheduling"),
        lambda: provision(store, "abc"),
        lambda: evolve("abc", status=Status.RUNNING),
        lambda: evolve("abc", ready=True),
        lambda: evolve("abc", ready=False),
    ]
    for change in changes:
        async with waiting_request(api, "GET", If_None_Match=tags[-1]) as request:
            record = await change()
            response = await within(request)
        assert (response.status_code, response.json()["message"]) == (200, record.message)
        assert (response.json()["status"], response.json()["ready"]) == (record.status, record.ready)
        tags.append(response.headers["ETag"])
    assert len(set(tags)) == 6


async def test_waiting_read_with_etag_of_a_failed_incarnation_is_answered_at_the_next_one(api: Api, evolve: Evolve):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await evolve("abc", status=Status.FAILED)
    etag = (await api.get("/api/sandboxes/abc")).headers["ETag"]
    async with waiting_request(api, "GET", If_None_Match=etag) as request:
        await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
        assert (await within(request)).json()["generation"] == 2


async def test_waiting_delete_is_answered_when_the_record_is_gone(api: Api, store: Store):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waiting_request(api, "DELETE") as request:
        await remove(store, "abc")
        response = await within(request)
    assert (response.status_code, response.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    assert response.headers["Preference-Applied"] == "wait=60"


async def test_waiting_delete_is_answered_when_the_next_incarnation_starts(api: Api):
    """The incarnation that the caller deleted is over."""
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waiting_request(api, "DELETE") as request:
        await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
        assert (await within(request)).status_code == 200
    assert (await api.get("/api/sandboxes/abc")).json()["generation"] == 2


async def test_second_delete_waits_like_the_first(api: Api, store: Store):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await api.delete("/api/sandboxes/abc")
    async with waiting_request(api, "DELETE") as request:
        await remove(store, "abc")
        assert (await within(request)).status_code == 200


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_waiting_request_is_answered_404_at_once_when_the_sandbox_is_deleted(api: Api, method: str):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waiting_request(api, method) as request:
        await api.delete("/api/sandboxes/abc")
        response = await within(request)
    assert response.status_code == 404
    assert (response.json()["code"], response.json()["status"]) == ("sandbox_not_found", "Terminating")


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_waiting_request_is_answered_404_at_once_when_the_record_vanishes(api: Api, store: Store, method: str):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    async with waiting_request(api, method) as request:
        await remove(store, "abc")
        response = await within(request)
    assert (response.status_code, response.json()["status"]) == (404, 404)


async def test_waiting_read_with_etag_is_answered_404_at_a_delete(api: Api, store: Store):
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await provision(store, "abc")
    etag = (await api.get("/api/sandboxes/abc")).headers["ETag"]
    async with waiting_request(api, "GET", If_None_Match=etag) as request:
        await api.delete("/api/sandboxes/abc")
        response = await within(request)
    assert (response.status_code, response.json()["status"]) == (404, "Terminating")


async def test_request_whose_condition_holds_already_does_not_wait(api: Api, store: Store):
    """Neither does a request whose condition can never hold."""
    async with asyncio.timeout(SECONDS):
        assert (await api.get("/api/sandboxes/abc", headers=LONG)).status_code == 404
        assert (await api.delete("/api/sandboxes/abc", headers=LONG)).status_code == 200
        created = await api.post("/api/sandboxes", json={"sandbox_id": "abc"})
        await provision(store, "abc")
        repeated = await api.post("/api/sandboxes", json={"sandbox_id": "abc"}, headers=LONG)
        assert (repeated.status_code, repeated.json()["sandbox_url"]) == (202, URL)
        assert (await api.get("/api/sandboxes/abc", headers=LONG)).json()["sandbox_url"] == URL
        earlier = {**LONG, "If-None-Match": created.headers["ETag"]}
        assert (await api.get("/api/sandboxes/abc", headers=earlier)).status_code == 200
        await api.delete("/api/sandboxes/abc")
        deleted = await api.get("/api/sandboxes/abc", headers=LONG)
        assert (deleted.status_code, deleted.json()["status"]) == (404, "Terminating")


async def test_wait_that_ends_without_a_change_is_answered_with_the_present_state(api: Api, store: Store):
    for sandbox_id in ("read", "dying"):
        await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
    await api.post("/api/sandboxes", json={"sandbox_id": "known"})
    await provision(store, "known")
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
    assert {response.headers["Preference-Applied"] for response in (create, read, same, delete)} == {"wait=1"}
    assert api.waiting() == {}


async def test_caller_who_leaves_is_not_waiting_any_more(api: Api):
    async with waiting_request(api, "POST") as request:
        request.cancel()
        await asyncio.wait([request])
    assert api.waiting() == {}


async def test_one_change_answers_all_who_wait_for_a_sandbox(api: Api, store: Store):
    async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
        creates = [
            group.create_task(api.post("/api/sandboxes", json={"sandbox_id": "abc"}, headers=LONG)) for _ in range(20)
        ]
        await eventually_true(lambda: api.waiting() == {"abc": 20}, "20 creates wait")
        reads = [group.create_task(api.get("/api/sandboxes/abc", headers=LONG)) for _ in range(20)]
        await eventually_true(lambda: api.waiting() == {"abc": 40}, "20 reads wait as well")
        await provision(store, "abc")
    assert {task.result().json()["sandbox_url"] for task in [*creates, *reads]} == {URL}
    assert api.waiting() == {}


class LateStore(Store):
    """A store whose reader gets the record after `overtake` has changed it once more."""

    overtake: Callable[[], Awaitable[object]] | None = None

    async def get(self, sandbox_id: str) -> Sandbox | None:
        record = await super().get(sandbox_id)
        if (overtake := self.overtake) is not None:
            self.overtake = None
            await overtake()
        return record


async def test_change_between_the_read_and_the_wait_ends_the_wait(store: Store, clock: Clock, serve: Serve):
    late = LateStore(store.redis, clock)
    api = await serve(late)
    await api.post("/api/sandboxes", json={"sandbox_id": "abc"})

    async def overtake() -> None:
        if not api.waiting():  # the request reads once before it waits
            late.overtake = overtake
            return
        has_read = asyncio.Event()

        def is_provisioned(record: Sandbox | None) -> bool:
            has_read.set()
            return record is not None and record.is_provisioned

        witness = asyncio.create_task(api.state.notifier.wait_for("abc", is_provisioned, 60))
        await has_read.wait()
        await provision(store, "abc")
        await witness  # all who wait have been woken by now

    late.overtake = overtake
    response = await within(api.get("/api/sandboxes/abc", headers=LONG))
    assert response.json()["sandbox_url"] == URL


# On the real server only: its statistics, its connections, its absence.


async def commands(redis: ArqRedis) -> Counter[str]:
    """Return the number of calls of each command so far, without those of this function."""
    statistics = await redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stats["calls"] for name, stats in statistics.items()}
    return Counter({name: count for name, count in calls.items() if name != "info"})


on_valkey = pytest.mark.parametrize("open_redis", ["valkey"], indirect=True)


class Crowd:
    """Waiting requests: a number of them for each of some sandboxes. All have read once and wait for a change."""

    def __init__(self, api: Api, store: Store) -> None:
        self.api, self.store = api, store
        self.tasks: dict[str, list[Request]] = {}

    async def gather(self, group: asyncio.TaskGroup, ids: list[str], each: int) -> None:
        for sandbox_id in ids:
            await self.api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        for sandbox_id in ids:
            path = f"/api/sandboxes/{sandbox_id}"
            self.tasks[sandbox_id] = [group.create_task(self.api.get(path, headers=LONG)) for _ in range(each)]
        await eventually_true(lambda: self.api.waiting() == dict.fromkeys(ids, each), "all requests wait")
        await self.api.get(f"/api/sandboxes/{ids[0]}", headers=SHORT)  # when it ends, all others have read

    async def release(self, sandbox_id: str) -> None:
        await provision(self.store, sandbox_id)
        await asyncio.wait(self.tasks[sandbox_id], timeout=SECONDS)


@pytest.fixture
async def synced(redis: Redis, clock: Clock) -> None:
    """Mark the cluster as synced, so that no API asks Redis for the first sync."""
    await observe(redis, ClusterSync(redis, clock, "default"))


@on_valkey
@pytest.mark.usefixtures("synced")
async def test_waiting_requests_cost_no_command(serve: Serve, store: Store, valkey: ArqRedis):
    """The pause is longer than a socket's timeout (5 s), so that a subscription which times out would show.

    The request that makes the pause reads three times.
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
    assert api.waiting() == {}


@on_valkey
@pytest.mark.usefixtures("synced")
async def test_change_wakes_only_those_who_wait_for_its_sandbox(serve: Serve, store: Store, valkey: ArqRedis):
    """Each of them reads once; all others cost no command."""
    api = await serve()
    crowd = Crowd(api, store)
    ids = [f"s{number}" for number in range(10)]
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        await crowd.gather(group, ids, each=10)
        before = await commands(valkey)
        await crowd.release("s3")
        spent = await commands(valkey) - before
        assert all(task.done() for task in crowd.tasks["s3"])
        assert api.waiting() == dict.fromkeys((i for i in ids if i != "s3"), 10)
        for sandbox_id in ids:
            await crowd.release(sandbox_id)
    # The update reads once, and its script once more; `eval…` varies with what the script cache knows.
    assert spent["get"] == 10 + 2
    assert api.waiting() == {}


@on_valkey
async def test_process_has_one_subscription_for_all_waits(api: Api, valkey: ArqRedis):
    async with (
        waiting_request(api, "POST", "a"),
        waiting_request(api, "POST", "b"),
        waiting_request(api, "GET", "b"),
    ):
        assert await valkey.pubsub_numsub(keys.CHANGES) == [(keys.CHANGES.encode(), 1)]


@on_valkey
async def test_change_during_a_broken_subscription_ends_the_wait(serve: Serve, store: Store, valkey: ArqRedis):
    """When the subscription is back, all who wait read again."""
    api = await serve()
    async with waiting_request(api, "POST") as request:
        await until_subscribed(valkey)
        record = await store.get("abc")
        assert record is not None
        unpublished = provisioned(record, ProvisionedObjects("sandbox-abc", "uid", "service", URL), now=store.now())
        await valkey.set("sandbox:abc", msgspec.json.encode(unpublished))
        await valkey.client_kill_filter(_type="pubsub")
        assert (await within(request)).json()["sandbox_url"] == URL


async def until_subscribed(redis: ArqRedis) -> None:
    async def is_subscribed() -> bool:
        return bool(await redis.pubsub_numsub(keys.CHANGES) != [(keys.CHANGES.encode(), 0)])

    await eventually(is_subscribed, "the API has subscribed")


@on_valkey
async def test_unknown_messages_on_the_channel_are_ignored(serve: Serve, store: Store, valkey: ArqRedis):
    api = await serve()
    async with waiting_request(api, "POST") as request:
        await until_subscribed(valkey)
        for message in (b"", b"nobody", b"x" * 100_000, b"\xff\xfe"):
            await valkey.publish(keys.CHANGES, message)
        await provision(store, "abc")
        assert (await within(request)).json()["sandbox_url"] == URL


@asynccontextmanager
async def store_at(url: str) -> AsyncIterator[Store]:
    async with connect(read_settings({"REDIS_URL": url}), FAIL_FAST) as redis:
        yield Store(redis)


own_valkey = pytest.mark.parametrize("open_redis", ["fakeredis"], indirect=True)
"""For tests that start a Valkey of their own: they need no other one."""


@own_valkey
async def test_wait_ends_with_503_if_redis_goes_away(serve: Serve, start_valkey: StartValkey):
    """Neither a hang nor a guess. When Redis is back, waits work as before."""
    server = start_valkey()
    async with store_at(server.url) as store:
        api = await serve(store)
        for sandbox_id in ("b", "c"):
            await api.post("/api/sandboxes", json={"sandbox_id": sandbox_id})
        async with (
            waiting_request(api, "POST", "a", "wait=2") as create,
            waiting_request(api, "GET", "b", "wait=2") as read,
            waiting_request(api, "DELETE", "c", "wait=2") as delete,
        ):
            server.stop()
            for request in (create, read, delete):
                response = await within(request)
                assert (response.status_code, response.json()["code"]) == (503, "redis_unavailable")
                assert response.headers["Retry-After"] == "1"
        assert api.waiting() == {}
        server.start()
        async with waiting_request(api, "POST", "d") as request:
            await provision(store, "d")
            assert (await within(request)).json()["sandbox_url"] == URL


@own_valkey
async def test_wait_survives_a_restart_of_redis(serve: Serve, start_valkey: StartValkey):
    """A change right after the restart, when no API has subscribed yet, ends the wait as well."""
    server = start_valkey("--appendonly", "yes")
    async with store_at(server.url) as store:
        api = await serve(store)
        async with waiting_request(api, "POST", "a") as first:
            server.stop()
            server.start()
            await provision(store, "a")
            assert (await within(first)).json()["sandbox_url"] == URL
        async with waiting_request(api, "POST", "b") as second:
            await provision(store, "b")
            assert (await within(second)).json()["sandbox_url"] == URL
