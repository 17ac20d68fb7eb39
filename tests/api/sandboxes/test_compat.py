"""DEERFLOW_COMPAT=true, for today's client: a 2xx has a URL, and nothing is said on which it deletes what lives."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httpx
import pytest
from msgspec.structs import replace

from api.state.app_state import state_of
from shared.sandbox.record import Reason, Sandbox, Status
from shared.sandbox.transitions import ProvisionedObjects, provisioned
from shared.store.store import Store
from shared.store.update import Update
from tests.api.conftest import Evolve, Serve

pytestmark = pytest.mark.anyio

URL = "http://10.0.0.7:30123"
CLUSTER_IP_URL = "http://sandbox-abc-svc.deer-flow.svc.cluster.local:8080"
SECONDS = 5.0
"""An upper bound for what comes at once."""
ABC = "/api/sandboxes/abc"
ENDS = [Status.FAILED, Status.SUCCEEDED]

Make = Callable[..., Awaitable[Sandbox]]


@pytest.fixture
async def api(serve: Serve) -> httpx.AsyncClient:
    return await serve(DEERFLOW_COMPAT="true")


@pytest.fixture
async def plain(serve: Serve) -> httpx.AsyncClient:
    """An API on the same store that holds no create."""
    return await serve()


@pytest.fixture
def made(store: Store) -> Make:
    """Pod and Service are made: the record has its URL, and these fields."""

    async def write(sandbox_id: str = "abc", **fields: Any) -> Sandbox:
        def mutate(record: Sandbox | None) -> Update:
            assert record is not None
            done = provisioned(
                record, ProvisionedObjects("sandbox-abc", "uid", "service", record.url or URL), now=store.now()
            )
            return Update(replace(done, **fields))

        outcome = await store.create_or_update(sandbox_id, mutate)
        assert outcome.record is not None
        return outcome.record

    return write


async def held(api: httpx.AsyncClient, call: Awaitable[httpx.Response]) -> asyncio.Task[httpx.Response]:
    """The request, which waits by now."""
    app: Any = cast(httpx.ASGITransport, api._transport).app
    waiting = state_of(app).notifier
    before = sum(len(events) for events in waiting._waiters.values())
    request = asyncio.ensure_future(call)
    async with asyncio.timeout(SECONDS):
        while sum(len(events) for events in waiting._waiters.values()) == before and not request.done():
            await asyncio.sleep(0.005)
    assert not request.done(), request.result().text
    return cast("asyncio.Task[httpx.Response]", request)


async def answered(request: Awaitable[httpx.Response]) -> httpx.Response:
    async with asyncio.timeout(SECONDS):
        return await request


def is_not_ready(answer: httpx.Response) -> bool:
    problem = answer.json()
    return (
        (answer.status_code, problem["code"], problem["status"]) == (503, "sandbox_not_ready", 503)
        and "sandbox_url" not in problem
        and answer.headers["Retry-After"] == "1"
    )


async def test_create(api: httpx.AsyncClient, made: Make, evolve: Evolve):
    """A create is held until there is a URL, and is then 200."""
    request = await held(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    await evolve("abc", reason=Reason.QUOTA_EXCEEDED, message="wait a bit")
    await made()
    answer = await answered(request)
    assert answer.status_code == 200
    assert {key: answer.json()[key] for key in ("sandbox_id", "sandbox_url", "status")} == {
        "sandbox_id": "abc",
        "sandbox_url": URL,
        "status": "Pending",
    }


async def test_create_with_cluster_ip(serve: Serve, made: Make):
    """A URL that is known beforehand is none before its Service is made."""
    api = await serve(DEERFLOW_COMPAT="true", SANDBOX_SERVICE_TYPE="ClusterIP")
    request = await held(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    assert is_not_ready(await answered(api.get(ABC, headers={"Prefer": "wait=0"})))
    await made()
    answer = await answered(request)
    assert (answer.status_code, answer.json()["sandbox_url"]) == (200, CLUSTER_IP_URL)


@pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.UNKNOWN])
async def test_create_what_is_there(api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make, status: Status):
    """What has a URL already is named at once."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await made(status=status)
    answer = await answered(api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    assert (answer.status_code, answer.json()["sandbox_url"], answer.json()["status"]) == (200, URL, status)


@pytest.mark.parametrize("service_type", ["NodePort", "ClusterIP"])
@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("is_made", [False, True])
async def test_create_that_fails(serve: Serve, evolve: Evolve, service_type: str, status: Status, is_made: bool):
    """A create of what comes to an end is 503 at once, with the cause, whether or not it had a URL."""
    api = await serve(DEERFLOW_COMPAT="true", SANDBOX_SERVICE_TYPE=service_type)
    request = await held(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    made_by_then = {"url": URL, "service_uid": "service"} if is_made else {}
    await evolve("abc", status=status, reason=Reason.INVALID, message="no such class", **made_by_then)
    answer = await answered(request)
    assert is_not_ready(answer)
    assert "no such class" in answer.json()["detail"]


async def test_create_what_is_deleted_meanwhile(api: httpx.AsyncClient):
    """A create of what is deleted meanwhile is not there, at once."""
    request = await held(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    await api.delete(ABC)
    answer = await answered(request)
    assert (answer.status_code, answer.json()["status"]) == (404, "Terminating")


@pytest.mark.parametrize("status", [*ENDS, Status.TERMINATING])
async def test_create_after_the_end(
    api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make, evolve: Evolve, status: Status
):
    """A create of what is over waits for the next life's URL, and never gives the last one's."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await made(url="http://10.0.0.7:31111")
    await evolve("abc", status=status)
    request = await held(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    await made()
    answer = await answered(request)
    assert (answer.status_code, answer.json()["sandbox_url"], answer.json()["generation"]) == (200, URL, 2)


async def test_create_with_a_shorter_wait(api: httpx.AsyncClient):
    """Who says how long to wait for a create is answered then: 503, for there is no URL."""
    async with asyncio.timeout(3):
        assert is_not_ready(await api.post("/api/sandboxes", json={"sandbox_id": "abc"}, headers={"Prefer": "wait=1"}))


async def test_nothing_happens(api: httpx.AsyncClient, made: Make):
    """A read is held 8 s, less than the 10 s after which the client gives up, and is 503 then; a create longer."""
    create = await held(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    began = time.monotonic()
    assert is_not_ready(await api.get(ABC))
    assert 7.9 < time.monotonic() - began < 9.5
    assert not create.done()
    await made()
    assert (await answered(create)).status_code == 200


@pytest.mark.parametrize("wait", ["wait=0", "wait=1"])
async def test_read_with_a_shorter_wait(api: httpx.AsyncClient, plain: httpx.AsyncClient, wait: str):
    """Who says how long to wait for a read is answered then."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert is_not_ready(await answered(api.get(ABC, headers={"Prefer": wait})))


@pytest.mark.parametrize("headers", [{}, {"Prefer": "wait=60"}])
async def test_read_until_there_is_a_url(
    api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make, headers: dict[str, str]
):
    """A read is held until there is a URL, and the Pod runs: on a 200 that says Pending, the client would delete it."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    request = await held(api, api.get(ABC, headers=headers))
    await made()
    await made(status=Status.RUNNING)
    answer = await answered(request)
    assert (answer.status_code, answer.json()["sandbox_url"]) == (200, URL)
    assert answer.headers.get("Preference-Applied") == headers.get("Prefer")


async def test_read(api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make):
    """What runs and has a URL is shown at once."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await made(status=Status.RUNNING)
    answer = await answered(api.get(ABC))
    assert (answer.status_code, answer.json()["sandbox_url"], answer.json()["status"]) == (200, URL, "Running")


async def test_read_what_nobody_knows(api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make):
    """A sandbox on a node that is not heard of is neither alive nor dead to the client: 503, on which it keeps it."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await made(status=Status.UNKNOWN)
    assert is_not_ready(await answered(api.get(ABC)))


@pytest.mark.parametrize("status", ENDS)
async def test_read_what_is_over(
    api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make, evolve: Evolve, status: Status
):
    """What is over is 404 to a read, at once and also to one that is held; the problem says how it ended."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    request = await held(api, api.get(ABC))
    await evolve("abc", status=status, reason=Reason.POD_FAILED, message="exit 1")
    for answer in (await answered(request), await answered(api.get(ABC))):
        assert (answer.status_code, answer.json()["status"]) == (404, status)
        assert "exit 1" in answer.json()["detail"]
    await made(status=status)
    assert (await answered(api.get(ABC))).status_code == 404


@pytest.mark.parametrize("has_url", [False, True])
async def test_read_what_is_being_deleted(api: httpx.AsyncClient, plain: httpx.AsyncClient, made: Make, has_url: bool):
    """What is being deleted is 404 at once, whether or not it had its URL."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    if has_url:
        await made(status=Status.RUNNING)
    await api.delete(ABC)
    answer = await answered(api.get(ABC))
    assert (answer.status_code, answer.json()["status"]) == (404, "Terminating")


async def test_read_what_is_not_there(api: httpx.AsyncClient):
    """What was never there is 404 at once."""
    answer = await answered(api.get(ABC))
    assert (answer.status_code, answer.json()["status"]) == (404, 404)


async def test_delete(api: httpx.AsyncClient, plain: httpx.AsyncClient, store: Store):
    """A delete is answered at once, unless it says that it waits."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    answer = await answered(api.delete(ABC))
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    request = await held(api, api.delete(ABC, headers={"Prefer": "wait=60"}))
    await store.create_or_update("abc", lambda record: Update(None) if record else None)
    answer = await answered(request)
    assert (answer.status_code, answer.headers["Preference-Applied"]) == (200, "wait=60")


async def test_list(api: httpx.AsyncClient, plain: httpx.AsyncClient, evolve: Evolve):
    """The list leaves out what is over or being deleted, in one answer and in pages, unless it is asked for."""
    for status in Status:
        await plain.post("/api/sandboxes", json={"sandbox_id": status.lower()})
        await evolve(status.lower(), status=status, url=URL)

    async def listed(**query: Any) -> set[str]:
        answer = (await api.get("/api/sandboxes", params=query)).json()
        assert answer["count"] == len(answer["sandboxes"])
        return {sandbox["sandbox_id"] for sandbox in answer["sandboxes"]}

    assert await listed() == await listed(limit=100) == {"pending", "running", "unknown"}
    for status in Status:
        assert await listed(status=status) == await listed(status=status, limit=100) == {status.lower()}
