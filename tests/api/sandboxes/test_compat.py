"""DEERFLOW_COMPAT=true, for today's client: a 2xx has a URL, and no answer makes the client delete a live sandbox."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from api.http.prefer import COMPAT_CREATE_SECONDS, COMPAT_READ_SECONDS
from api.state.notifier import RecordNotifier
from shared.sandbox.record import Reason, Sandbox, Status
from shared.store.store import Store
from tests.api.conftest import URL, Api, Evolve, Serve, provision
from tests.support.eventually import eventually_true, within
from tests.support.store import remove

pytestmark = pytest.mark.anyio

CLUSTER_IP_URL = "http://sandbox-abc-svc.deer-flow.svc.cluster.local:8080"
ABC = "/api/sandboxes/abc"
ENDS = [Status.FAILED, Status.SUCCEEDED]
CLIENT_CREATE_SECONDS = 30.0
CLIENT_READ_SECONDS = 10.0
"""Timeouts of today's client."""


@pytest.fixture
async def api(serve: Serve) -> Api:
    return await serve(DEERFLOW_COMPAT="true")


@pytest.fixture
async def plain(serve: Serve) -> Api:
    """Serve an API on the same store that holds no create."""
    return await serve()


async def waiting_request(api: Api, call: Awaitable[httpx.Response]) -> "asyncio.Future[httpx.Response]":
    """Send a request, and return it when it waits."""
    before = sum(api.waiting().values())
    request = asyncio.ensure_future(call)
    await eventually_true(lambda: sum(api.waiting().values()) > before or request.done(), "the request waits")
    assert not request.done(), request.result().text
    return request


