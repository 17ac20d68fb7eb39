"""Faults of requests and watches, as a client sees them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]


async def test_error_fault_answers_with_its_status(client: Client):
    await client.faults({"kind": "error", "status": 503, "retry_after": 2, "verb": "list", "resource": "pods"})
    response = await client.list("pods")
    assert (response.status, response.body["reason"], response.headers["Retry-After"]) == (
        503,
        "ServiceUnavailable",
        "2",
    )
    assert (await client.list("services")).status == 200


async def test_error_fault_429_answers_in_plain_text(client: Client):
    """API priority and fairness answers without a Status."""
    await client.faults({"kind": "error", "status": 429, "retry_after": 1})
    response = await client.list("pods")
    assert (response.status, response.body) == (429, "Too many requests, please try again later.\n")
    assert response.headers["Retry-After"] == "1"


async def test_fault_with_times_strikes_that_often(client: Client):
    await client.faults({"kind": "error", "status": 500, "times": 2})
    statuses = [(await client.list("pods")).status for _ in range(4)]
    assert statuses == [500, 500, 200, 200]
    [rule] = (await client.call("GET", "/emulator/faults")).body
    assert rule["struck"] == 2


async def test_fault_with_share_strikes_part_of_requests(client: Client):
    await client.faults({"kind": "error", "share": 0.5})
    statuses = [(await client.list("pods")).status for _ in range(60)]
    assert 10 < statuses.count(500) < 50


async def test_fault_with_name_strikes_matching_creates(client: Client, pod: Make):
    await client.faults({"kind": "error", "verb": "create", "name": "^bad-"})
    assert (await client.create("pods", pod("bad-1"))).status == 500
    assert (await client.create("pods", pod("good-1"))).status == 201


async def test_access_review_under_permanent_403_is_denied(client: Client):
    """A fault that strikes only some requests does not deny access."""
    await client.faults(
        {"kind": "error", "status": 403, "verb": "watch", "resource": "pods", "namespace": "default"},
        {"kind": "error", "status": 403, "verb": "create", "resource": "pods", "times": 1},
        {"kind": "error", "status": 403, "verb": "get", "resource": "pods", "share": 0.5},
        {"kind": "error", "status": 503, "verb": "list", "resource": "pods"},
    )
    assert (await review(client, "watch", "pods"))["status"] == {"allowed": False}
    assert (await client.list("pods", "watch=true")).status == 403
    for verb in ("create", "get", "list"):
        assert (await review(client, verb, "pods"))["status"]["allowed"] is True
    assert (await review(client, "watch", "pods", "kube-system"))["status"]["allowed"] is True


async def review(client: Client, verb: str, resource: str, namespace: str = "default") -> dict[str, Any]:
    attributes = {"namespace": namespace, "verb": verb, "resource": resource}
    request = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
    response = await client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", request)
    assert response.status == 201
    body: dict[str, Any] = response.body
    return body


@pytest.mark.parametrize("kind", ["error", "reset"])
async def test_fault_after_write_loses_only_the_response(client: Client, pod: Make, kind: str):
    """The Pod exists, although the client got an error."""
    await client.faults({"kind": kind, "verb": "create", "after": True, "times": 1})
    try:
        assert (await client.create("pods", pod())).status == 500
    except httpx.TransportError:
        assert kind == "reset"
    assert (await client.get("pods", "p")).status == 200
    assert (await client.create("pods", pod())).status == 409


async def test_reset_fault_before_write_prevents_it(client: Client, pod: Make):
    await client.faults({"kind": "reset", "verb": "create", "times": 1})
    with pytest.raises(httpx.TransportError):
        await client.create("pods", pod())
    assert (await client.get("pods", "p")).status == 404


async def test_delay_fault_delays_response(client: Client):
    await client.faults({"kind": "delay", "seconds": 0.1, "times": 1})
    start_time = time.monotonic()
    await client.list("pods")
    assert time.monotonic() - start_time >= 0.1


async def test_unavailable_fault_ends_after_its_seconds(client: Client):
    await client.faults({"kind": "unavailable", "seconds": 0.2})
    with pytest.raises(httpx.TransportError):
        await client.list("pods")
    with pytest.raises(httpx.TransportError):
        await client.call("GET", "/version")

    async def is_available() -> bool:
        try:
            return (await client.list("pods")).status == 200
        except httpx.TransportError:
            return False

    await client.until(is_available)


async def open_watch(client: Client, query: str = "") -> asyncio.Task[Any]:
    """Open a watch. The task returns its events, or the error that ended it."""

    async def read() -> Any:
        try:
            return [event["type"] async for event in client.watch("services", query)]
        except httpx.TransportError as error:
            return error

    task = asyncio.create_task(read())

    async def is_open() -> bool:
        return bool((await client.call("GET", "/emulator/calls")).body.get("watch services"))

    await client.until(is_open)
    return task


async def test_unavailable_fault_cuts_open_watch(client: Client):
    watch = await open_watch(client)
    await client.faults({"kind": "unavailable"})
    async with asyncio.timeout(5):
        assert isinstance(await watch, httpx.TransportError)


async def test_watch_close_fault_ends_watch_after_its_events(client: Client, service: Make):
    watch = await open_watch(client)
    await client.create("services", service())
    await client.faults({"kind": "watch-close", "seconds": 0.05})
    async with asyncio.timeout(5):
        assert await watch == ["ADDED"]


async def test_watch_stall_fault_holds_events_until_cleared(client: Client, service: Make):
    watch = await open_watch(client, "timeoutSeconds=1")
    await client.faults({"kind": "watch-stall"})
    await client.create("services", service())
    done, _ = await asyncio.wait([watch], timeout=0.2)
    assert not done
    await client.faults()
    async with asyncio.timeout(5):
        assert await watch == ["ADDED"]


async def test_watch_expired_fault_sends_expired_event(client: Client):
    await client.faults({"kind": "watch-expired", "times": 1})
    [event] = [event async for event in client.watch("services", "resourceVersion=300")]
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert [event async for event in client.watch("services", "timeoutSeconds=1")] == []


async def test_deleted_faults_no_longer_strike(client: Client):
    await client.faults({"kind": "error"})
    assert (await client.call("DELETE", "/emulator/faults")).body == []
    assert (await client.list("pods")).status == 200


INVALID_RULES = [
    [{"kind": "unheard-of"}],
    [{"kind": "error", "colour": "red"}],
    [{"kind": "error", "name": "("}],
    {"kind": "error"},
]


@pytest.mark.parametrize("rules", INVALID_RULES)
async def test_invalid_rules_are_refused(client: Client, rules: Any):
    assert (await client.call("PUT", "/emulator/faults", rules)).status == 400


async def test_calls_are_counted_until_reset(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.list("pods")
    await client.list("pods")
    assert (await client.call("DELETE", "/emulator/calls")).body == {"create pods": 1, "list pods": 2}
    assert (await client.call("GET", "/emulator/calls")).body == {}
