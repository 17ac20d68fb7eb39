"""Misbehaviour on demand, as a client sees it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from deploy.local.emulator.client import Client

pytestmark = pytest.mark.anyio

Make = Callable[..., dict[str, Any]]


async def test_an_error_with_its_status(client: Client):
    await client.faults({"kind": "error", "status": 503, "retry_after": 2, "verb": "list", "resource": "pods"})
    answer = await client.list("pods")
    assert (answer.status, answer.body["reason"], answer.headers["Retry-After"]) == (503, "ServiceUnavailable", "2")
    assert (await client.list("services")).status == 200


async def test_too_many_requests_are_told_in_plain_text(client: Client):
    """As priority and fairness does: no Status to read."""
    await client.faults({"kind": "error", "status": 429, "retry_after": 1})
    answer = await client.list("pods")
    assert (answer.status, answer.body) == (429, "Too many requests, please try again later.\n")
    assert answer.headers["Retry-After"] == "1"


async def test_as_often_as_asked(client: Client):
    await client.faults({"kind": "error", "status": 500, "times": 2})
    statuses = [(await client.list("pods")).status for _ in range(4)]
    assert statuses == [500, 500, 200, 200]
    [rule] = (await client.call("GET", "/emulator/faults")).body
    assert rule["struck"] == 2


async def test_a_share(client: Client):
    await client.faults({"kind": "error", "share": 0.5})
    statuses = [(await client.list("pods")).status for _ in range(60)]
    assert 10 < statuses.count(500) < 50


async def test_by_name(client: Client, pod: Make):
    await client.faults({"kind": "error", "verb": "create", "name": "^bad-"})
    assert (await client.create("pods", pod("bad-1"))).status == 500
    assert (await client.create("pods", pod("good-1"))).status == 201


async def test_what_is_forbidden_is_no_permission(client: Client):
    """As long as each such request is refused, and not one now and then."""
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
    asked = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
    answer = await client.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", asked)
    assert answer.status == 201
    reviewed: dict[str, Any] = answer.body
    return reviewed


@pytest.mark.parametrize("kind", ["error", "reset"])
async def test_a_write_whose_answer_is_lost(client: Client, pod: Make, kind: str):
    """The Pod is there, though the client was told otherwise."""
    await client.faults({"kind": kind, "verb": "create", "after": True, "times": 1})
    try:
        assert (await client.create("pods", pod())).status == 500
    except httpx.TransportError:
        assert kind == "reset"
    assert (await client.get("pods", "p")).status == 200
    assert (await client.create("pods", pod())).status == 409


async def test_a_reset_before_the_write(client: Client, pod: Make):
    await client.faults({"kind": "reset", "verb": "create", "times": 1})
    with pytest.raises(httpx.TransportError):
        await client.create("pods", pod())
    assert (await client.get("pods", "p")).status == 404


async def test_a_delay(client: Client):
    await client.faults({"kind": "delay", "seconds": 0.1, "times": 1})
    began = time.monotonic()
    await client.list("pods")
    assert time.monotonic() - began >= 0.1


async def test_unavailable_for_a_while(client: Client):
    await client.faults({"kind": "unavailable", "seconds": 0.2})
    with pytest.raises(httpx.TransportError):
        await client.list("pods")
    with pytest.raises(httpx.TransportError):
        await client.call("GET", "/version")

    async def back() -> bool:
        try:
            return (await client.list("pods")).status == 200
        except httpx.TransportError:
            return False

    await client.until(back)


async def opened(client: Client, query: str = "") -> asyncio.Task[Any]:
    """A watch that has begun, being read to its end: its events, or the error that ended it."""

    async def read() -> Any:
        try:
            return [event["type"] async for event in client.watch("services", query)]
        except httpx.TransportError as error:
            return error

    reading = asyncio.create_task(read())

    async def begun() -> bool:
        return bool((await client.call("GET", "/emulator/calls")).body.get("watch services"))

    await client.until(begun)
    return reading


async def test_a_watch_is_cut_with_everything_else(client: Client):
    watching = await opened(client)
    await client.faults({"kind": "unavailable"})
    async with asyncio.timeout(5):
        assert isinstance(await watching, httpx.TransportError)


async def test_a_watch_is_closed(client: Client, service: Make):
    watching = await opened(client)
    await client.create("services", service())
    await client.faults({"kind": "watch-close", "seconds": 0.05})
    async with asyncio.timeout(5):
        assert await watching == ["ADDED"]


async def test_a_watch_goes_silent_and_stays_open(client: Client, service: Make):
    watching = await opened(client, "timeoutSeconds=1")
    await client.faults({"kind": "watch-stall"})
    await client.create("services", service())
    done, _ = await asyncio.wait([watching], timeout=0.2)
    assert not done
    await client.faults()
    async with asyncio.timeout(5):
        assert await watching == ["ADDED"]


async def test_a_watch_is_told_that_its_version_expired(client: Client):
    await client.faults({"kind": "watch-expired", "times": 1})
    [event] = [event async for event in client.watch("services", "resourceVersion=300")]
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert [event async for event in client.watch("services", "timeoutSeconds=1")] == []


async def test_cleared(client: Client):
    await client.faults({"kind": "error"})
    assert (await client.call("DELETE", "/emulator/faults")).body == []
    assert (await client.list("pods")).status == 200


WRONG = [
    [{"kind": "unheard-of"}],
    [{"kind": "error", "colour": "red"}],
    [{"kind": "error", "name": "("}],
    {"kind": "error"},
]


@pytest.mark.parametrize("rules", WRONG)
async def test_rules_that_are_none(client: Client, rules: Any):
    assert (await client.call("PUT", "/emulator/faults", rules)).status == 400


async def test_calls_are_counted(client: Client, pod: Make):
    await client.create("pods", pod())
    await client.list("pods")
    await client.list("pods")
    assert (await client.call("DELETE", "/emulator/calls")).body == {"create pods": 1, "list pods": 2}
    assert (await client.call("GET", "/emulator/calls")).body == {}