class BriefNotifier(RecordNotifier):
    """Ends each wait at once, and records how many seconds it was to take."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.seconds: list[float] = []

    async def wait_for(
        self, sandbox_id: str, condition: Callable[[Sandbox | None], bool], seconds: float
    ) -> Sandbox | None:
        self.seconds.append(seconds)
        return await super().wait_for(sandbox_id, condition, 0)


@pytest.fixture
def brief(api: Api, store: Store) -> BriefNotifier:
    notifier = BriefNotifier(store)
    api.app.state.services = api.state._replace(notifier=notifier)
    return notifier


def is_not_ready(response: httpx.Response) -> bool:
    problem = response.json()
    return (
        (response.status_code, problem["code"], problem["status"]) == (503, "sandbox_not_ready", 503)
        and "sandbox_url" not in problem
        and response.headers["Retry-After"] == "1"
    )


async def test_create_is_answered_200_as_soon_as_there_is_a_url(api: Api, store: Store, evolve: Evolve):
    request = await waiting_request(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    await evolve("abc", reason=Reason.QUOTA_EXCEEDED, message="wait a bit")
    await provision(store, "abc")
    response = await within(request)
    assert response.status_code == 200
    assert {key: response.json()[key] for key in ("sandbox_id", "sandbox_url", "status")} == {
        "sandbox_id": "abc",
        "sandbox_url": URL,
        "status": "Pending",
    }


async def test_create_with_cluster_ip_is_answered_when_the_service_exists(serve: Serve, store: Store):
    """The URL is known before the Service exists, and does not work before."""
    api = await serve(DEERFLOW_COMPAT="true", SANDBOX_SERVICE_TYPE="ClusterIP")
    request = await waiting_request(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    assert is_not_ready(await within(api.get(ABC, headers={"Prefer": "wait=0"})))
    await provision(store, "abc")
    response = await within(request)
    assert (response.status_code, response.json()["sandbox_url"]) == (200, CLUSTER_IP_URL)


@pytest.mark.parametrize("status", [Status.PENDING, Status.RUNNING, Status.UNKNOWN])
async def test_create_of_a_sandbox_with_a_url_is_answered_at_once(api: Api, plain: Api, store: Store, status: Status):
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await provision(store, "abc", status=status)
    response = await within(api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    assert (response.status_code, response.json()["sandbox_url"], response.json()["status"]) == (200, URL, status)


@pytest.mark.parametrize("service_type", ["NodePort", "ClusterIP"])
@pytest.mark.parametrize("status", ENDS)
@pytest.mark.parametrize("has_url", [False, True])
async def test_create_of_a_sandbox_that_ends_is_answered_503_at_once(
    serve: Serve, evolve: Evolve, service_type: str, status: Status, has_url: bool
):
    """The answer names the cause, whether or not the sandbox had a URL."""
    api = await serve(DEERFLOW_COMPAT="true", SANDBOX_SERVICE_TYPE=service_type)
    request = await waiting_request(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    objects = {"url": URL, "service_uid": "service"} if has_url else {}
    await evolve("abc", status=status, reason=Reason.INVALID, message="no such class", **objects)
    response = await within(request)
    assert is_not_ready(response)
    assert "no such class" in response.json()["detail"]


async def test_create_of_a_sandbox_that_is_deleted_is_answered_404_at_once(api: Api):
    request = await waiting_request(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    await api.delete(ABC)
    response = await within(request)
    assert (response.status_code, response.json()["status"]) == (404, "Terminating")


@pytest.mark.parametrize("status", [*ENDS, Status.TERMINATING])
async def test_create_after_the_end_waits_for_the_url_of_the_next_incarnation(
    api: Api, plain: Api, store: Store, evolve: Evolve, status: Status
):
    """The URL of the previous incarnation would reach nothing, or another sandbox."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await provision(store, "abc", url="http://10.0.0.7:31111")
    await evolve("abc", status=status)
    request = await waiting_request(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    await provision(store, "abc")
    response = await within(request)
    assert (response.status_code, response.json()["sandbox_url"], response.json()["generation"]) == (200, URL, 2)


async def test_create_with_a_requested_wait_waits_that_long(api: Api, brief: BriefNotifier):
    response = await api.post("/api/sandboxes", json={"sandbox_id": "abc"}, headers={"Prefer": "wait=1"})
    assert is_not_ready(response)
    assert brief.seconds == [1]


async def test_create_and_read_wait_shorter_than_the_client(api: Api, brief: BriefNotifier):
    """After its own timeout, the client would give up and lose the answer."""
    assert is_not_ready(await api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    assert is_not_ready(await api.get(ABC))
    assert brief.seconds == [COMPAT_CREATE_SECONDS, COMPAT_READ_SECONDS]
    assert 8.0 <= COMPAT_READ_SECONDS <= CLIENT_READ_SECONDS - 1
    assert COMPAT_READ_SECONDS < COMPAT_CREATE_SECONDS <= CLIENT_CREATE_SECONDS - 1


async def test_create_waits_on_when_a_read_has_ended(api: Api, store: Store):
    create = await waiting_request(api, api.post("/api/sandboxes", json={"sandbox_id": "abc"}))
    assert is_not_ready(await within(api.get(ABC, headers={"Prefer": "wait=1"})))
    assert not create.done()
    await provision(store, "abc")
    assert (await within(create)).status_code == 200


@pytest.mark.parametrize(("prefer", "seconds"), [("wait=0", []), ("wait=1", [1])])
async def test_read_with_a_requested_wait_waits_that_long(
    api: Api, plain: Api, brief: BriefNotifier, prefer: str, seconds: list[float]
):
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    assert is_not_ready(await api.get(ABC, headers={"Prefer": prefer}))
    assert brief.seconds == seconds


@pytest.mark.parametrize("headers", [{}, {"Prefer": "wait=60"}])
async def test_read_is_answered_when_the_pod_runs_and_has_a_url(
    api: Api, plain: Api, store: Store, headers: dict[str, str]
):
    """On a 200 with the status Pending, the client would delete the sandbox."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    request = await waiting_request(api, api.get(ABC, headers=headers))
    await provision(store, "abc")
    await provision(store, "abc", status=Status.RUNNING)
    response = await within(request)
    assert (response.status_code, response.json()["sandbox_url"]) == (200, URL)
    assert response.headers.get("Preference-Applied") == headers.get("Prefer")


async def test_read_of_a_running_sandbox_is_answered_at_once(api: Api, plain: Api, store: Store):
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await provision(store, "abc", status=Status.RUNNING)
    response = await within(api.get(ABC))
    assert (response.status_code, response.json()["sandbox_url"], response.json()["status"]) == (200, URL, "Running")


async def test_read_of_an_unknown_status_is_answered_503(api: Api, plain: Api, store: Store):
    """The node does not answer. The client keeps the sandbox on 503, and would delete it on 200."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    await provision(store, "abc", status=Status.UNKNOWN)
    assert is_not_ready(await within(api.get(ABC)))


@pytest.mark.parametrize("status", ENDS)
async def test_read_of_an_ended_sandbox_is_answered_404_with_its_status(
    api: Api, plain: Api, store: Store, evolve: Evolve, status: Status
):
    """A read that waits is answered when the sandbox ends."""
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    request = await waiting_request(api, api.get(ABC))
    await evolve("abc", status=status, reason=Reason.POD_FAILED, message="exit 1")
    for response in (await within(request), await within(api.get(ABC))):
        assert (response.status_code, response.json()["status"]) == (404, status)
        assert "exit 1" in response.json()["detail"]
    await provision(store, "abc", status=status)
    assert (await within(api.get(ABC))).status_code == 404


@pytest.mark.parametrize("has_url", [False, True])
async def test_read_of_a_deleted_sandbox_is_answered_404_at_once(api: Api, plain: Api, store: Store, has_url: bool):
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    if has_url:
        await provision(store, "abc", status=Status.RUNNING)
    await api.delete(ABC)
    response = await within(api.get(ABC))
    assert (response.status_code, response.json()["status"]) == (404, "Terminating")


async def test_read_of_a_missing_sandbox_is_answered_404_at_once(api: Api):
    response = await within(api.get(ABC))
    assert (response.status_code, response.json()["status"]) == (404, 404)


async def test_delete_is_answered_at_once_unless_it_requests_a_wait(api: Api, plain: Api, store: Store):
    await plain.post("/api/sandboxes", json={"sandbox_id": "abc"})
    response = await within(api.delete(ABC))
    assert (response.status_code, response.json()) == (200, {"ok": True, "sandbox_id": "abc"})
    request = await waiting_request(api, api.delete(ABC, headers={"Prefer": "wait=60"}))
    await remove(store, "abc")
    response = await within(request)
    assert (response.status_code, response.headers["Preference-Applied"]) == (200, "wait=60")


async def test_list_leaves_out_sandboxes_that_have_ended_unless_their_status_is_requested(
    api: Api, plain: Api, evolve: Evolve
):
    for status in Status:
        await plain.post("/api/sandboxes", json={"sandbox_id": status.lower()})
        await evolve(status.lower(), status=status, url=URL)

    async def listed(**query: Any) -> set[str]:
        body = (await api.get("/api/sandboxes", params=query)).json()
        assert body["count"] == len(body["sandboxes"])
        return {sandbox["sandbox_id"] for sandbox in body["sandboxes"]}

    assert await listed() == await listed(limit=100) == {"pending", "running", "unknown"}
    for status in Status:
        assert await listed(status=status) == await listed(status=status, limit=100) == {status.lower()}
